from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import models
from cnnkit.analysis import macs
from cnnkit.errors import UsageError
from export.batches import batches
from export.graph import Graph
from export.pipeline import PassData
from export.pruning import filters
from export.pruning import group_lasso
from export.pruning import importance
from export.pruning.recalibration import recalibrate
from tests.contracts.parts import perturb
from tests.export.networks import everything

CRITERIA = list(importance.CRITERIA)


def lenet():
    return perturb(models.build("lenet5_caffe", (16, 16, 1), 4))


def resnet():
    return perturb(models.build("resnet8", (8, 8, 3), 4))


def two_layers(width=8):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(width, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )
    return perturb(model)


def picture(model):
    return np.random.default_rng(2).normal(size=(2, *model.input_shape[1:])).astype("float32")


def sample(model, n=40):
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 255, (n, *model.input_shape[1:])).astype("float32")
    return PassData(x, rng.integers(0, model.output_shape[1], n), lambda model: model)


def test_the_table_of_criteria_is_the_options():
    assert filters.Config.__pydantic_fields__["criterion"].annotation.__args__ == tuple(CRITERIA)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("make", [lenet, resnet, everything])
def test_target_is_met_and_the_model_is_as_it_was(make, scope, criterion):
    model = make()
    before = model.get_weights()
    result = filters.apply(
        model, filters.Config(0.4, criterion=criterion, scope=scope), sample(model)
    )
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    summary = result.summary
    assert summary["params_after"] == result.model.count_params() < model.count_params()
    made = sum(len(filters.ids) for filters in Graph(model).filters)
    assert summary["channels_before"] == made
    # `everything` has four units of eight filters: no finer cut is possible there.
    free = 1 - model.output_shape[1] / made
    assert summary["channels_ratio"] == pytest.approx(0.4 * free, abs=0.15)
    assert summary["macs_ratio"] == 1 - macs.total(result.model) / macs.total(model)
    assert np.isfinite(result.model(picture(model))).all()


def test_strength_zero_changes_nothing():
    model = resnet()
    result = filters.apply(model, filters.Config(0))
    assert result.index_map == {}
    assert result.summary["params_ratio"] == 0
    np.testing.assert_array_equal(result.model(picture(model)), model(picture(model)))


def test_index_map_says_which_filters_are_left():
    model = lenet()
    result = filters.apply(model, filters.Config(0.5))
    kernel = np.asarray(model.get_layer("conv1").kernel)
    kept = result.index_map["conv1"]
    norms = np.abs(kernel).sum((0, 1, 2))
    assert sorted(kept) == sorted(np.argsort(norms)[-10:])
    np.testing.assert_array_equal(result.model.get_layer("conv1").kernel, kernel[..., kept])
    assert "logits" not in result.index_map
    assert result.protected == ["logits: it is an output of the model"]
    assert result.notes[0] == "channels removed: 49.7% (574 to 289)"


def test_removing_dead_channels_is_exact():
    model = resnet()
    dead = [1, 4]
    for name in ("stem", "stage1_block1_2"):
        conv, bn = model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn")
        conv.kernel.assign(np.where(np.isin(np.arange(16), dead), 0, conv.kernel))
        bn.gamma.assign(np.where(np.isin(np.arange(16), dead), 0, bn.gamma))
        bn.beta.assign(np.where(np.isin(np.arange(16), dead), 0, bn.beta))
    result = filters.remove(model, {"stem_conv": dead})
    assert set(result.index_map) == {"stem_conv", "stage1_block1_2_conv"}
    np.testing.assert_allclose(result.model(picture(model)), model(picture(model)), atol=1e-5)
    # The criterion finds them by itself.
    found = filters.apply(model, filters.Config(2 / 16)).index_map["stem_conv"]
    assert set(range(16)) - set(found) == set(dead)


def test_widths_are_rounded_up_and_never_below_the_least():
    def width(**options):
        small = filters.apply(two_layers(30), filters.Config(**options)).model
        return small.get_layer("conv").filters

    assert width(ratio=0.5) == 15
    assert width(ratio=0.5, round_to=8) == 16
    assert width(ratio=0.01, round_to=8) == 30
    assert width(ratio=0.1, round_to=8) == 30
    assert width(ratio=0.9, min_width=5) == 5
    assert width(ratio=0.999) == 1
    assert width(ratio=0.5, min_width=40) == 30


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("of", ["params", "macs"])
@pytest.mark.parametrize("make", [lenet, resnet])
def test_a_target_is_met_and_not_by_much(make, of, scope):
    summary = filters.apply(make(), filters.Config(0.6, of=of, scope=scope)).summary
    assert 0.6 <= summary[f"{of}_ratio"] < 0.66


def test_a_target_of_nothing_changes_nothing():
    assert filters.apply(lenet(), filters.Config(0, of="macs")).index_map == {}


def test_a_target_out_of_reach_gives_the_best():
    result = filters.apply(lenet(), filters.Config(0.99, of="params", min_width=8))
    assert result.missed.startswith("99.0% of the parameters should go, 96")
    assert result.model.get_layer("fc1").units == 8


@pytest.mark.parametrize("of", ["channels", "macs"])
def test_steps_recover_in_between(of):
    model, seen = resnet(), []
    data = sample(model)

    def recover(model):
        seen.append(model.get_layer("stem_conv").filters)
        # As training would, it turns the order of importance round.
        for layer in model.layers:
            if isinstance(layer, layers.Conv2D):
                layer.kernel.assign(1 / (np.asarray(layer.kernel) + 3))
        return model

    config = filters.Config(0.5, of=of, steps=3)
    result = filters.apply(model, config, PassData(data.x, data.y, recover))
    assert len(seen) == 2
    assert 16 > seen[0] > seen[1] > result.model.get_layer("stem_conv").filters
    assert result.summary[f"{of}_ratio"] == pytest.approx(0.5, abs=0.04)
    bn = model.get_layer("stem_bn").gamma
    kept = result.index_map["stem_conv"]
    np.testing.assert_array_equal(result.model.get_layer("stem_bn").gamma, np.asarray(bn)[kept])


@pytest.mark.parametrize("steps", [1, 3])
def test_layers_get_the_widths_that_are_named(steps):
    model = lenet()
    config = filters.Config(widths="conv1:4+fc1:1+conv2:50", steps=steps)
    result = filters.apply(model, config, sample(model))
    assert result.summary["widths"] == {"conv1": [20, 4], "fc1": [500, 1]}
    assert not result.missed
    if steps == 1:
        score = np.abs(np.asarray(model.get_layer("conv1").kernel)).sum((0, 1, 2))
        assert result.index_map["conv1"] == sorted(np.argsort(score)[-4:])


@pytest.mark.parametrize("widths", ["conv9:4", "conv1:21", "logits:3"])
def test_widths_that_a_layer_cannot_have_are_refused(widths):
    with pytest.raises(UsageError, match="cannot have that width"):
        filters.apply(lenet(), filters.Config(widths=widths))


def test_steps_without_data_are_refused():
    with pytest.raises(UsageError, match="several steps recovers in between, which needs data"):
        filters.apply(lenet(), filters.Config(steps=2))


def test_global_scope_takes_more_where_less_is_lost():
    model = lenet()
    kernel = np.array(model.get_layer("fc1").kernel)
    kernel[:, :300] *= 0.01
    model.get_layer("fc1").kernel.assign(kernel)
    result = filters.apply(model, filters.Config(0.5, scope="global"))
    # Half of 570 channels, all of them from the 300 that are nearly zero.
    assert result.summary["widths"] == {"fc1": [500, 215]}


def test_global_scope_meets_its_target_where_a_group_is_worthless():
    model = resnet()
    for name in ("stage1_block1_1_conv", "stage2_block1_1_conv"):
        model.get_layer(name).kernel.assign(0 * model.get_layer(name).kernel)
    summary = filters.apply(model, filters.Config(0.3, scope="global", min_width=2)).summary
    assert summary["widths"]["stage1_block1_1_conv"] == [16, 2]
    assert summary["channels_before"] - summary["channels_after"] == pytest.approx(0.3 * 342, abs=3)


def test_global_scope_takes_equals_from_everywhere():
    model = resnet()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.ones(layer.gamma.shape))
    result = filters.apply(model, filters.Config(0.5, criterion="bn-gamma", scope="global"))
    assert all(after == before / 2 for before, after in result.summary["widths"].values())


def test_criteria_by_hand():
    model = two_layers(4)
    kernel = np.zeros((3, 3, 2, 4), "float32")
    kernel[0, 0, 0] = [3, 2, 5, 1]
    kernel[0, 1, 0] = [3, 4, 0, 1]
    model.get_layer("conv").kernel.assign(kernel)
    model.get_layer("bn").gamma.assign([0.5, -2, 1, 0.5])
    graph = Graph(model)
    units = graph.groups[0].units

    def ranked(criterion):
        return importance.CRITERIA[criterion](graph, None)[units]

    np.testing.assert_allclose(ranked("l1"), np.array([6, 6, 5, 2]) / 4.75)
    norms = np.array([np.sqrt(18), np.sqrt(20), 5, np.sqrt(2)])
    np.testing.assert_allclose(ranked("l2"), norms / norms.mean())
    np.testing.assert_allclose(ranked("bn-gamma"), [0.5, 2, 1, 0.5])
    np.testing.assert_array_equal(ranked("random"), ranked("random"))


def softmax(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("ending", [None, "softmax"])
def test_taylor_by_hand(ending):
    image = keras.Input((3, 3, 2))
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    model = perturb(keras.Model(image, layers.Dense(3, activation=ending, name="logits")(x)))
    data = sample(model)
    data.x[:] = data.x / 255 - 0.5
    kernel, bias = model.get_layer("conv").get_weights()
    a = np.maximum(data.x @ kernel[0, 0] + bias, 0)  # (n, 3, 3, 4)
    head, shift = model.get_layer("logits").get_weights()
    error = softmax(a.mean((1, 2)) @ head + shift) - np.eye(3)[data.y]
    gradient = (error @ head.T / 9)[:, None, None, :]
    want = np.abs((a * gradient).mean((1, 2))).sum(0)
    graph = Graph(model)
    got = importance.taylor(graph, data)[graph.groups[0].units]
    np.testing.assert_allclose(got, want / np.linalg.norm(want), rtol=1e-4)


@pytest.mark.parametrize("criterion", ["apoz", "taylor"])
def test_criteria_that_see_no_feature_map_are_l1(criterion):
    inner = lenet()
    image = keras.Input(inner.input_shape[1:], name="image")
    model = keras.Model(image, layers.Softmax(name="probabilities")(inner(image)))
    data = sample(model)
    want = filters.apply(model, filters.Config(criterion="l1", recalibrate=False)).index_map
    config = filters.Config(criterion=criterion, recalibrate=False)
    assert filters.apply(model, config, data).index_map == want


def test_taylor_sees_linear_channels_where_they_are_made():
    model = perturb(models.build("lenet5_caffe", (16, 16, 1), 4))
    data = sample(model)
    graph = Graph(model)
    conv1 = next(group.units for group in graph.groups if group.layers == ("conv1",))
    scores = importance.taylor(graph, data)[conv1]
    assert np.linalg.norm(scores) == pytest.approx(1.0, rel=1e-5)


def test_obd_by_hand():
    image = keras.Input((3, 3, 2))
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    model = perturb(keras.Model(image, layers.Dense(3, activation="softmax", name="logits")(x)))
    data = sample(model, 8)
    data.x[:] = data.x / 255 - 0.5
    kernel, bias = model.get_layer("conv").get_weights()
    head, _ = model.get_layer("logits").get_weights()
    p = np.asarray(model(data.x))
    on = (data.x @ kernel[0, 0] + bias > 0).astype("float32")
    # Of logit k by weight (i, j): the mean over places of x_i where j is on, times head_jk.
    slope = np.einsum("nhwi,nhwj->nij", data.x, on)[..., None] / 9 * head
    curvature = np.einsum("nijk,nk->nij", slope**2, p) - np.einsum("nijk,nk->nij", slope, p) ** 2
    want = (0.5 * curvature.mean(0) * kernel[0, 0] ** 2).sum(0)
    graph = Graph(model)
    one_by_one = [
        importance.obd(graph, PassData(data.x[i : i + 1], None, lambda model: model))
        for i in range(len(data.x))
    ]
    got = np.mean(one_by_one, 0)[graph.groups[0].units]
    np.testing.assert_allclose(got, want, rtol=1e-3)


def test_group_lasso_norms_by_hand():
    model = two_layers(4)
    graph = Graph(model)
    kernel, head = model.get_layer("conv").kernel, model.get_layer("logits").kernel
    made = np.linalg.norm(np.reshape(kernel, (-1, 4)), axis=0)
    read = np.linalg.norm(head, axis=1)
    want = (made / made.mean() + read / read.mean()) / 2
    got = importance.group_lasso(graph, None)[graph.groups[0].units]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("make", [resnet, everything])
def test_group_lasso_penalizes_what_may_go_and_only_while_it_trains(make):
    model, seen = make(), {}
    plain = keras.regularizers.L2(0.5)
    first = next(la for la in model.layers if isinstance(la, layers.Conv2D))
    first.kernel.regularizer = plain
    first.kernel_regularizer = plain
    before = model.get_weights()

    def train(twin, **options):
        assert options == {"keep_best": False}
        for layer in twin.layers:
            for weight in layer.weights:
                if (penalty := weight.regularizer) is not None:
                    seen[layer.name] = (penalty.filters, penalty.channels)
                    weight.assign(0.5 * weight)
        return twin

    data = replace(sample(model), train=train)
    result = filters.apply(model, filters.Config(0.3, criterion="group-lasso", strength=2.0), data)
    assert first.kernel.regularizer is plain
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert seen[first.name] == (2.0, 0.0)  # the pixels stay
    assert seen["logits"] == (0.0, 2.0)  # the classes stay
    kernels = [weight for layer in result.model.layers for weight in layer.weights]
    assert {type(weight.regularizer) for weight in kernels} <= {type(None), keras.regularizers.L2}
    assert "cnnkit" not in result.model.to_json()
    # What the training did is in the result.
    kept = result.index_map[first.name]
    np.testing.assert_allclose(
        result.model.get_layer(first.name).kernel, 0.5 * np.asarray(first.kernel)[..., kept]
    )


def test_group_lasso_makes_channels_small_by_training():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (128, 6, 6, 2)).astype("float32")
    y = (x[..., 0].mean((1, 2)) > 0).astype(int)
    spread = {}

    def train(model, **options):
        model.compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False
        )
        model.fit(x, y, epochs=50, verbose=0)
        return model

    image = keras.Input((6, 6, 2), name="image")
    z = layers.Conv2D(12, 3, activation="relu", name="conv")(image)
    z = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(z))
    model = keras.Model(image, z)
    data = PassData(x, y, train, train)
    for strength in (1e-9, 0.01):
        small = group_lasso.trained(model, data, strength)
        score = np.sort(importance.group_lasso(Graph(small), None)[Graph(small).groups[0].units])
        spread[strength] = score[:6].mean() / score[-1]
    assert spread[0.01] < 0.2 * spread[1e-9]


def test_group_lasso_without_data_is_refused():
    with pytest.raises(UsageError, match="has to be trained in, which needs data"):
        filters.apply(lenet(), filters.Config(criterion="group-lasso"))


def test_apoz_by_hand():
    model = two_layers(4)
    kernel = np.zeros((3, 3, 2, 4), "float32")
    model.get_layer("conv").set_weights([kernel, np.zeros(4, "float32")])
    kernel[1, 1, 0] = [1, -1, 1, 1]
    model.get_layer("conv").kernel.assign(kernel)
    model.get_layer("bn").set_weights(np.array([[1] * 4, [0, 0, -1e6, 0], [0] * 4, [1] * 4]))
    data = sample(model)
    data.x[: len(data.x) // 4, ..., 0] *= -1
    graph = Graph(model)
    scores = importance.apoz(graph, data)[graph.groups[0].units]
    np.testing.assert_allclose(scores, [0.75, 0.25, 0, 0.75], atol=0.01)


def test_a_dead_channel_goes_first_by_every_criterion_that_looks_at_data():
    model = resnet()
    bn = model.get_layer("stage1_block1_1_bn")
    bn.beta.assign(np.where(np.arange(16) == 5, -1e6, bn.beta))
    for criterion in ("apoz", "taylor"):
        kept = filters.apply(
            model, filters.Config(1 / 16, criterion=criterion), sample(model)
        ).index_map
        assert 5 not in kept["stage1_block1_1_conv"]


@pytest.mark.parametrize(
    ("criterion", "data", "message"),
    [
        ("apoz", None, "looks at pictures, and there are none"),
        ("taylor", PassData(None, None, lambda model: model), "looks at pictures"),
        ("taylor", PassData(np.zeros((2, 16, 16, 1)), None, lambda model: model), "needs labels"),
    ],
)
def test_missing_data_are_named(criterion, data, message):
    with pytest.raises(UsageError, match=message):
        filters.apply(lenet(), filters.Config(criterion=criterion), data)


def test_recalibration_measures_the_statistics_of_the_data():
    inner = keras.Sequential([keras.Input((6, 6, 2)), layers.BatchNormalization(name="inner")])
    model = keras.Sequential([keras.Input((6, 6, 2)), inner, layers.BatchNormalization(name="out")])
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    model.add(frozen)
    x = np.random.default_rng(0).normal(3, 2, (128, 6, 6, 2)).astype("float32")
    recalibrate(model, x)
    halves = [x[:64], x[64:]]
    stats = [layer.moving_mean for layer in inner.layers]
    np.testing.assert_allclose(stats[0], np.mean([h.mean((0, 1, 2)) for h in halves], 0), rtol=1e-5)
    variance = np.mean([h.var((0, 1, 2)) for h in halves], 0)
    np.testing.assert_allclose(inner.layers[0].moving_variance, variance, rtol=1e-4)
    assert inner.layers[0].momentum == 0.99
    np.testing.assert_array_equal(frozen.moving_mean, [0, 0])


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((70, 32, 32, 3), [64, 6]),
        ((40, 224, 224, 3), [16, 16, 8]),
        ((5, 1024, 1024, 3), [4, 1]),
        ((0, 8, 8, 1), []),
    ],
)
def test_batches_of_large_pictures_are_small(shape, sizes):
    x = np.broadcast_to(np.float32(0), shape)
    assert [len(x[part]) for part in batches(x, 64)] == sizes


def test_the_pruned_model_has_the_statistics_of_its_own():
    model = resnet()
    data = sample(model, 64)
    result = filters.apply(model, filters.Config(0.5), data)
    small = result.model
    stem = keras.Model(small.inputs, small.get_layer("stem_conv").output)
    values = np.asarray(stem([data.x]))
    np.testing.assert_allclose(
        small.get_layer("stem_bn").moving_mean, values.mean((0, 1, 2)), rtol=1e-3, atol=1e-3
    )
    as_it_was = filters.apply(model, filters.Config(0.5, recalibrate=False), data).model
    np.testing.assert_array_equal(
        as_it_was.get_layer("stem_bn").moving_mean,
        np.asarray(model.get_layer("stem_bn").moving_mean)[result.index_map["stem_conv"]],
    )


def test_layers_that_share_channels_count_the_same():
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 1, use_bias=False, name="weak")(image)
    x = layers.Add()([x, layers.Conv2D(2, 1, use_bias=False, name="strong")(image)])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("weak").set_weights([np.array([[[[1.0, 3.0]]]])])
    model.get_layer("strong").set_weights([np.array([[[[500.0, 300.0]]]])])
    graph = Graph(model)
    scores = importance.l1(graph, None)[graph.groups[0].units]
    np.testing.assert_allclose(scores, [(0.5 + 1.25) / 2, (1.5 + 0.75) / 2])


def test_bn_gamma_without_a_scale_is_l1():
    model = lenet()
    l1 = filters.apply(model, filters.Config(criterion="l1"))
    assert filters.apply(model, filters.Config(criterion="bn-gamma")).index_map == l1.index_map


def test_a_model_with_nothing_to_prune_says_so():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="logits")])
    result = filters.apply(model, filters.Config())
    assert result.summary["channels_ratio"] == 0
    assert "nothing could be pruned: every channel is protected" in result.notes


def test_a_norm_over_channels_is_named_when_it_loses_some():
    image = keras.Input((4, 4, 3))
    x = layers.LayerNormalization(name="norm")(layers.Conv2D(8, 1, name="conv")(image))
    x = layers.Dense(6, name="wide")(x)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert any("norm normalize" in note for note in filters.remove(model, {"conv": [0]}).notes)
    assert not any("norm normalize" in note for note in filters.remove(model, {"wide": [0]}).notes)


def test_channels_that_must_stay_are_refused():
    with pytest.raises(UsageError, match="must stay: logits"):
        filters.remove(lenet(), {"logits": [0]})


def test_again_at_the_same_seed_is_the_same():
    a, b = (filters.apply(lenet(), filters.Config(criterion="random")) for _ in range(2))
    assert a.index_map == b.index_map
