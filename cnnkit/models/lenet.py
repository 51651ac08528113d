"""The LeNet family, on which compression papers measure themselves."""

from dataclasses import dataclass

import keras
from keras import layers

from cnnkit.models import arguments
from cnnkit.registry import register

MNIST = (28, 28, 1)


@dataclass(frozen=True)
class Variant:
    """What tells one LeNet from another.

    Attributes:
        filters: Channels of the 5x5 convolutions, each followed by 2x2 pooling.
        padding: Of the first convolution; the others have none.
        unpadded: Least height and width that this padding leaves something of. Smaller
            pictures are padded at every convolution.
        pooling: Keras layer class.
        conv_activation: After each convolution.
        units: Widths of the hidden dense layers.
        activation: After each hidden dense layer.
    """

    filters: tuple[int, ...]
    padding: str
    unpadded: int
    pooling: type
    conv_activation: str | None
    units: tuple[int, ...]
    activation: str


VARIANTS = {
    "lenet300": Variant((), "valid", 1, layers.MaxPooling2D, None, (300, 100), "relu"),
    "lenet5": Variant((6, 16), "same", 12, layers.AveragePooling2D, "tanh", (120, 84), "tanh"),
    "lenet5_caffe": Variant((20, 50), "valid", 16, layers.MaxPooling2D, None, (500,), "relu"),
}


def _build(name: str, input_shape: tuple[int, int, int], classes: int, width: float) -> keras.Model:
    variant = VARIANTS[name]
    shape = arguments.image_shape(name, input_shape, 2 ** len(variant.filters))
    classes = arguments.class_count(name, classes)
    small = min(shape[:2]) < variant.unpadded
    x = inputs = keras.Input(shape, name="image")
    for i, filters in enumerate(arguments.scaled(name, width, variant.filters), 1):
        x = layers.Conv2D(
            filters,
            5,
            padding="same" if small else variant.padding if i == 1 else "valid",
            activation=variant.conv_activation,
            name=f"conv{i}",
        )(x)
        x = variant.pooling(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(arguments.scaled(name, width, variant.units), 1):
        x = layers.Dense(units, activation=variant.activation, name=f"fc{i}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


@register("model")
def lenet300(
    input_shape: tuple[int, int, int] = MNIST, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """LeNet-300-100: two hidden dense layers, 266,610 parameters on MNIST.

    Args:
        input_shape: `(height, width, channels)` of the pictures, of any size.
        classes: Number of outputs, at least 2.
        width: Multiplies the widths of the hidden layers, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition",
        section III.C.4, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.
        Differs: ReLU, as in the compression papers; the original has a scaled tanh.
    """
    return _build("lenet300", input_shape, classes, width)


@register("model")
def lenet5(
    input_shape: tuple[int, int, int] = MNIST, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """LeNet-5 in its shape of 1998: tanh and average pooling, 61,706 parameters on MNIST.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels and units, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition",
        section II.B, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.
        Differs: the first convolution pads by 2, which makes 32x32 of 28x28; the second sees all
        six maps, not those of table I; pooling has no weights and no squashing; tanh is not
        scaled; C5 is dense, which is the same at 28x28; logits take the place of the RBF units;
        pictures of less than 12x12 are padded at the second convolution too.
    """
    return _build("lenet5", input_shape, classes, width)


@register("model")
def lenet5_caffe(
    input_shape: tuple[int, int, int] = MNIST, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """LeNet-5 of Caffe: max pooling, one ReLU, 431,080 parameters on MNIST.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels and units, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Jia et al. 2014, "Caffe", examples/mnist/lenet.prototxt,
        https://arxiv.org/abs/1408.5093. Differs: Glorot's uniform start by fan-in and fan-out,
        where Caffe's is by fan-in alone; pooling rounds odd sizes down, Caffe's up; pictures of
        less than 16x16 are padded at both convolutions.
    """
    return _build("lenet5_caffe", input_shape, classes, width)
