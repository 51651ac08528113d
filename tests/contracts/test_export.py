import numpy as np
import pytest

from export.formats import onnx
from export.formats import tflite
from tests.contracts.parts import batch
from tests.contracts.parts import least_db
from tests.contracts.parts import shared_model
from tests.export.networks import sqnr_db
from tests.specs import each

pytestmark = pytest.mark.export

# Parts take numbers of any range, not the raw pixels of a deployable model.
INT8 = {tflite: {"variant": "int8", "input_type": "float32"}, onnx: {"variant": "int8"}}
formats = pytest.mark.parametrize("fmt", INT8, ids=lambda fmt: fmt.__name__.rsplit(".", 1)[-1])


@formats
@each("layer", "activation", "block", "model")
def test_export_parity(spec, fmt, tmp_path):
    model = shared_model(spec)
    x = batch(spec, n=3)
    path = fmt.write(model, tmp_path / "part")
    want = np.asarray(model(x, training=False))
    np.testing.assert_allclose(fmt.run(path, x), want, atol=spec.atol, rtol=1e-4)


@formats
@each("layer", "activation", "block", "model")
def test_int8_parity(spec, fmt, tmp_path):
    model = shared_model(spec)
    x = batch(spec, n=32)
    # Calibrated on what is compared: the contract is about kernels, not about choosing samples.
    path = fmt.write(model, tmp_path / "part", calibration=x, **INT8[fmt])
    want = np.asarray(model(x, training=False))
    assert sqnr_db(want, fmt.run(path, x)) >= least_db(model)
