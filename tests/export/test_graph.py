import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from benchmarks.silence import harmless
from benchmarks.silence import silenced
from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.layers import FeatureNormalization
from cnnkit.layers import LocalResponseNormalization
from cnnkit.layers import LpPooling2D
from cnnkit.layers import MeanImage
from cnnkit.layers import RReLU
from cnnkit.layers import StochasticPooling2D
from cnnkit.onednn import unit_strides
from export.graph import Graph
from tests.contracts.parts import perturb
from tests.export.networks import everything

SHAPE = (8, 8, 3)


def conv_bn(x, width, size=3, **options):
    x = layers.Conv2D(width, size, padding="same", use_bias=False, **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def finish(inputs, x, width=4):
    return keras.Model(inputs, layers.Dense(width, name="logits")(x))


def around(middle, width=8):
    """A convolution, `middle`, a convolution and a classifier."""
    inputs = keras.Input(SHAPE)
    x = middle(conv_bn(inputs, width))
    return finish(inputs, layers.GlobalAveragePooling2D()(conv_bn(x, 6)))


def chain():
    inputs = keras.Input(SHAPE)
    x = layers.MaxPooling2D(2)(conv_bn(inputs, 8))
    x = layers.Conv2D(6, 3, activation="tanh")(layers.ZeroPadding2D()(x))
    x = layers.Dense(10, activation="relu")(layers.Dropout(0.5)(layers.Flatten()(x)))
    return finish(inputs, x)


def sequential():
    model = keras.Sequential(
        [
            layers.Conv2D(8, 3, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    model.build((None, *SHAPE))
    return model


def residual():
    def middle(x):
        return layers.Add()([x, conv_bn(conv_bn(x, 5), 8)])

    return around(middle)


def pre_activation():
    def middle(x):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        return x + layers.Conv2D(8, 1)(layers.Conv2D(6, 3, padding="same")(y))

    return around(middle)


def dense_concat():
    def middle(x):
        for growth in (4, 3):
            x = layers.Concatenate()([x, conv_bn(layers.BatchNormalization()(x), growth)])
        return layers.Add()([x, conv_bn(x, 15)])

    return around(middle)


def concat_in_space():
    return around(lambda x: layers.Concatenate(axis=1)([x, conv_bn(x, 8)]))


def squeeze_excite():
    def middle(x):
        gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
        gate = layers.Conv2D(4, 1, activation="swish")(gate)
        return layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(gate)])

    return around(middle)


def squeeze_excite_dense():
    def middle(x):
        gate = layers.Dense(4, activation="relu")(layers.GlobalMaxPooling2D(keepdims=True)(x))
        return x * ops.relu6(layers.Dense(8)(gate) + 3.0) / 6.0

    return around(middle)


def mobile():
    def middle(x):
        y = conv_bn(x, 12, 1)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(y)))
        y = layers.Conv2D(8, 1)(layers.ZeroPadding2D(1)(y))
        return layers.Add()([x, layers.BatchNormalization()(y)])

    return around(middle)


def depth_multiplier():
    return around(layers.DepthwiseConv2D(3, depth_multiplier=2))


def separable():
    return around(layers.SeparableConv2D(10, 3, depth_multiplier=2, activation="relu"))


def few_groups():
    return around(layers.Conv2D(12, 3, groups=2))


def many_groups():
    return around(layers.Conv2D(16, 3, groups=4))


def transposed():
    return around(layers.Conv2DTranspose(10, 3, strides=2, activation="relu"))


def nested():
    inner = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(8, 3, padding="same")])
    bn = layers.BatchNormalization()
    z = keras.Input((8, 8, 8))
    block = keras.Model(z, layers.Add()([z, bn(inner(z))]))
    return around(lambda x: block(block(x)))


def shared():
    conv = layers.Conv2D(8, 3, padding="same", activation="relu")
    return around(lambda x: layers.Concatenate()([conv(conv(x)), x]))


def shared_reshape():
    reshape = layers.Reshape((64, 8))
    return around(lambda x: layers.Reshape((8, 8, 8))(reshape(x) * reshape(conv_bn(x, 8))))


def one_dimensional():
    inputs = keras.Input((16, 3))
    x = layers.Conv1D(8, 3, activation="relu")(inputs)
    x = layers.Conv1DTranspose(6, 3)(layers.MaxPooling1D(2)(layers.Cropping1D(1)(x)))
    x = layers.SeparableConv1D(8, 3)(layers.UpSampling1D()(layers.DepthwiseConv1D(3)(x)))
    return finish(inputs, layers.GlobalAveragePooling1D()(x))


def spatial_attention():
    def middle(x):
        return layers.Multiply()([x, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)])

    return around(middle)


def parametric():
    def middle(x):
        x = layers.PReLU(shared_axes=(1, 2), alpha_initializer="ones")(x)
        x = layers.PReLU(alpha_initializer="ones")(layers.LeakyReLU()(layers.Conv2D(8, 1)(x)))
        x = layers.Rescaling([0.5, 1, 2, 1, 3, 1, 2, 1])(x)
        return layers.GroupNormalization(groups=-1)(layers.UpSampling2D()(x))

    return around(middle)


def convnext_block():
    def middle(x):
        y = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
        y = layers.Dense(8)(layers.Dense(16, activation="gelu")(y))
        x = layers.GroupNormalization(groups=2)(layers.Add()([x, y]))
        return layers.RMSNormalization()(x)

    return around(middle)


def channelwise():
    """Layers of our own, through which channels go one by one."""
    image = keras.Input(SHAPE)
    x = conv_bn(MeanImage()(image), 8)
    x = LpPooling2D(3.0)(StochasticPooling2D(2)(x))
    x = RReLU()(layers.Conv2D(6, 1)(x))
    return finish(image, FeatureNormalization(5.0, learned=True)(layers.Flatten()(x)))


def local_response():
    return around(lambda x: MeanImage()(LocalResponseNormalization(n=3, alpha=0.1)(x)))


def two_inputs_two_outputs():
    a, b = keras.Input(SHAPE, name="a"), keras.Input(SHAPE, name="b")
    x = layers.Maximum()([conv_bn(a, 8), conv_bn(b, 8)])
    x = ops.mean(conv_bn(x, 8), axis=(1, 2))
    return keras.Model({"a": a, "b": b}, [layers.Dense(3)(x), layers.Dense(2)(x)])


def resnet8():
    return models.build("resnet8", SHAPE, 4)


FAMILIES = [
    chain,
    sequential,
    residual,
    pre_activation,
    dense_concat,
    concat_in_space,
    squeeze_excite,
    squeeze_excite_dense,
    mobile,
    depth_multiplier,
    separable,
    few_groups,
    many_groups,
    transposed,
    nested,
    shared,
    shared_reshape,
    one_dimensional,
    spatial_attention,
    parametric,
    convnext_block,
    channelwise,
    local_response,
    two_inputs_two_outputs,
    resnet8,
    everything,
]


def batch(model, n=3):
    rng = np.random.default_rng(1)
    made = {t.name: rng.normal(size=(n, *t.shape[1:])).astype("float32") for t in model.inputs}
    return made if len(made) > 1 else made.popitem()[1]


def outputs(model):
    return [np.asarray(y) for y in keras.tree.flatten(model(batch(model)))]


@pytest.fixture(params=FAMILIES, ids=lambda make: make.__name__)
def model(request):
    return perturb(request.param())


def test_untouched_round_trip_is_exact(model):
    again = Graph(model).rebuild([])
    assert again is not model
    for want, got in zip(outputs(model), outputs(again), strict=True):
        np.testing.assert_array_equal(got, want)
    assert again.get_config() == model.get_config()


def test_zero_channels_go_without_a_trace(model, tmp_path):
    graph = Graph(model)
    removed = harmless(graph, 0.4)
    assert removed
    zeroed = silenced(graph, removed)
    before = [w.copy() for w in zeroed.get_weights()]
    small = Graph(zeroed).rebuild(removed)
    assert small.count_params() < model.count_params()
    for want, got in zip(outputs(zeroed), outputs(small), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    for old, now in zip(before, zeroed.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for want, got in zip(outputs(small), outputs(loaded), strict=True):
        np.testing.assert_array_equal(got, want)


def test_pruned_model_trains(model):
    graph = Graph(model)
    half = [unit for group in graph.groups for unit in group.units[: len(group.units) // 2]]
    small = graph.rebuild(half)
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    small.compile("sgd", "mse")
    with unit_strides():
        small.fit(batch(small), [np.zeros(y.shape) for y in outputs(small)], verbose=0)
    assert all(np.isfinite(w).all() for w in small.get_weights())
    assert all(np.isfinite(y).all() for y in outputs(small))


def test_channels_move_up_to_their_neighbours_in_a_local_response_normalization():
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 1, name="before")(image)
    x = LocalResponseNormalization(k=1.0, n=3, alpha=0.5, name="local")(x)
    model = perturb(finish(image, layers.Conv2D(5, 1, name="after")(x)))
    graph = Graph(model)
    kept = [0, 2, 3, 5, 7]
    removed = graph.units("before", sorted(set(range(8)) - set(kept)))
    small = graph.rebuild(removed)
    assert graph.disturbed(removed) == ["local"]
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    before = np.asarray(keras.Model(image, model.get_layer("before").output)(x))[..., kept]
    want = model.get_layer("local")(before)
    got = keras.Model(small.inputs[0], small.get_layer("local").output)(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Shuffle(layers.Layer):
    def call(self, x):
        return x[..., ::-1]


class Standardized(layers.Conv2D):
    pass


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (Shuffle(name="odd"), "what Shuffle does to channels is not known"),
        (Standardized(8, 1, name="odd"), "what Standardized does to channels is not known"),
        (layers.Softmax(name="odd"), "it mixes channels"),
        (layers.Conv2D(8, 1, activation="softmax", name="odd"), "its activation softmax may mix"),
        (layers.Permute((1, 3, 2), name="odd"), "what Permute does"),
        (layers.BatchNormalization(axis=1, name="odd"), "other axes than the last"),
        (lambda x: ops.multiply(x, np.arange(8.0)), "what Multiply does"),
        (lambda x: ops.max(x, axis=-1, keepdims=True), "reduces the channels to one"),
        (lambda x: x[..., :4], "what GetItem does"),
        (layers.MultiHeadAttention(2, 4, name="odd"), "what MultiHeadAttention does"),
    ],
)
def test_what_is_not_known_is_protected_and_named(middle, reason):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, name="before")(inputs)
    x = middle(x, x) if isinstance(middle, layers.MultiHeadAttention) else middle(x)
    x = layers.Conv2D(5, 1, name="after")(x)
    graph = Graph(finish(inputs, layers.GlobalAveragePooling2D()(x)))
    assert any(reason in text for text in graph.protected.values())
    free = {path for group in graph.groups for path in group.layers}
    assert "after" in free
    assert ("before" in free) == ("activation" in reason)
    small = graph.rebuild([graph.groups[-1].units[0]])
    assert small.get_layer("after").filters == 4


def test_channels_that_can_only_go_together_are_protected():
    graph = Graph(around(lambda x: x * layers.Reshape((8, 8, 8))(layers.Reshape((64, 8, 1))(x))))
    assert any("only go all together" in text for text in graph.protected.values())


def test_axes_of_unknown_size_stay_unknown():
    tokens = keras.Input((None,), name="tokens")
    x = layers.Conv1D(6, 1)(layers.Embedding(10, 4)(tokens))
    plain = keras.Input((), name="plain")
    x = layers.Add()([layers.Dense(5)(x), layers.Reshape((1, 1))(plain)])
    model = finish([tokens, plain], layers.Reshape((-1, 5))(x))
    graph = Graph(model)
    small = graph.rebuild(graph.groups[0].units[:2])
    assert [tuple(t.shape) for t in small.inputs] == [(None, None), (None,)]
    assert small.output_shape == model.output_shape


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_an_extra_input_is_not_guessed():
    def middle(x):
        return layers.BatchNormalization(name="masked")(x, mask=ops.any(x > 0, axis=-1))

    assert "several inputs" in Graph(around(middle)).protected["masked"]


def test_groups_of_a_residual_net():
    graph = Graph(models.build("resnet8", (8, 8, 3), 4))
    found = {group.layers: len(group.units) for group in graph.groups}
    assert found[("stem_conv", "stage1_block1_2_conv")] == 16
    assert found[("stage1_block1_1_conv",)] == 16
    assert len(found) == 6
    assert graph.protected == {"logits": "it is an output of the model"}


def test_nested_layers_are_cut_at_their_path():
    model = nested()
    graph = Graph(model)
    inner = next(path for path in graph.sites if path.count("/") == 2 and "conv" in path)
    small = graph.rebuild(graph.units(inner, [0, 5]))
    outer, middle, name = inner.split("/")
    assert small.get_layer(outer).get_layer(middle).get_layer(name).filters == 6
    assert graph.kept(graph.units(inner, [0, 5]))[inner] == [1, 2, 3, 4, 6, 7]


def test_settings_survive():
    model = mobile()
    model.layers[1].trainable = False
    model.layers[4].dtype_policy = "mixed_bfloat16"
    graph = Graph(model)
    small = graph.rebuild(harmless(graph, 0.5))
    assert not small.layers[1].trainable
    assert small.layers[4].dtype_policy.name == "mixed_bfloat16"
    assert type(small) is type(model)


def unregistered(x):
    return x


def test_what_cannot_be_rebuilt_is_refused():
    own = Graph(around(layers.Conv2D(8, 1, activation=unregistered)))
    with pytest.raises(UsageError, match="Received Could not locate function 'unregistered'"):
        own.rebuild([])
    with pytest.raises(UsageError, match="Received Requested the deserialization of a `Lambda`"):
        Graph(around(layers.Lambda(lambda x: x))).rebuild([])


def test_errors():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match="no layer graph"):
        Graph(Subclassed())
    with pytest.raises(UsageError, match="no layer graph"):
        Graph(keras.Sequential([layers.Dense(2)]))
    inside = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(8, 1)])
    with pytest.raises(UsageError, match="shared between a nested model and the model around it"):
        Graph(around(lambda x: inside.layers[0](inside(x))))
    graph = Graph(models.build("lenet5", (12, 12, 1), 3))
    with pytest.raises(UsageError, match="must stay: logits"):
        graph.units("logits", [0])
    with pytest.raises(UsageError, match="makes channels: pool1"):
        graph.units("pool1", [0])
    with pytest.raises(UsageError, match=r"Expected channels 0 to 5. Received 6 to 7"):
        graph.units("conv1", [6, 7])
    with pytest.raises(UsageError, match="lose all its channels: conv1"):
        graph.rebuild(graph.units("conv1", range(6)))
