import io
import os
import zipfile
import zlib

import numpy as np
import pytest

from export import ledger
from tests.export import corners


def test_the_row_of_a_model_counts_by_hand():
    model = corners.network(end="deployable")
    row = ledger.of_model("original", model, 0.5)
    first, second, dense = 9 * 8 + 8, 9 * 8 * 8 + 8, 16 * 8 * 3 + 3
    assert row.params == row.nonzeros == first + second + dense
    assert row.macs == 64 * 9 * 8 + 64 * 9 * 8 * 8 + 16 * 8 * 3
    # The two convolutions' outputs are alive at once: 64 pixels, 8 channels, 4 bytes each.
    assert row.activation_bytes == 2 * 64 * 8 * 4
    assert (row.name, row.accuracy, row.latency_ms) == ("original", 0.5, None)
    assert row.size_bytes > 4 * row.params  # float32 and the config


def test_zeros_are_counted_and_compress():
    model = corners.network(end="deployable")
    dense = ledger.of_model("dense", model)
    kernel, bias = model.get_layer("second").get_weights()
    kernel[:, :, :, :4] = 0
    model.get_layer("second").set_weights([kernel, bias])
    sparse = ledger.of_model("sparse", model)
    assert sparse.params == dense.params
    assert sparse.nonzeros == dense.nonzeros - 9 * 8 * 4
    assert sparse.zip_bytes < dense.zip_bytes - 700  # of 4 * 288 bytes


def test_size_of_a_file_and_its_zip(tmp_path):
    content = b"cnn" * 1000 + os.urandom(100)
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    size, zipped = ledger.sizes(path)
    assert size == len(content)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = len(packed.compress(content) + packed.flush())
    # The headers of the zip format: 30 and 46 bytes, the name in both, and 22 at the end.
    assert zipped == deflated + 30 + 46 + 2 * len(path.name) + 22


def test_size_of_a_folder_is_that_of_all_its_files(tmp_path):
    folder = tmp_path / "serving" / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"a" * 500)
    (folder / "variables" / "data").write_bytes(b"b" * 70)
    (tmp_path / "serving" / "beside").write_bytes(b"not in it")
    size, zipped = ledger.sizes(folder)
    assert size == 570
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(folder / "saved_model.pb", "1/saved_model.pb")
        archive.write(folder / "variables" / "data", "1/variables/data")
    assert zipped == len(file.getvalue())


def test_a_file_from_before_zip_knew_dates(tmp_path):
    """Reproducible images and some archives set every date to 1970."""
    path = tmp_path / "old"
    path.write_bytes(b"x")
    os.utime(path, (0, 0))
    assert ledger.sizes(path)[0] == 1


def test_latency_is_that_of_one_picture():
    shapes = []
    took = ledger.latency_ms(lambda x: shapes.append(x.shape), np.zeros((8, 8, 1)))
    assert 0 < took < 100
    assert set(shapes) == {(1, 8, 8, 1)}


def test_accuracy_is_the_fraction_of_right_answers():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.7, 0.3], [0.2, 0.8]])
    assert ledger.accuracy(probabilities, np.array([0, 1, 1, 1])) == 0.75
    assert ledger.accuracy(probabilities[:0], np.array([], int)) is None


def test_a_row_becomes_json_and_back():
    row = ledger.Row("a", params=3, accuracy=0.25)
    assert ledger.Row(**row.to_dict()) == row


@pytest.mark.export
def test_every_artifact_has_its_size(bundle):
    for row in bundle.manifest["verdicts"]:
        path = bundle.folder / row["path"]
        inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        # TF Serving's warm-up records come after the verdict, once the file may be served.
        measured = [p for p in inside if p.name != "tf_serving_warmup_requests"]
        assert row["size_bytes"] == sum(p.stat().st_size for p in measured)
        assert 0 < row["zip_bytes"] < row["size_bytes"]
