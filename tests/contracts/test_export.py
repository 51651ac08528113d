import numpy as np
import pytest

from export.formats import onnx
from export.formats import tflite
from tests.contracts.parts import as_model
from tests.contracts.parts import batch
from tests.specs import each

pytestmark = pytest.mark.export


@pytest.mark.parametrize("fmt", [tflite, onnx], ids=["tflite", "onnx"])
@each("layer", "activation", "model")
def test_export_parity(spec, fmt, tmp_path):
    model = as_model(spec)
    x = batch(spec, n=3)
    path = fmt.write(model, tmp_path / f"m.{fmt.__name__.rsplit('.', 1)[-1]}")
    want = np.asarray(model(x, training=False))
    np.testing.assert_allclose(fmt.run(path, x), want, atol=spec.atol, rtol=1e-4)


@each("layer", "activation", "model")
def test_int8_parity(spec, tmp_path):
    model = as_model(spec)
    x = batch(spec, n=64)
    path = tflite.write(model, tmp_path / "m.tflite", int8_samples=x[:16])
    want = np.asarray(model(x, training=False))
    got = np.concatenate([tflite.run(path, x[i : i + 1]) for i in range(len(x))])
    sqnr_db = 10 * np.log10(np.square(want).sum() / np.square(want - got).sum())
    assert sqnr_db >= 25.0
