from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import models
from cnnkit.analysis import macs
from cnnkit.errors import UsageError
from cnnkit.onednn import unit_strides
from cnnkit.training.recipe import resolve
from export import passes
from export.formats import onnx
from export.formats import tflite
from export.graph import Graph
from export.low_rank import decompose
from export.pipeline import PassData
from export.pipeline import compress
from tests.contracts.parts import perturb
from tests.export import corners
from tests.export.networks import everything

LARGE = [name for name, method in decompose.METHODS.items() if not method.pointwise]
SHAPE = (9, 10, 5)


def one(size=(3, 2), shape=SHAPE, filters=6, **options):
    image = keras.Input(shape, name="image")
    conv = layers.Conv2D(filters, size, activation="relu", name="conv", **options)
    return perturb(keras.Model(image, conv(image)))


def lenet():
    return perturb(models.build("lenet5_caffe", (16, 16, 1), 4))


def small_net():
    stack = [layers.Conv2D(8, 3, name="conv1"), layers.Conv2D(8, 3, name="conv2")]
    end = [layers.Flatten(), layers.Dense(16, name="fc1")]
    return perturb(keras.Sequential([keras.Input((7, 7, 2)), *stack, *end]))


def pictures(model, n=2):
    return np.random.default_rng(2).normal(size=(n, *model.input_shape[1:])).astype("float32")


def channels_last(model):
    """TensorFlow has the convolutions of the other format on GPUs only."""
    if model.layers[-1].data_format == "channels_last":
        return model
    twin = keras.Sequential([keras.Input(SHAPE)])
    for layer in model.layers[1:]:
        twin.add(layer.from_config(layer.get_config() | {"data_format": "channels_last"}))
    twin.set_weights(model.get_weights())
    return twin


def methods(model, path="conv"):
    return decompose._methods(Graph(model), decompose.METHODS, {})[path]


def full(model, path="conv", **names):
    return {name: method.full for name, method in methods(model, path).items()}


def rows(model):
    return {row.name: row for row in macs.table(model)}


def config(**options):
    return decompose.Config(**options)


PLACES = {
    "plain": {},
    "same": {"padding": "same"},
    "strided": {"strides": 2, "padding": "same"},
    "uneven strides": {"strides": (2, 1)},
    "dilated": {"dilation_rate": 2},
    "uneven dilation": {"dilation_rate": (2, 1), "padding": "same"},
    "no bias": {"use_bias": False},
    "tanh": {"strides": (1, 3), "padding": "same", "kernel_constraint": "max_norm"},
    "channels first": {"data_format": "channels_first", "shape": (5, 9, 10), "padding": "same"},
    "column": {"size": (3, 1), "strides": 2},
    "row": {"size": (1, 3), "padding": "same"},
    "more outputs than rows": {"filters": 40, "size": 2},
}


@pytest.mark.parametrize("method", LARGE)
@pytest.mark.parametrize("place", PLACES)
def test_full_rank_computes_the_same(place, method):
    model = one(**PLACES[place])
    result = decompose.decompose(model, {"conv": (method, full(model)[method])})
    small = result.model
    x = pictures(channels_last(model))
    np.testing.assert_allclose(channels_last(small)(x), channels_last(model)(x), atol=1e-5)
    assert result.summary["layers"]["conv"]["error"] < 1e-7
    assert small.output.shape == model.output.shape
    assert model.layers[-1].use_bias == small.layers[-1].use_bias
    # What it is said to cost is what is counted.
    table = result.summary["layers"]["conv"]
    assert table["macs_after"] == macs.total(small) == methods(model)[method].macs(*table["ranks"])
    assert table["params_after"] == small.count_params()


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"strides": (3, 1), "padding": "same"}])
def test_full_rank_of_1x1_computes_the_same(options):
    model = one(1, **options)
    small = decompose.decompose(model, {"conv": ("svd", (5,))}).model
    np.testing.assert_allclose(small(pictures(model)), model(pictures(model)), atol=1e-5)


def test_the_error_of_svd_is_the_bound_of_eckart_and_young():
    model = keras.Sequential([keras.Input((7, 20)), layers.Dense(12, "tanh", name="dense")])
    kernel = np.asarray(model.get_layer("dense").kernel, float)
    s = np.linalg.svd(kernel, compute_uv=False)
    for rank in (1, 4, 11):
        result = decompose.decompose(model, {"dense": ("svd", (rank,))})
        first, second = (layer.kernel for layer in result.model.layers)
        bound = np.sqrt((s[rank:] ** 2).sum())
        error = np.linalg.norm(kernel - np.asarray(first) @ np.asarray(second))
        assert error == pytest.approx(bound, rel=1e-4)
        table = result.summary["layers"]["dense"]
        assert table["error"] == pytest.approx(bound / np.linalg.norm(kernel), rel=1e-6)
        # A dense layer works at each of 7 places.
        assert table["macs_after"] == 7 * rank * (20 + 12) == macs.total(result.model)


@pytest.mark.parametrize(
    ("method", "order"), [("spatial", (0, 2, 1, 3)), ("channel", (0, 1, 2, 3))]
)
def test_spatial_and_channel_svd_are_the_best_of_their_rank(method, order):
    model = one()
    kernel = np.asarray(model.get_layer("conv").kernel, float).transpose(order)
    matrix = kernel.reshape(15, 12) if method == "spatial" else kernel.reshape(30, 6)
    s = np.linalg.svd(matrix, compute_uv=False) ** 2
    chosen = methods(model)[method]
    np.testing.assert_allclose(chosen.kept(), np.cumsum(s) / s.sum(), rtol=1e-9)
    assert chosen.error(chosen.factors(3)) == pytest.approx(np.sqrt(s[3:].sum() / s.sum()))


@pytest.mark.parametrize("method", ["tucker", "cp"])
def test_tensor_methods_keep_at_least_what_they_promise(method):
    chosen = methods(one(filters=8))[method]
    kept = chosen.kept()
    assert (np.diff(kept, axis=0) > -1e-9).all()
    for ranks in np.ndindex(*(min(n, 6) for n in kept.shape)):
        promised = kept[ranks]
        got = 1 - chosen.error(chosen.factors(*(rank + 1 for rank in ranks))) ** 2
        assert promised - 1e-9 <= got <= 1


def test_a_kernel_of_low_rank_is_found():
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(size, 2)) for size in (3, 2, 5, 6)]
    model = one()
    kernel = np.einsum("ar,br,cr,dr->abcd", *factors)
    model.get_layer("conv").kernel.assign(kernel)
    for method, ranks in {"cp": (2,), "tucker": (2, 2), "spatial": (2,), "channel": (2,)}.items():
        result = decompose.decompose(model, {"conv": (method, ranks)})
        # CP is found by iteration, the others in closed form.
        assert result.summary["layers"]["conv"]["error"] < (0.05 if method == "cp" else 1e-6)


def test_a_kernel_of_zeros_stays_zero():
    model = one()
    model.get_layer("conv").kernel.assign(np.zeros((3, 2, 5, 6)))
    for method in LARGE:
        small = decompose.apply(model, config(method=method, rank=1)).model
        np.testing.assert_allclose(small(pictures(model)), model(pictures(model)), atol=1e-6)


@pytest.mark.parametrize("method", ["auto", *LARGE])
@pytest.mark.parametrize("energy", [0.3, 0.8])
def test_energy_is_kept_at_the_least_cost(method, energy):
    model = small_net()
    result = decompose.apply(model, config(method=method, energy=energy, min_saving=0))
    table = result.summary["layers"]
    assert "fc1" in table
    assert ("conv2" in table) == (energy == 0.3 or method in ("auto", "channel"))
    for path, row in table.items():
        assert 1 - row["error"] ** 2 >= energy - 1e-6
        assert row["macs_after"] < row["macs_before"]
        if row["method"] != "tucker" and row["ranks"] != [1]:
            method_of = methods(model, path)[row["method"]]
            assert method_of.kept()[row["ranks"][0] - 2] < energy


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("method", ["auto", "tucker"])
@pytest.mark.parametrize("make", [lenet, everything])
def test_target_of_macs_is_met_and_counted(make, method, target):
    model = make()
    before = model.get_weights()
    result = decompose.apply(model, config(method=method, macs=target))
    assert all(map(np.array_equal, before, model.get_weights()))
    counted = 1 - macs.total(result.model) / macs.total(model)
    assert result.summary["macs_ratio"] == counted
    if (make, target) == (everything, 0.9):
        assert result.missed == "90.0% of the MACs should go, 54.0% could, with min_saving=0.1"
    else:
        assert counted >= target
        assert not result.missed
    if target == 0:
        assert not result.summary["layers"]
    new, old = rows(result.model), rows(model)
    spared = 0
    for path, row in result.summary["layers"].items():
        assert row["macs_before"] == old[path].macs
        assert row["macs_after"] == sum(new[part].macs for part in row["parts"])
        assert row["macs_ratio"] >= 0.1
        spared += row["macs_before"] - row["macs_after"]
    assert spared == macs.total(model) - macs.total(result.model)
    assert np.isfinite(result.model(pictures(model))).all()


def test_budget_is_spent_as_well_as_by_trying_all():
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.uniform(1, 9, 6)) for _ in range(3)]
    losses = [np.sort(rng.exponential(size=6))[::-1] for _ in range(3)]
    everyone = [
        (sum(a[i] for a, i in zip(costs, pick, strict=True)), sum(map(np.take, losses, pick)))
        for pick in np.ndindex(6, 6, 6)
    ]
    for budget in np.linspace(5, 27, 12):
        pick = decompose._allot(costs, losses, budget)
        assert sum(map(np.take, costs, pick)) <= max(budget, min(cost for cost, _ in everyone))
        best = min((loss for cost, loss in everyone if cost <= budget), default=np.inf)
        assert sum(map(np.take, losses, pick)) <= best * 1.5 or best == np.inf


def test_rank_is_what_was_asked_for():
    result = decompose.apply(lenet(), config(method="channel", rank=8))
    table = result.summary["layers"]
    assert {path: (row["method"], row["ranks"]) for path, row in table.items()} == {
        "conv1": ("channel", [8]),
        "conv2": ("channel", [8]),
        "fc1": ("svd", [8]),
    }
    assert result.protected == ["logits: rank 8 saves less than 10% of its MACs"]
    tucker = decompose.apply(lenet(), config(method="tucker", rank=8))
    assert tucker.summary["layers"]["conv2"]["ranks"] == [8, 8]


def test_layers_that_cannot_or_gain_nothing_are_named_and_left_alone():
    inner = keras.Sequential(
        [keras.Input((8, 8, 16)), layers.Conv2D(16, 3, padding="same", name="inner")], name="nested"
    )
    image = keras.Input((8, 8, 16), name="image")
    shared = layers.Conv2D(16, 3, padding="same", name="shared")
    x = shared(shared(image))
    x = layers.Conv2D(16, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(16, 3, padding="same", name="transpose")(x)
    x = layers.PReLU(name="prelu")(inner(x))
    x = layers.Conv2D(16, 3, padding="same", name="last")(x)
    x = layers.Dense(2, name="narrow")(layers.GlobalAveragePooling2D()(x))
    model = perturb(keras.Model(image, x))
    result = decompose.apply(model, config(rank=4))
    assert set(result.summary["layers"]) == {"nested/inner", "last"}
    assert set(result.protected) == {
        "shared: it is shared",
        "grouped: it has groups",
        "depthwise: a DepthwiseConv2D is left as it is",
        "separable: a SeparableConv2D is left as it is",
        "transpose: a Conv2DTranspose is left as it is",
        "narrow: rank 4 saves less than 10% of its MACs",
    }
    # Nested layers at full rank: the same function.
    ranks = dict.fromkeys(("nested/inner", "last"), ("tucker", (16, 16)))
    same = decompose.decompose(model, ranks)
    np.testing.assert_allclose(same.model(pictures(model)), model(pictures(model)), atol=1e-4)
    assert same.summary["layers"]["nested/inner"]["parts"][0] == "nested/inner_reduce"
    reason = "last: its kernel is larger than 1x1, which svd is not for"
    assert reason in decompose.apply(model, config(method="svd", rank=1)).protected


def test_a_nested_model_called_twice_is_shared():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="dense")], name="nested")
    image = keras.Input((8,))
    result = decompose.apply(keras.Model(image, inner(inner(image))), config(rank=1))
    assert result.protected == ["nested/dense: it is shared"]
    assert result.notes[-1] == "nothing is decomposed: no layer gains by it"


def test_a_nested_model_of_unknown_size_has_the_size_it_is_called_with():
    inner = keras.Sequential(
        [keras.Input((None, None, 8)), layers.Conv2D(16, 3, name="conv")], name="nested"
    )
    image = keras.Input((7, 9, 8))
    result = decompose.apply(keras.Model(image, inner(image)), config(rank=2, method="tucker"))
    row = result.summary["layers"]["nested/conv"]
    assert row["macs_after"] == 63 * 8 * 2 + 35 * (9 * 2 * 2 + 2 * 16)


def test_names_are_unique_and_a_chain_may_be_decomposed_again():
    image = keras.Input((8, 8, 8))
    x = layers.Conv2D(8, 3, name="conv")(image)
    x = layers.ReLU(name="conv_reduce")(x)
    model = keras.Model(image, x)
    once = decompose.decompose(model, {"conv": ("channel", (6,))})
    assert once.summary["layers"]["conv"]["parts"] == ["conv_reduce_", "conv"]
    twice = decompose.decompose(once.model, {"conv": ("svd", (6,)), "conv_reduce_": ("cp", (48,))})
    x = pictures(model)
    np.testing.assert_allclose(twice.model(x), once.model(x), atol=1e-4)


def test_options_of_the_layer_go_on():
    image = keras.Input((8, 8, 8))
    conv = layers.Conv2D(
        8,
        3,
        activation="gelu",
        kernel_regularizer="l2",
        bias_regularizer="l1",
        kernel_constraint="max_norm",
        dtype="mixed_float16",
        name="conv",
    )
    model = keras.Model(image, conv(image))
    for method in LARGE:
        small = decompose.apply(model, config(method=method, rank=2)).model
        assert len(small.losses) == len(small.layers)  # Of each kernel, and of the bias.
    conv.trainable = False
    for method in LARGE:
        small = decompose.apply(model, config(method=method, rank=2)).model
        *front, last = small.layers[1:]
        assert last.name == "conv"
        assert last.activation is keras.activations.gelu
        assert last.bias_regularizer is not None
        for layer in (*front, last):
            assert layer.dtype_policy.name == "mixed_float16"
            assert not layer.trainable
            assert getattr(layer, "kernel_constraint", None) is None
        for layer in front:
            assert not layer.use_bias
            assert layer.activation is keras.activations.linear


@pytest.mark.export
@pytest.mark.parametrize("method", ["spatial", "tucker", "cp"])
def test_the_model_is_saved_trained_and_exported(tmp_path, method):
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(image)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(16, 3, strides=(2, 1), padding="same", use_bias=False, name="second")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(16, 3, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    x = layers.Softmax(name="probabilities")(layers.Dense(5, name="logits")(x))
    model = perturb(keras.Model(image, x))
    result = decompose.apply(model, config(method=method, rank=3, min_saving=0))
    assert {"second", "dilated", "hidden"} <= set(result.summary["layers"])
    small = result.model
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 12, 12, 3)).astype("float32")
    small.compile("sgd", "sparse_categorical_crossentropy")
    before = small.get_weights()
    with unit_strides():
        small.fit(pixels, np.arange(4), verbose=0)
    trained = [w.name for w in small.trainable_weights]
    moved = [not np.array_equal(a, b) for a, b in zip(before, small.get_weights(), strict=True)]
    assert sum(moved) >= len(trained) - 2  # A ReLU may be dead.
    want = small.predict(pixels, verbose=0)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.predict(pixels, verbose=0), want)
    for module, name in ((tflite, "small.tflite"), (onnx, "small.onnx")):
        path = module.write(small, tmp_path / name)
        np.testing.assert_allclose(module.run(path, pixels), want, atol=1e-5)


def test_passes_compose(subject):
    steps = ["prune-filters:ratio=0.25", "low-rank:macs=0.4", "prune-filters:ratio=0.25"]
    quick = replace(subject, recipe=resolve(compress={"finetune_epochs": 1}).recipe)
    done = compress(quick, steps)
    counts = [row.macs for row in done.ledger]
    assert counts == sorted(counts, reverse=True)
    assert counts[2] <= 0.6 * counts[1]
    # The first links make channels, which the last pass thins out.
    parts = done.results[1].summary["layers"]["second"]["parts"]
    assert set(parts) & set(done.results[2].index_map)


def test_batch_normalizations_get_new_statistics():
    network = corners.network(end="deployable")
    image = network.input
    x = network.get_layer("second").output
    x = layers.BatchNormalization(name="bn")(x)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    x, y = corners.pictures(64)
    x = x.astype("float32")
    small = decompose.apply(model, config(rank=2), PassData(x, y, lambda model: model)).model
    inside = keras.Model(small.input, small.get_layer("second").output)(x)
    np.testing.assert_allclose(
        small.get_layer("bn").moving_mean, np.mean(inside, (0, 1, 2)), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low-rank:rank=2,macs=0.3", "Expected one of rank, energy and macs. Received rank and"),
        ("low-rank:rank=0", "Expected an integer >= 1, default None. Received 0."),
        ("low-rank:energy=2", "Expected a number in (0, 1], default None. Received 2."),
        ("low-rank:macs=1", "Expected a number in [0, 1), default None. Received 1."),
        ("low-rank:method=qr", "Expected auto, svd, spatial, channel, tucker or cp"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(UsageError) as error:
        passes.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("layer", "plan", "message"),
    [
        ("none", ("svd", (1,)), "cannot be decomposed: none. Received there is none"),
        ("conv", ("svd", (1,)), "Unknown method for layer 'conv' 'svd'"),
        ("conv", ("tucker", (1,)), "Wrong ranks of method 'tucker': conv. Expected 1 to 5 and 1"),
        ("conv", ("cp", (0,)), "Expected 1 to 30. Received (0,)"),
    ],
)
def test_wrong_plans(layer, plan, message):
    with pytest.raises(UsageError) as error:
        decompose.decompose(one(), {layer: plan})
    assert message in str(error.value)


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match="no layer graph"):
        decompose.apply(Own(), config())
