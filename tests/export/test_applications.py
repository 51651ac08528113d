import inspect

import keras
import pytest

from benchmarks import applications


def test_the_table_names_every_application():
    functions = inspect.getmembers(keras.applications, inspect.isfunction)
    assert sorted(applications.NAMES.split()) == sorted(name for name, _ in functions)
    assert set(applications.GIANTS.split()) < set(applications.NAMES.split())


def test_rows_of_other_models_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(applications, "TABLE", tmp_path / "table.md")
    good = applications.Row("VGG16", 32, 10**6, *[0.5] * 4, *[0.0, 0.0], True, *[1e-5, 1e-6])
    applications.write([good])
    applications.write([applications.Row("DenseNet121", 32, reason="no memory")])
    lines = applications.TABLE.read_text().splitlines()
    assert "1 of 2 are good, out of 40" in lines[2]
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| DenseNet121", "| VGG16"]
    assert lines[-2].endswith("| no memory |")
    assert lines[-1].endswith("| good |")


@pytest.mark.export
@pytest.mark.slow
def test_a_real_network_comes_out_smaller_and_the_same():
    row = applications.run("MobileNetV3Small")
    assert row.good, str(row)
    assert row.params_ratio > 0.4
