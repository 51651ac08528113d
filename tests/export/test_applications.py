import dataclasses
import inspect

import keras
import pytest

from benchmarks import applications
from benchmarks import applications_int8
from benchmarks import zoo


def test_the_table_names_every_application():
    functions = inspect.getmembers(keras.applications, inspect.isfunction)
    assert sorted(zoo.NAMES.split()) == sorted(name for name, _ in functions)
    assert set(zoo.GIANTS.split()) < set(zoo.NAMES.split())


def good_pruning(name):
    measured = {"zeroed": 0.0, "reloaded": 0.0, "tflite": 1e-5, "onnx": 1e-6}
    return applications.Row(name, 32, 10**6, trained=True, **measured)


def good_int8(name):
    measured = {"size_bytes": 1000, "close": 1.0, "agreement": 1.0, "sqnr_db": 30.0}
    files = dict.fromkeys(applications_int8.FILES, measured)
    return applications_int8.Row(name, 32, 10**6, finite=True, files=files)


@pytest.mark.parametrize(
    ("table", "make"),
    [(applications.TABLE, good_pruning), (applications_int8.TABLE, good_int8)],
    ids=["pruning", "int8"],
)
def test_rows_of_other_models_stay(table, make, tmp_path):
    table = dataclasses.replace(table, path=tmp_path / "table.md")
    table.write([make("VGG16")])
    table.write([table.row("DenseNet121", 32, reason="no memory")])
    lines = table.path.read_text().splitlines()
    assert "1 of 2 are good, out of 40" in lines[2]
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| DenseNet121", "| VGG16"]
    assert lines[-2].endswith("| no memory |")
    assert lines[-1].endswith("| good |")
    assert len({line.count("|") for line in lines[4:]}) == 1


@pytest.mark.export
@pytest.mark.slow
def test_a_real_network_comes_out_smaller_and_the_same():
    row = applications.TABLE.run("MobileNetV3Small")
    assert row.good, str(row)
    assert row.params_ratio > 0.4
