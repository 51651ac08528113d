import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.analysis.deconvnet import deconvnet
from cnnkit.errors import UsageError
from tests.analysis import corner


def strongest_alone(maps, channel):
    """Returns the maps with all but the strongest activation of a channel set to zero."""
    alone = np.zeros_like(maps)
    for k, one in enumerate(maps[..., channel]):
        place = np.unravel_index(one.argmax(), one.shape)
        alone[(k, *place, channel)] = one[place]
    return alone


def transposed(maps, kernel, padding):
    return np.asarray(keras.ops.conv_transpose(maps, kernel, 1, padding))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_of_a_linear_convolution_is_the_transposed_convolution(padding):
    """3.1.3"""
    keras.utils.set_random_seed(0)
    image = keras.Input((7, 7, 2), name="image")
    conv = layers.Conv2D(3, 3, padding=padding, name="conv")
    model = keras.Model(image, conv(image))
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 2)).astype("float32")
    alone = strongest_alone(model.predict(x, verbose=0), 1)
    want = transposed(alone, conv.kernel, padding)
    np.testing.assert_allclose(deconvnet(model, x, "conv", 1), want, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_chain_goes_back_through_switches_and_relus(fused):
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1), name="image")
    first = layers.Conv2D(4, 3, padding="same", name="one", activation="relu" if fused else None)
    x = first(image)
    x = x if fused else layers.ReLU(name="relu")(x)
    norm = layers.BatchNormalization(name="bn")
    x = layers.MaxPooling2D(2, name="pool")(norm(x))
    second = layers.Conv2D(3, 3, padding="same", use_bias=False, name="two")
    model = keras.Model(image, second(x))
    first.bias.assign(np.full(4, 5.0))  # no window of zeros, which would have no one maximum
    norm.set_weights([np.full(4, 2.0), np.zeros(4), np.zeros(4), np.full(4, 1.0)])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")

    before = keras.Model(image, norm.output).predict(x, verbose=0)
    pooled = before.reshape(2, 4, 2, 4, 2, 4).max((2, 4))
    top = strongest_alone(model.predict(x, verbose=0), 0)
    back = np.repeat(np.repeat(transposed(top, second.kernel, "same"), 2, 1), 2, 2)
    switches = before == np.repeat(np.repeat(pooled, 2, 1), 2, 2)
    scale = np.float32(2 / np.sqrt(1 + norm.epsilon))
    unpooled = np.where(switches, back, 0) * scale
    want = transposed(np.maximum(unpooled, 0), first.kernel, "same")
    assert (unpooled < 0).any()
    np.testing.assert_allclose(deconvnet(model, x, "two", 0), want, atol=1e-4)


def test_shows_the_line_that_the_channel_looks_for():
    pixels = deconvnet(corner.net(), corner.pictures()[:1], "relu", 0)[0, ..., 0]
    assert pixels[1:7, 3].max() == pixels.max() > 0
    assert np.abs(pixels[8:, 8:]).max() == 0
    last = deconvnet(corner.net(), corner.pictures()[:1], None, 0)
    np.testing.assert_array_equal(last[0, ..., 0], pixels)


def test_errors():
    model, x = corner.net(), corner.pictures()
    with pytest.raises(UsageError, match=r"Unknown layer 'con'.*conv"):
        deconvnet(model, x, "con", 0)
    with pytest.raises(UsageError, match="no maps to look at: logits"):
        deconvnet(model, x, "logits", 0)
    with pytest.raises(ValueError, match=r"`channel` of deconvnet must be an integer in \[0, 1\]"):
        deconvnet(model, x, "conv", 2)
