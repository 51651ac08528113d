"""Highway networks: gates decide how much of its input each layer passes on."""

import keras
from keras import layers

from cnnkit.blocks import highway_conv
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

MNIST = (28, 28, 1)
# Three poolings halve the picture.
SMALLEST = 8


def _build(
    name: str,
    input_shape: tuple[int, int, int] = MNIST,
    classes: int = 10,
    *,
    width: float = 1.0,
    gate_bias: float = -2.0,
) -> keras.Model:
    """A convolution, eight highway convolutions with pooling after every third, a dense layer.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 8x8.
        classes: Number of outputs, at least 2.
        width: Multiplies the 16 channels, positive; the paper's wider network has 2.
        gate_bias: Of every gate before training, in [-10, 0]; the authors' network has -1.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Srivastava et al. 2015, "Training Very Deep Networks", table 1: 39K (width 1) and 151K
        (width 2) parameters, https://arxiv.org/abs/1507.06228. Pooling after every third layer is
        of the authors' own network, mnist-10layers in
        https://github.com/flukeskywalker/highway-networks. Differs: theirs begins with a
        convolution of 5x5 without padding, pools 3x3 windows twice and has dropout; with 38,986
        and 151,690 it is 256 and 512 parameters larger. Ours takes pictures of 8x8 too.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    (filters,) = arguments.scaled(name, width, (16,))
    x = inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(
        filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name="conv1"
    )(x)
    for i in range(2, 10):
        x = highway_conv(x, gate_bias=gate_bias, name=f"highway{i}")
        if i % 3 == 0:
            x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


register_all(
    _build, {"highway10": "Convolutional highway network of ten layers: 38,730 parameters."}
)
