import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.layers import LocalResponseNormalization
from export.formats import flatbuffer
from export.formats import onnx
from export.formats import tflite
from tests.contracts.parts import as_model
from tests.specs import Spec

SPECS = (
    Spec(
        "layer",
        "LocalResponseNormalization",
        lambda: LocalResponseNormalization(k=1.5, n=3, alpha=0.5, beta=0.6),
    ),
)


def picture(channels=7):
    return np.random.default_rng(0).normal(size=(2, 3, 5, channels)).astype("float32") * 10


def loop(x, k, n, alpha, beta):
    """Equation 3.1 of the book, word for word."""
    b, channels = np.empty_like(x), x.shape[-1]
    for d in range(channels):
        near = range(max(0, d - n // 2), min(channels - 1, d + n // 2) + 1)
        b[..., d] = x[..., d] / (k + alpha * sum(x[..., t] ** 2 for t in near)) ** beta
    return b


OPTIONS = [
    {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75},  # AlexNet's
    {"k": 1.0, "n": 3, "alpha": 0.3, "beta": 0.5},
    {"k": 1.0, "n": 1, "alpha": 2.0, "beta": 1.0},
    {"k": 0.5, "n": 99, "alpha": 1.0, "beta": 0.25},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"n={o['n']}")
@pytest.mark.parametrize("rank", [4, 2])
def test_matches_the_loop(options, rank):
    x = picture() if rank == 4 else picture().reshape(-1, 7)
    layer = LocalResponseNormalization(**options)
    want = loop(x.astype("float64"), **options)
    np.testing.assert_allclose(layer(x), want, rtol=1e-5)
    # On operations of Keras only, as on JAX.
    exact = LocalResponseNormalization(**options, dtype="float64")(x.astype("float64"))
    np.testing.assert_allclose(exact, want, rtol=1e-12)


def test_is_tensorflows():
    x = picture()
    want = tf.nn.local_response_normalization(x, depth_radius=2, bias=2, alpha=1e-4, beta=0.75)
    np.testing.assert_array_equal(LocalResponseNormalization()(x), want)


def test_gradient_is_the_same_on_both_ways():
    gradients = []
    for dtype in ("float32", "float64"):
        x = tf.constant(picture(), dtype)
        layer = LocalResponseNormalization(k=1.0, n=3, alpha=0.01, beta=0.75, dtype=dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        gradients.append(tape.gradient(loss, x).numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_l2_normalization_is_a_special_case():
    x = picture()
    layer = LocalResponseNormalization(k=0.0, n=15, alpha=1.0, beta=0.5)
    np.testing.assert_allclose(layer(x), keras.layers.UnitNormalization()(x), rtol=1e-5)


def test_is_one_operation_of_the_runtimes(tmp_path):
    import onnx as onnx_files

    model = as_model(SPECS[0])
    path = tflite.write(model, tmp_path / "net.tflite")
    assert b"LocalResponse" not in path.read_bytes()  # no custom op
    assert operators(path) == ["LOCAL_RESPONSE_NORMALIZATION"]
    nodes = onnx_files.load(str(onnx.write(model, tmp_path / "net.onnx"))).graph.node
    (lrn,) = [node for node in nodes if node.op_type == "LRN"]
    found = {a.name: a.i or a.f for a in lrn.attribute}
    # ONNX divides alpha by the size.
    assert found["size"] == 3
    assert found["alpha"] == pytest.approx(3 * 0.5)
    assert (found["bias"], found["beta"]) == pytest.approx((1.5, 0.6))


def operators(path):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path))
    return [op["op_name"] for op in runner._get_ops_details() if op["op_name"] != "DELEGATE"]


def test_stays_float_in_an_integer_file_and_is_named(tmp_path):
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    model = keras.Model(image, LocalResponseNormalization(name="norm")(x))
    x = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 4)).astype("float32")
    path = tflite.write(
        model, tmp_path / "net", variant="int8", calibration=x, input_type="float32"
    )
    assert flatbuffer.float_ops(path.read_bytes()) == ["LOCAL_RESPONSE_NORMALIZATION"]
    assert "for want of an int8 kernel: 1 LOCAL_RESPONSE_NORMALIZATION" in tflite.notes(path)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 4}, "`n` of LocalResponseNormalization must be odd"),
        ({"n": 0}, "`n` of LocalResponseNormalization must be an integer >= 1"),
        ({"k": -1.0}, r"`k` of LocalResponseNormalization must be in \[0.0, inf\)"),
        ({"alpha": -1.0}, r"`alpha` of LocalResponseNormalization must be in \[0.0, inf\)"),
        ({"beta": float("inf")}, r"`beta` of LocalResponseNormalization must be in \[0.0, inf\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LocalResponseNormalization(**options)
