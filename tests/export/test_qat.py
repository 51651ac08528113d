"""Quantization-aware training: the grids, where they are, and that files compute the same."""

import json
import re
import sys
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.layers import LocalResponseNormalization
from cnnkit.layers import MeanImage
from cnnkit.layers import RReLU
from cnnkit.training.recipe import resolve
from export import bundle
from export import formats
from export import pipeline
from export.formats import onnx
from export.formats import tflite
from export.judging import Pictures
from export.judging import judge
from export.judging import simulate
from export.limits import Gates
from export.pipeline import PassData
from export.quantization import fake_quant
from export.quantization import qat
from export.quantization import ranges as learned
from export.quantization import twin as twins
from export.quantization.fake_quant import Range
from export.quantization.fake_quant import nudged
from export.quantization.plan import plan
from export.quantization.twin import Twin
from export.quantization.twin import frozen
from export.subject import open_subject
from export.verification import verify
from tests.contracts.parts import perturb
from tests.export.networks import everything
from tests.export.networks import sqnr_db


def deployable(body, shape=(16, 16, 3), scale=1 / 255, offset=0.0, end="softmax"):
    x = image = keras.Input(shape, name="image")
    x = layers.Rescaling(scale, offset, name="pixels")(x)
    x = body(x)
    if end == "softmax":
        x = layers.Softmax(name="probabilities")(x)
    return perturb(keras.Model(image, x, name="net"))


def lenet():
    return deployable(models.build("lenet5_caffe", (28, 28, 1), 10), (28, 28, 1))


def resnet():
    net = models.build("resnet8", (16, 16, 3), 10)
    return deployable(net, scale=1 / 127.5, offset=-1.0)


def mobile(end="softmax", last="relu6"):
    """Inverted residuals, as MobileNet has them."""

    def conv_bn(x, layer, activation, name):
        x = layers.BatchNormalization(name=f"{name}_bn")(layer(x))
        return layers.Activation(activation, name=f"{name}_act")(x) if activation else x

    def body(x):
        def conv(n, size, name, **options):
            return layers.Conv2D(n, size, padding="same", use_bias=False, name=name, **options)

        x = conv_bn(x, conv(8, 3, "stem", strides=2), "relu6", "stem")
        for i in range(2):
            skip = x
            x = conv_bn(x, conv(16, 1, f"expand{i}"), "relu6", f"expand{i}")
            depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depth{i}")
            x = conv_bn(x, depthwise, last, f"depth{i}")
            x = conv_bn(x, conv(8, 1, f"project{i}"), None, f"project{i}")
            x = layers.Add(name=f"add{i}")([x, skip])
        x = layers.GlobalAveragePooling2D(name="mean")(x)
        x = layers.Dropout(0.2, name="dropout")(x)
        return layers.Dense(10, name="logits")(x)

    return deployable(body, end=end)


def activations():
    """One of everything else."""

    def body(x):
        x = layers.SeparableConv2D(8, 3, activation="silu", name="separable")(x)
        x = layers.Conv2D(8, 3, activation="hard_swish", name="hard_swish")(x)
        x = layers.Conv2D(8, 3, activation="tanh", name="tanh")(x)
        x = keras.ops.hard_sigmoid(layers.Conv2D(8, 1, activation="hard_sigmoid", name="hard")(x))
        a = layers.Conv2D(8, 3, padding="same", activation="gelu", name="gelu")(x)
        b = layers.LeakyReLU(name="leaky")(layers.Conv2D(8, 1, name="before_leaky")(x))
        b = keras.ops.silu(b)
        b = layers.ReLU(max_value=1.0, name="clipped")(b)
        c = layers.AveragePooling2D(3, strides=1, padding="same", name="average")(x)
        x = layers.Add(name="sum")([a, b, c])
        x = layers.BatchNormalization(name="alone")(x)
        x = layers.ZeroPadding2D(name="pad")(x)
        x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, name="twice")(x)
        x = layers.Flatten(name="flat")(x)
        x = layers.Dense(16, name="hidden")(x)
        x = layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(name="hidden_bn")(x))
        return layers.Dense(5, activation="softmax", name="scores")(x)

    return deployable(body, end="none")


def rows():
    """Convolutions along one axis, and transposed ones."""

    def body(x):
        x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)
        x = layers.ReLU(name="up_relu")(layers.BatchNormalization(name="up_bn")(x))
        x = layers.Conv2DTranspose(4, 2, activation="relu", name="plain_up")(x)
        x = layers.AveragePooling2D(4, name="average")(x)
        x = layers.Reshape((64, 4), name="rows")(x)
        x = layers.Conv1D(8, 3, padding="same", use_bias=False, name="along")(x)
        x = layers.ReLU(6.0, name="along_relu")(layers.BatchNormalization(name="along_bn")(x))
        x = layers.Conv1D(8, 3, strides=2, padding="causal", name="strided")(x)
        return layers.Dense(5, name="logits")(layers.GlobalAveragePooling1D(name="mean")(x))

    return deployable(body)


def scaled():
    """Scales of branches, as ConvNeXt and InceptionResNetV2 have them."""

    def body(x):
        x = skip = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
        x = layers.Dense(16, activation="gelu", name="wide")(x)
        x = LayerScale(0.5, 8, name="layer_scale")(layers.Dense(8, name="narrow")(x))
        x = skip = layers.Add(name="sum")([x, skip])
        x = layers.Conv2D(8, 1, name="branch")(LayerScale(2.0, 8, name="alone")(x))
        x = layers.ReLU(name="relu")(CustomScaleLayer(0.3, name="part")([skip, x]))
        return layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D(name="mean")(x))

    return deployable(body)


def randomized():
    """Layers of our own that have integer kernels."""

    def body(x):
        x = layers.Conv2D(8, 3, name="conv")(MeanImage(name="mean_image")(x))
        x = layers.Conv2D(8, 3, name="later")(RReLU(name="rrelu")(x))
        return layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D(name="mean")(x))

    return deployable(body)


def inputs(model, n=32, seed=0):
    """Half noise, half bright squares on dark ground."""
    shape = model.input_shape[1:]
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.float32)
    x[n // 2 :] *= 0.2
    x[n // 2 :, 4:10, 4:10] += 200
    return np.round(x)


def trained(model, x):
    twin = Twin(model)
    twin.observe(x)
    return twin, *twin.finalize()


def steps(limits):
    return (limits[1] - limits[0]) / 255


# The grids.


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 6.0), (-3.0, 0.1), (0.5, 7.0), (-2.0, -1.0)])
def test_zero_is_on_the_grid(limits):
    low, high = nudged(*limits)
    scale = (high - low) / 255
    assert low / scale == pytest.approx(round(low / scale), abs=1e-9)
    assert nudged(low, high) == pytest.approx((low, high))
    assert low <= min(limits[0], 0) + scale
    assert high >= max(limits[1], 0) - scale


def test_a_dead_tensor_gets_a_range_that_runtimes_accept():
    assert nudged(0.0, 0.0) == (0.0, 1.0)


def test_activations_are_on_the_grid_of_their_range():
    limits = nudged(-0.7, 2.9)
    x = np.random.default_rng(0).uniform(-2, 4, (50, 7)).astype(np.float32)
    scale, zero = steps(limits), round(-limits[0] / steps(limits))
    want = (np.clip(np.floor(x / scale + 0.5) + zero, 0, 255) - zero) * scale
    np.testing.assert_allclose(Range(limits)(x), want, atol=1e-6)


def test_ranges_are_means_at_first_and_moving_averages_later():
    layer, rng = Range(momentum=0.5), np.random.default_rng(0)
    low = high = 0.0
    for n in range(4):
        x = rng.normal(size=(10, 3)).astype(np.float32)
        layer(x, training=True)
        keep = min(0.5, n / (n + 1))
        low, high = keep * low + (1 - keep) * x.min(), keep * high + (1 - keep) * x.max()
        layer(100 * x, training=False)  # teaches nothing
    assert layer.learned() == pytest.approx(nudged(low, high), rel=1e-5)


def test_a_shared_range_holds_all_its_tensors():
    layer = Range(momentum=0.5, tensors=3)
    for _ in range(3):
        layer(np.array([-1.0, 0.5], np.float32), number=0, training=True)
        layer(np.array([0.0, 3.0], np.float32), number=1, training=True)
    assert layer.learned() == pytest.approx(nudged(-1.0, 3.0))


def test_means_between_two_steps_are_rounded_away_from_the_int8_zero():
    """As `AveragePool` of TFLite's int8 kernels does; 4 is 128 steps above the lower end."""
    layer = Range((0.0, 255 / 32))
    x = np.array([0.5, 1.5, 127.5, 128.5, 129.5, 0.75, 200.25]) / 32
    got = np.asarray(layer(x.astype(np.float32), average=True)) * 32
    np.testing.assert_allclose(got, [0, 1, 127, 129, 130, 1, 200])


def test_gradients_pass_inside_of_the_range_only():
    import tensorflow as tf

    x = tf.constant([[-3.0, -0.5, 0.5, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Range((-1.0, 127 / 128))(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [[0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (fake_quant.Conv1D(5, 3), (1, 8, 4), (0, 1)),
        (fake_quant.Conv2D(5, 3), (1, 8, 8, 4), (0, 1, 2)),
        (fake_quant.Conv2DTranspose(5, 3, strides=2), (1, 8, 8, 4), (0, 1, 3)),
        (fake_quant.DepthwiseConv2D(3, depth_multiplier=2), (1, 8, 8, 4), (0, 1)),
        (fake_quant.Dense(5), (1, 4), (0, 1)),
        (fake_quant.DensePerChannel(5), (1, 4), (0,)),
    ],
)
def test_kernels_are_on_a_symmetric_grid_without_minus_128(layer, shape, axes):
    layer.build(shape)
    kernel = np.asarray(layer.kernel, np.float64)
    scale = np.abs(kernel).max(axes, keepdims=True) / 127
    want = np.round(kernel / scale) * scale
    np.testing.assert_allclose(layer.rounded(), want, atol=1e-6)
    layer.freeze(0.01)
    np.testing.assert_allclose(layer.rounded(), want, atol=1e-6)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = layer(x)
    layer.kernel.assign(want)
    layer.plain = True
    np.testing.assert_allclose(got, layer(x), atol=1e-5)


def test_channels_of_zeros_stay_zero():
    layer = fake_quant.Conv2D(2, 1)
    layer.build((1, 4, 4, 3))
    kernel = np.stack([np.zeros((1, 1, 3)), np.ones((1, 1, 3))], -1)
    layer.set_weights([kernel, np.array([7.0, 0.0])])
    layer.freeze(1e-4)
    np.testing.assert_array_equal(layer.rounded()[..., 0], 0)
    # The bias of 7 is no more than 2^30 steps.
    assert 7 / (1e-4 * layer.frozen[0] / 127) <= 2**30


# Batch normalization.


def conv_bn():
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, name="conv")(x)
    return perturb(keras.Model(image, layers.BatchNormalization(name="bn")(x)))


def test_rounding_a_kernel_is_rounding_the_folded_kernel():
    model = conv_bn()
    gamma = model.get_layer("bn").gamma
    gamma.assign(np.array([1, -2, 0.5, -0.1, 3, 1e-3]))
    twin, plain, found = trained(model, inputs(model))
    folded = frozen(plain, found).get_layer("conv")
    norm = model.get_layer("bn")
    scale = gamma / np.sqrt(norm.moving_variance + norm.epsilon)
    rounded = twin.model.get_layer("conv").rounded()
    np.testing.assert_allclose(folded.rounded(), rounded * scale, rtol=1e-4, atol=1e-7)
    bias = (model.get_layer("conv").bias - norm.moving_mean) * scale + norm.beta
    step = np.abs(folded.kernel).max((0, 1, 2)) / 127
    assert (np.abs(folded.bias - bias) <= 0.5001 * step + 1e-6).all()


def test_training_normalizes_by_the_statistics_of_the_rounded_convolution():
    model = conv_bn()
    twin = Twin(model)
    x = inputs(model)
    conv, norm = twin.model.get_layer("conv"), twin.model.get_layer("bn")
    y = np.asarray(conv(x), np.float64)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    before = np.asarray(norm.moving_mean)
    want = (y - mean) / np.sqrt(variance + norm.epsilon) * norm.gamma + norm.beta
    got = twin.model(x, training=True)
    scale = (want.max() - min(want.min(), 0)) / 255
    wrong = np.abs(got - want) / scale
    assert wrong.max() <= 1.01  # at an end of the range, which was moved to have zero on the grid
    assert (wrong <= 0.51).mean() > 0.99
    np.testing.assert_allclose(norm.moving_mean, 0.99 * before + 0.01 * mean, rtol=1e-4)


# Where the grids are.


def test_grids_are_where_tflite_rounds():
    found = plan(everything())
    by_op = {op.path: found.grids.get(op.outputs[0]) for op in found.ops}
    assert by_op == {
        "pixels": "pixels",
        "stem": None,  # into stem_bn, and that with the ReLU
        "stem_bn": None,
        "stem_relu": "both",  # a concatenation and what it reads share a grid
        "depthwise": "depthwise",
        "grouped": None,
        "grouped.activation": "grouped.activation",
        "residual": "residual",
        "squeeze": "squeeze",
        "reduce": None,
        "reduce.activation": "reduce.activation",
        "excite": "excite",
        "excite.activation": "excite.activation",
        "gated": "both",
        "both": "both",
        "pool": "both",
        "flat": "both",
        "logits": "logits",
        "probabilities": "probabilities",
    }
    assert found.fixed["input"] == (0.0, 255.0)
    assert found.fixed["excite.activation"] == found.fixed["probabilities"] == (0.0, 255 / 256)


def test_a_tensor_with_two_readers_is_rounded_before_its_relu():
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="conv")(x)
    found = plan(keras.Model(image, layers.Add(name="add")([x, layers.ReLU(name="relu")(x)])))
    assert set(found.grids.values()) == {"input", "conv", "relu", "add"}


def test_pixels_do_not_fall_between_two_steps():
    """From -1 to 1 in 255 steps, zero is half a step away from all of them."""
    found = plan(resnet())
    q = (np.arange(256) / 127.5 - 1) / steps(found.fixed["pixels"])
    assert np.abs(q % 1 - 0.5).min() > 1e-3


def test_what_is_a_tensor_already_is_not_rounded_again():
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(2, 3, name="conv")(keras.ops.convert_to_tensor(x))
    found = plan(keras.Model(image, layers.Dense(3, name="logits")(layers.Flatten()(x))))
    assert found.floats == {}
    assert set(found.grids.values()) == {"input", "conv", "logits"}


def test_fixed_grids_are_left_alone_by_a_concatenation():
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    a = layers.Conv2D(4, 3, activation="sigmoid", name="a")(x)
    b = layers.Conv2D(4, 3, name="b")(x)
    model = perturb(keras.Model(image, layers.Concatenate(name="both")([a, b])))
    x = inputs(model)
    _, plain, found = trained(model, x)
    assert found["a.activation"] == (0.0, 255 / 256)
    assert set(found) == {"input", "pixels", "a", "a.activation", "both"}
    assert sqnr_db(np.asarray(model(x)), np.asarray(frozen(plain, found)(x))) > 30


# The twin.


@pytest.mark.parametrize("make", [everything, lenet, resnet, mobile, activations, rows, scaled])
def test_the_twin_is_close_to_the_model(make):
    model = make()
    x = inputs(model)
    twin, plain, found = trained(model, x)
    want = np.asarray(model(x))
    simulated = np.asarray(frozen(plain, found)(x))
    assert sqnr_db(want, np.asarray(twin.model(x))) > 25
    assert sqnr_db(want, simulated) > 25
    assert sqnr_db(want, np.asarray(plain(x))) > 30
    assert twin.floats == {}


def test_finalize_gives_a_plain_model_that_keras_alone_opens(tmp_path):
    model = everything()
    _, plain, _ = trained(model, inputs(model))
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    plain.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert set(re.findall(r'"module": "(\w+)', config)) == {"keras"}
    assert set(re.findall(r'"registered_name": (\w+|".*?")', config)) <= {"null", '"Functional"'}
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    x = inputs(model)
    np.testing.assert_array_equal(reloaded(x), plain(x))
    # What is rounded once stays as it is.
    again, _ = Twin(plain).finalize()
    for a, b in zip(plain.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_input_model_does_not_change():
    model = everything()
    before, nodes = model.get_weights(), [len(x._inbound_nodes) for x in model.layers]
    twin, *_ = trained(model, inputs(model))
    twin.model(inputs(model), training=True)
    twin.finalize()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nodes == [len(x._inbound_nodes) for x in model.layers]


def test_a_twin_may_be_deeper_than_python_recurses():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        x = image = keras.Input((2, 2, 1))
        for _ in range(600):
            x = layers.Activation("tanh")(x)
        model = Twin(keras.Model(image, layers.Flatten()(x))).model
        keras.Model(model.inputs, model.outputs)  # opened once more
    finally:
        sys.setrecursionlimit(limit)


def test_shared_layers_and_nested_models():
    conv = layers.Conv2D(3, 3, padding="same", name="twice")
    image = keras.Input((8, 8, 3), name="image")
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="in"), layers.ReLU()]
    )
    model = perturb(keras.Model(image, inner(conv(conv(image)))))
    x = inputs(model)
    twin, plain, found = trained(model, x)
    assert len(twin.model.trainable_weights) == 4
    assert sqnr_db(np.asarray(model(x)), np.asarray(frozen(plain, found)(x))) > 30
    assert plain.count_params() == model.count_params()


def test_sequential_models_and_operations():
    model = perturb(
        keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, name="c"), layers.Flatten(name="f")]
        )
    )
    x = inputs(model)
    y = keras.ops.relu(model.outputs[0] * 2.0)
    for net in (model, keras.Model(model.inputs[0], y)):
        _, plain, found = trained(net, x)
        assert sqnr_db(np.asarray(net(x)), np.asarray(frozen(plain, found)(x))) > 30


@pytest.mark.parametrize("kind", ["subclassed", "two outputs"])
def test_models_that_cannot_be_simulated_are_refused(kind):
    class Own(keras.Model):
        pass

    x = keras.Input((4,))
    model = Own() if kind == "subclassed" else keras.Model(x, [x, layers.ReLU()(x)])
    with pytest.raises(UsageError, match="Cannot simulate"):
        Twin(model)


def test_a_function_of_the_users_own_is_not_taken_for_a_known_one():
    def relu(x):
        return keras.ops.elu(x)

    image = keras.Input((8, 8, 3), name="image")
    for function in (relu, layers.LeakyReLU()):
        found = plan(keras.Model(image, layers.Conv2D(4, 3, activation=function, name="c")(image)))
        assert [op.kind for op in found.ops] == ["conv", "other"]
        assert list(found.floats) == ["c.activation"]


# Files.


def as_tflite(model, found, x, tmp_path):
    path = tflite.write(model, tmp_path / "model.tflite", variant="int8", ranges=found)
    return path, tflite.run(path, x)


@pytest.mark.export
@pytest.mark.parametrize("make", [everything, lenet, mobile, activations, rows, scaled, randomized])
def test_tflite_is_the_simulation(make, tmp_path):
    model = make()
    if isinstance(model.layers[-1], layers.Softmax):  # else one step of a logit would be many
        model = keras.Model(model.inputs[0], model.layers[-1].input)
    x = inputs(model, 128)
    twin, plain, found = trained(model, x)
    path, got = as_tflite(plain, found, x, tmp_path)
    step = steps(found[twin.plan.grids[twin.plan.output]])
    wrong = np.abs(got - np.asarray(frozen(plain, found)(x))) / step
    assert (wrong <= 1.001).mean() >= 0.999
    assert (wrong <= 0.001).mean() >= 0.8
    assert tflite.notes(path) == []
    (i,) = tflite.interpreter(path).get_input_details()
    assert i["dtype"] == np.uint8
    assert i["quantization"] == (1.0, 0)


@pytest.mark.export
def test_a_convolution_without_padding_takes_the_pixels_as_they_are(tmp_path, monkeypatch):
    model = deployable(models.build("lenet5_caffe", (28, 28, 1), 10), (28, 28, 1), 1 / 78, -33 / 78)
    x = inputs(model, 64)
    _, plain, found = trained(model, x)
    path, got = as_tflite(plain, found, x, tmp_path)
    size = path.stat().st_size
    assert len(set(got.argmax(1))) > 1
    monkeypatch.setattr(twins, "_takes_pixels", lambda op: False)
    path, want = as_tflite(plain, found, x, tmp_path)
    np.testing.assert_array_equal(got, want)
    assert size < path.stat().st_size - 300


@pytest.mark.export
@pytest.mark.parametrize("make", [everything, lenet, mobile, resnet, rows, scaled])
def test_onnx_has_int8_weights_and_agrees(make, tmp_path):
    import onnx as library

    model = make()
    x = inputs(model, 64)
    _, plain, found = trained(model, x)
    path = onnx.write(plain, tmp_path / "model.onnx", variant="int8", ranges=found)
    want = np.asarray(frozen(plain, found, target="onnx")(x))
    got = onnx.run(path, x)
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.999
    assert sqnr_db(want, got) > 30
    graph = library.load(str(path)).graph
    arrays = [library.numpy_helper.to_array(c) for c in graph.initializer]
    floats = sum(a.size for a in arrays if a.dtype == np.float32)
    assert sum(a.size for a in arrays if a.dtype == np.uint8) >= 0.9 * sum(
        w.size for w in plain.get_weights() if w.ndim > 1
    )
    assert floats < 0.5 * plain.count_params()


@pytest.mark.export
def test_onnx_convolves_raw_pixels_in_int8(tmp_path):
    """There the transposition of the pixels stands between their rounding and the kernel."""
    import onnx as library

    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, name="stem")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    model = perturb(keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x)))
    x = inputs(model)
    _, plain, found = trained(model, x)
    path = onnx.write(plain, tmp_path / "model.onnx", variant="int8", ranges=found)
    wrong = np.abs(onnx.run(path, x) - np.asarray(frozen(plain, found)(x))) / steps(found["mean"])
    assert (wrong <= 0.001).mean() >= 0.99
    graph = library.load(str(path)).graph
    kernels = [c.data_type for c in graph.initializer if len(c.dims) == 4]
    assert kernels == [library.TensorProto.UINT8] * 2


@pytest.mark.export
def test_a_layer_without_a_rule_stays_float_and_is_named(tmp_path):
    def body(x):
        x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
        x = LocalResponseNormalization(name="norm")(x)
        x = layers.Conv2D(8, 3, activation="elu", name="later")(x)
        return layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D(name="mean")(x))

    model = deployable(body)
    x = inputs(model)
    result = qat.apply(model, qat.Config(), PassData(x, None, lambda m: m))
    assert result.protected == [
        "norm: no int8 rule for LocalResponseNormalization",
        "later.activation: no int8 rule for elu",
    ]
    assert result.notes[1] == (
        "2 stay float32: no int8 rule for LocalResponseNormalization (1), no int8 rule for elu (1)"
    )
    path, got = as_tflite(result.model, result.ranges, x, tmp_path)
    want = np.asarray(frozen(result.model, result.ranges)(x))
    assert (np.abs(got - want) <= 1.001 / 256).mean() >= 0.999
    assert "float32" in tflite.notes(path)[0]


# The pass.


@pytest.fixture(scope="module")
def compressed(subject):
    return pipeline.compress(subject, ["qat:epochs=2,lr=0.001"])


def test_the_pass_trains(subject, compressed):
    (result,) = compressed.results
    before = subject.model.get_layer("first").kernel
    assert np.abs(result.model.get_layer("first").kernel - before).max() > 1e-3
    assert result.summary["float"] == 0
    assert compressed.ledger[-1].accuracy >= 0.9
    assert compressed.model is result.model, "it must not be trained without simulation"
    for layer in ("first", "second"):
        kernel = np.asarray(result.model.get_layer(layer).kernel)
        q = kernel / (np.abs(kernel).max((0, 1, 2)) / 127)
        np.testing.assert_allclose(q, np.round(q), atol=1e-3)


def test_the_ranges_travel(compressed, tmp_path):
    run = pipeline.write_run(compressed, tmp_path / "run")
    assert learned.load(run) == compressed.results[0].ranges
    opened = open_subject(run)
    assert opened.ranges == compressed.results[0].ranges
    alone = replace(opened, dataset=None)  # nothing to calibrate with
    written = bundle.write(alone, ["tflite-int8"], out=tmp_path / "bundle")
    assert written.artifacts == ["tflite-int8"]
    assert verify(written).ok
    x, _ = opened.dataset.arrays("test")
    got = tflite.run(tmp_path / "bundle/tflite/run_int8.tflite", x)
    want = np.asarray(frozen(opened.model, opened.ranges)(x.astype(np.float32)))
    # A step of a logit moves a probability by up to a quarter of it.
    assert np.abs(got - want).max() <= steps(opened.ranges["logits"]) / 2 + 1 / 256
    assert open_subject(tmp_path / "bundle").ranges == opened.ranges


def test_files_are_judged_by_the_simulation_not_by_the_float_model(compressed, tmp_path):
    """Narrow ranges clip: the float model, which does not, gives other answers."""
    narrow = {**compressed.subject.ranges, "second.activation": nudged(0.0, 0.1)}
    subject = replace(compressed.subject, ranges=narrow)
    x = subject.dataset.arrays("test")[0].astype(np.float32)
    float_classes = np.asarray(subject.model(x)).argmax(1)
    row = formats.get("tflite-int8")
    simulated = simulate(row, subject.model, narrow, x)
    assert (simulated.argmax(1) == float_classes).mean() < 0.95
    path = tmp_path / row.path("narrow")
    tflite.write(subject.model, path, variant="int8", ranges=narrow)
    pictures = Pictures(x, None, np.asarray(subject.model(x)))
    assert "agree" in judge(row, tmp_path, "narrow", pictures, Gates()).reason
    assert judge(row, tmp_path, "narrow", pictures, Gates(), simulated).ok
    assert simulate(formats.get("tflite"), subject.model, narrow, x) is None


def test_a_later_pass_drops_the_ranges(subject):
    recipe = resolve(compress={"finetune_epochs": 0}).recipe
    both = pipeline.compress(
        replace(subject, recipe=recipe), ["qat:epochs=0", "prune-filters:ratio=0.25"]
    )
    assert both.results[0].ranges
    assert both.subject.ranges is None


def test_zeros_stay_zero(subject):
    recipe = resolve(compress={"finetune_epochs": 0}).recipe
    done = pipeline.compress(
        replace(subject, recipe=recipe),
        ["prune-weights:ratio=0.5,epochs=0,measure=false", "qat:epochs=1"],
    )
    kernel = np.asarray(done.model.get_layer("second").kernel)
    assert (kernel == 0).mean() >= 0.45


def test_without_pictures_there_are_no_ranges(subject):
    with pytest.raises(UsageError, match="needs pictures"):
        qat.apply(subject.model, qat.Config(), None)


def test_ranges_of_another_model_are_refused(subject, compressed):
    with pytest.raises(UsageError, match="another model"):
        frozen(everything(), compressed.subject.ranges)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": [1, 2]}', '{"a": [0, NaN]}', '{"a": 3}'])
def test_damaged_ranges_are_refused(text, tmp_path):
    (tmp_path / learned.FILE).write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        learned.load(tmp_path)


def test_ranges_are_kept_exactly(tmp_path):
    found = {"a": nudged(-0.1, 0.7), "b": (0.0, 255 / 256)}
    learned.save(found, tmp_path)
    assert learned.load(tmp_path) == found
    assert json.loads((tmp_path / learned.FILE).read_text())["b"] == [0.0, 255 / 256]
    assert learned.load(tmp_path / "nowhere") is None
