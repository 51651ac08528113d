import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.models import APPLICATIONS
from cnnkit.models import build
from cnnkit.models.applications import imagenet
from cnnkit.models.applications import reverse_first_kernel
from cnnkit.models.applications import reversed_channels
from cnnkit.models.applications import statistics

SHAPE = (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "mean", "deviation", "bgr"),
    [
        ("VGG16", [123.68, 116.779, 103.939], [1, 1, 1], True),
        ("ResNet50", [123.68, 116.779, 103.939], [1, 1, 1], True),
        ("MobileNetV2", [127.5] * 3, [127.5] * 3, False),
        ("DenseNet121", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], False),
        ("MobileNetV3Small", [0, 0, 0], [1, 1, 1], False),
    ],
)
def test_pixels_as_its_preprocess_input(name, mean, deviation, bgr):
    found = statistics(APPLICATIONS + name)
    np.testing.assert_allclose(found, (mean, deviation), rtol=1e-5, atol=1e-9)
    assert reversed_channels(APPLICATIONS + name) == bgr


def test_weights_that_expect_bgr_give_the_same_features_of_rgb():
    keras.utils.set_random_seed(0)
    theirs = keras.applications.VGG16(
        weights=None, include_top=False, pooling="avg", input_shape=SHAPE
    )
    ours = build("keras.applications.VGG16", SHAPE, 4)
    features = keras.Model(ours.inputs[0], ours.layers[-1].input)
    features.set_weights(theirs.get_weights())
    reverse_first_kernel(ours)
    x = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype("float32")
    mean, deviation = map(np.array, statistics("keras.applications.VGG16"))
    found = features((x - mean) / deviation)
    expected = theirs(keras.applications.vgg16.preprocess_input(x.copy()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_names_are_those_of_a_fresh_session():
    first, second = (
        build("keras.applications.MobileNetV3Small", SHAPE, 4, width=0.75) for _ in range(2)
    )
    names = [layer.name for layer in first.layers]
    assert names == [layer.name for layer in second.layers]
    assert (names[0], names[-2], names[-1]) == ("image", "avg_pool", "logits")


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("MobileNetV9", SHAPE, {}, r"Unknown model.*Closest: keras\.applications\.MobileNetV"),
        ("VGG16", (32, 32, 1), {}, r"Expected 3 channels. Received 1. Set data\.channels=3"),
        ("VGG16", (16, 16, 3), {}, "Cannot build.*at least 32x32"),
        ("VGG16", SHAPE, {"width": 0.5}, r"one width: model\.width"),
        ("EfficientNetB0", SHAPE, {}, r"Use keras\.applications\.EfficientNetV2B0"),
    ],
)
def test_what_cannot_be_built(name, shape, options, message):
    with pytest.raises(UsageError, match=message):
        build(APPLICATIONS + name, shape, 4, **options)


def test_without_a_network_a_local_file_is_asked_for(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with (
        pytest.raises(UsageError, match=r"No weights of ImageNet.*name a local file of weights"),
        imagenet("keras.applications.MobileNet", SHAPE, 0.25),
    ):
        pass
