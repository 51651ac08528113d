import keras
import pytest
from keras import layers
from keras import ops

from cnnkit.analysis import macs
from cnnkit.errors import UsageError
from cnnkit.layers import BinaryConv2D
from cnnkit.layers import HashedConv2D


def counts(model):
    return {row.name: row.macs for row in macs.table(model) if row.macs}


def model_of(shape, *parts):
    return keras.Sequential([keras.Input(shape, name="image"), *parts])


def test_vgg16_is_the_books_30_9_gflop():
    # Chapter 3.2.2: 30.9 GFLOP at two per multiply-add, convolutions and dense layers only.
    vgg = keras.applications.VGG16(weights=None)
    assert macs.total(vgg) == 15_470_264_320
    assert round(2 * macs.total(vgg) / 1e9, 1) == 30.9
    assert macs.params(vgg) == 138_357_544


def test_resnet50_is_the_papers_3_8_gflop():
    # He et al. 2016, table 1: 3.8e9 multiply-adds; Keras' has its strides on the 1x1s too.
    resnet = keras.applications.ResNet50(weights=None)
    assert macs.total(resnet) == pytest.approx(3.86e9, rel=1e-3)
    assert sum(row.params for row in macs.table(resnet)) == resnet.count_params() == 25_636_712


def lenet5_caffe():
    return model_of(
        (28, 28, 1),
        layers.Conv2D(20, 5, name="conv1"),
        layers.MaxPooling2D(),
        layers.Conv2D(50, 5, name="conv2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(500, activation="relu", name="fc1"),
        layers.Dense(10, name="logits"),
    )


def test_lenet5_caffe_by_hand():
    assert counts(lenet5_caffe()) == {
        "conv1": 24 * 24 * 20 * (5 * 5 * 1),  # 288,000
        "conv2": 8 * 8 * 50 * (5 * 5 * 20),  # 1,600,000
        "fc1": 4 * 4 * 50 * 500,  # 400,000
        "logits": 500 * 10,  # 5,000
    }
    assert macs.total(lenet5_caffe()) == 2_293_000
    assert macs.params(lenet5_caffe()) == 520 + 25_050 + 400_500 + 5_010


def test_peak_memory_of_lenet5_caffe_by_hand():
    # At pool1: the 24x24x20 map and the 12x12x20 that is made from it.
    assert macs.peak_activation_bytes(lenet5_caffe()) == 4 * (11_520 + 2_880)
    assert macs.peak_activation_bytes(lenet5_caffe(), itemsize=1) == 14_400


def test_peak_memory_holds_a_skip_connection():
    image = keras.Input((4, 4, 2))
    wide = layers.Conv2D(8, 1)(image)
    out = layers.Concatenate()([image, layers.Conv2D(2, 1)(wide)])
    # While the second convolution runs: image 32, wide 128 and its output 32 values.
    assert macs.peak_activation_bytes(keras.Model(image, out)) == 4 * (32 + 128 + 32)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Conv1D(4, 3), (10, 2), 8 * 4 * (3 * 2)),
        (layers.Conv2D(4, (3, 2), strides=2, padding="same"), (5, 5, 2), 3 * 3 * 4 * (6 * 2)),
        (layers.Conv2D(8, 3, groups=4), (6, 6, 4), 4 * 4 * 8 * (9 * 1)),
        (layers.Conv2D(4, 3, dilation_rate=2), (7, 7, 2), 3 * 3 * 4 * (9 * 2)),
        (layers.Conv3D(2, 2), (3, 3, 3, 5), 8 * 2 * (8 * 5)),
        (layers.Conv1DTranspose(4, 3, strides=2), (5, 2), 5 * 2 * (3 * 4)),
        (layers.Conv2DTranspose(5, 3, strides=2), (4, 4, 8), 16 * 8 * (9 * 5)),
        (layers.Conv3DTranspose(2, 2), (2, 2, 2, 3), 8 * 3 * (8 * 2)),
        (layers.DepthwiseConv1D(3, depth_multiplier=2), (6, 4), 4 * 8 * 3),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4), 16 * 8 * 9),
        (layers.SeparableConv1D(6, 3), (6, 4), 4 * (4 * 3 + 4 * 6)),
        (layers.SeparableConv2D(6, 3, depth_multiplier=2), (6, 6, 4), 16 * (8 * 9 + 8 * 6)),
        (layers.Dense(7), (5,), 5 * 7),
        (layers.Dense(7), (3, 4, 5), 3 * 4 * 5 * 7),
        (layers.EinsumDense("abc,cd->abd", output_shape=(None, 7)), (3, 5), 3 * 5 * 7),
        (layers.EinsumDense("...x,xy->...y", output_shape=7), (3, 5), 3 * 5 * 7),
        (layers.TimeDistributed(layers.Conv2D(4, 3)), (2, 5, 5, 3), 2 * 9 * 4 * 27),
        (layers.BatchNormalization(), (6, 6, 4), 0),
        (layers.PReLU(), (6, 6, 4), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else str(value),
)
def test_a_layer_by_hand(layer, shape, expected):
    assert macs.total(model_of(shape, layer)) == expected


def test_channels_first():
    # Channels first needs no run here, only shapes.
    layer = layers.Conv2D(4, 3, data_format="channels_first")
    image = keras.Input((2, 6, 6))
    assert macs.total(keras.Model(image, layer(image))) == 16 * 4 * (9 * 2)


def test_a_shared_layer_costs_each_call_and_its_weights_once():
    image = keras.Input((6, 6, 3))
    shared = layers.Conv2D(3, 1, name="shared")
    rows = [r for r in macs.table(keras.Model(image, shared(shared(image)))) if r.macs]
    assert [(r.name, r.macs, r.params) for r in rows] == [("shared", 324, 12), ("shared", 324, 0)]


def test_a_nested_model_is_opened_at_the_size_it_is_called_with():
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Flatten()(inner(image)))
    (row,) = [r for r in macs.table(model) if r.macs]
    assert (row.name, row.kind, row.output_shape) == ("inner/conv", "Conv2D", (6, 6, 4))
    assert (row.macs, row.params) == (36 * 4 * 27, 4 * 27 + 4)


class Gate(layers.Layer):
    """A layer made of others and of operations."""

    def build(self, shape):
        self.inner = layers.Conv2D(shape[-1], 1)
        self.inner.build(shape)
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")

    def call(self, x):
        return ops.matmul(ops.sigmoid(self.inner(x)) * x, self.kernel)


def test_a_composite_layer_is_counted_through_its_call():
    assert macs.total(model_of((4, 4, 3), Gate())) == 16 * 3 * 3 + 16 * 3 * 5


def test_attention():
    x = keras.Input((7, 16))
    model = keras.Model(x, layers.MultiHeadAttention(num_heads=2, key_dim=8)(x, x))
    projections, scores = 4 * 7 * 16 * 16, 2 * 7 * 7 * 16
    assert macs.total(model) == projections + scores


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: ops.matmul(x, ops.ones((5, 7))), 3 * 5 * 7),
        (lambda x: ops.einsum("abc,cd->abd", x, ops.ones((5, 7))), 3 * 5 * 7),
        (lambda x: ops.tensordot(x, ops.ones((5, 7)), axes=1), 3 * 5 * 7),
        (lambda x: ops.conv(x, ops.ones((3, 5, 2)), padding="same"), 3 * 2 * 15),
        (lambda x: ops.relu(x) * 2 + x, 0),
    ],
    ids=["matmul", "einsum", "tensordot", "conv", "elementwise"],
)
def test_an_operation_by_hand(operation, expected):
    x = keras.Input((3, 5))
    assert macs.total(keras.Model(x, operation(x))) == expected


@pytest.mark.parametrize("layer", [HashedConv2D, BinaryConv2D])
def test_a_kernel_that_is_computed_counts_in_full(layer):
    image = keras.Input((6, 6, 4))
    model = keras.Model(image, layer(8, 3, padding="valid")(image))
    assert macs.total(model) == 16 * 8 * (9 * 4)


class Opaque(layers.Layer):
    """A layer whose call only TensorFlow can follow."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)

    def call(self, x):
        return x.numpy() @ self.kernel


def test_a_layer_that_cannot_be_seen_through_is_named():
    image = keras.Input((4, 4, 3))
    opaque = Opaque(name="mine")
    opaque.build((None, 4, 4, 3))
    model = keras.Model(image, opaque(image))
    with pytest.raises(UsageError, match="Cannot count the MACs of layer 'mine': Opaque"):
        macs.total(model)


class Scale(layers.Layer):
    """Has a vector only, which its call uses in a way of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x.numpy() * self.scale

    def compute_output_shape(self, shape):
        return shape


def test_a_layer_of_vectors_costs_nothing_if_it_cannot_be_seen_through():
    image = keras.Input((4, 4, 3))
    scale = Scale()
    scale.build((None, 4, 4, 3))
    assert macs.total(keras.Model(image, scale(image))) == 0


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize("model", [Subclassed(), keras.Sequential([layers.Dense(3)])])
def test_no_graph(model):
    with pytest.raises(UsageError, match="Cannot follow a model without a layer graph"):
        macs.total(model)


def test_unknown_size():
    with pytest.raises(UsageError, match=r"tensor of unknown size.*\(None, None, None, 3\)"):
        macs.total(model_of((None, None, 3), layers.Conv2D(4, 3)))


def test_counting_leaves_the_model_as_it_was():
    model = model_of((4, 4, 3), Gate())
    before = model.get_config()
    macs.table(model)
    assert model.get_config() == before
