import io
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import data
from cnnkit import models
from cnnkit.errors import UsageError
from export import passes
from export.pipeline import PassData
from export.pruning import saliency
from export.pruning import surgeon
from export.pruning import weights
from export.pruning.kernels import kernels
from tests.contracts.parts import perturb
from tests.export import corners
from tests.export.networks import everything

FAST = {"measure": False}


def lenet():
    return perturb(models.build("lenet5_caffe", (16, 16, 1), 4))


def resnet():
    return perturb(models.build("resnet8", (8, 8, 3), 4))


def sample(model, n=16):
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 2, (n, *model.input_shape[1:])).astype("float32")
    return PassData(x, rng.integers(0, model.output_shape[1], n), lambda model: model)


def values(model):
    return {k.path: k.value() for k in kernels(model)[0]}


def test_the_table_of_saliencies_is_the_options():
    options = weights.Config.__pydantic_fields__["saliency"].annotation.__args__
    assert options == tuple(saliency.SALIENCIES)


@pytest.mark.parametrize("name", saliency.SALIENCIES)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("make", [lenet, everything])
def test_target_is_met_and_all_else_is_as_it_was(make, scope, name):
    model = make()
    before = model.get_weights()
    config = weights.Config(0.6, saliency=name, scope=scope, **FAST)
    result = weights.apply(model, config, sample(model))
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    old, new = values(model), values(result.model)
    size, left = (sum(map(count, new.values())) for count in (np.size, np.count_nonzero))
    assert left == pytest.approx(0.4 * size, abs=1 if scope == "global" else len(new) / 2)
    if scope == "layer":
        for path, (all_, some) in result.summary["kernels"].items():
            assert (all_, some) == (new[path].size, np.count_nonzero(new[path]))
            assert some == pytest.approx(0.4 * all_, abs=0.5)
    assert (result.summary["weights"], result.summary["nonzeros"]) == (size, left)
    assert result.notes == [f"weights made zero: 60.0% ({left:,} of {size:,} are left)"]
    for path, kernel in new.items():
        if name != "obs":  # It changes what stays.
            np.testing.assert_array_equal(kernel, np.where(kernel != 0, old[path], 0))
    others = zip(model.weights, result.model.weights, strict=True)
    for w, v in others:
        if w.name not in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            np.testing.assert_array_equal(w, v)
    assert result.invariants[0].broken(result.model) == ""


def test_strength_zero_changes_nothing_and_twice_is_once():
    model = resnet()
    same = weights.apply(model, weights.Config(0, **FAST)).model
    assert all(map(np.array_equal, same.get_weights(), model.get_weights()))
    for scope in ("layer", "global"):
        config = weights.Config(0.7, scope=scope, **FAST)
        once = weights.apply(model, config).model
        twice = weights.apply(once, config).model
        assert all(map(np.array_equal, once.get_weights(), twice.get_weights()))


def test_the_result_is_plain_keras_and_loads(tmp_path):
    small = weights.apply(everything(), weights.Config(0.9, **FAST)).model
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).uniform(0, 255, (2, *small.input_shape[1:]))
    np.testing.assert_array_equal(loaded(x), small(x))
    assert [layer.name for layer in small.layers] == [layer.name for layer in everything().layers]


def test_magnitude_and_its_threshold_by_hand():
    model = lenet()
    config = weights.Config(threshold=1, saliency="magnitude", scope="layer", **FAST)
    small = values(weights.apply(model, config).model)
    for path, kernel in values(model).items():
        limit = np.sqrt(np.square(kernel, dtype=np.float64).mean())
        np.testing.assert_array_equal(small[path], np.where(np.abs(kernel) < limit, 0, kernel))
    config = weights.Config(threshold=1, saliency="magnitude", scope="global", **FAST)
    small = values(weights.apply(model, config).model)
    flat = np.concatenate([kernel.ravel() for kernel in values(model).values()])
    left = np.concatenate([kernel.ravel() for kernel in small.values()])
    limit = np.sqrt(np.square(flat, dtype=np.float64).mean())
    np.testing.assert_array_equal(left, np.where(np.abs(flat) < limit, 0, flat))


def test_lamp_by_hand():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[1.0, -3.0], [2.0, 0.0]])])
    score = saliency.lamp(model, kernels(model)[0], None)[0]
    # Squares 1, 9, 4, 0; each over the sum of all that are not smaller.
    np.testing.assert_allclose(score, [[1 / 14, 1], [4 / 13, 0]])


def test_lamp_spares_the_small_layer_and_magnitude_the_large_weights():
    model = keras.Sequential(
        [keras.Input((50,)), layers.Dense(50, name="wide"), layers.Dense(2, name="narrow")]
    )
    rng = np.random.default_rng(0)
    model.get_layer("wide").set_weights([rng.normal(size=(50, 50)), np.zeros(50)])
    model.get_layer("narrow").set_weights([0.01 * rng.normal(size=(50, 2)), np.zeros(2)])
    left = {
        name: weights.apply(model, weights.Config(0.9, saliency=name, **FAST)).summary["kernels"]
        for name in ("lamp", "magnitude")
    }
    assert left["magnitude"]["narrow/kernel"] == [100, 1]
    assert left["lamp"]["narrow/kernel"][1] > 50


def softmax_regression(softmax):
    """Returns a linear classifier, pictures, labels and its probabilities."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, name="logits")])
    if softmax:
        model.add(layers.Softmax())
    perturb(model)
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 3, 40)
    logits = x.astype(np.float64) @ np.asarray(model.layers[0].kernel) + model.layers[0].bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return model, x, y, p


@pytest.mark.parametrize("softmax", [True, False])
def test_curvatures_of_softmax_regression_by_hand(softmax):
    """For logits, Gauss-Newton is the Hessian of the cross-entropy: E x² p (1 - p)."""
    model, x, y, p = softmax_regression(softmax)
    found = kernels(model)[0]
    hessian = np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x)
    got = saliency.gauss_newton(model, found, x, batch_size=1)[0]
    np.testing.assert_allclose(got, hessian, rtol=1e-4)
    wrong = p - np.eye(3)[y]
    got = saliency.empirical_fisher(model, found, x, y, batch_size=1)[0]
    np.testing.assert_allclose(got, np.einsum("ni,nc->ic", x**2, wrong**2) / len(x), rtol=1e-4)
    many = PassData(np.tile(x, (20, 1)), y, lambda model: model)
    obd = saliency.obd(model, found, many)[0]
    kernel = np.asarray(model.layers[0].kernel)
    # In batches the pictures have random signs, whose products vanish on average only.
    assert np.corrcoef(obd.ravel(), (hessian * kernel**2 / 2).ravel())[0, 1] > 0.97


def test_batches_and_random_directions_are_right_on_average():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(20, "softmax")])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    many = np.tile(x, (400, 1))  # The same pictures under ever new signs and directions.
    p = np.asarray(model(x), np.float64)
    hessian = np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x)
    got = saliency.gauss_newton(model, kernels(model)[0], many, batch_size=8)[0]
    np.testing.assert_allclose(got, hessian, rtol=0.3)


def test_obd_spares_what_magnitude_would_not():
    """An input that is always nearly zero: its large weights do nothing."""
    model, x, y, _ = softmax_regression(softmax=True)
    x[:, 0] *= 1e-3
    kernel, bias = model.layers[0].get_weights()
    kernel[0] = 5
    model.layers[0].set_weights([kernel, bias])
    config = weights.Config(0.2, saliency="obd", scope="layer", **FAST)
    small = weights.apply(model, config, PassData(x, y, lambda model: model)).model
    assert (np.asarray(small.layers[0].kernel) == 0).nonzero()[0].tolist() == [0, 0, 0]


def correlated(n=300):
    """Returns pictures whose neighbouring values are alike."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, 6, 6, 2)).cumsum(1).cumsum(2)
    return x.astype("float32")


def conv_and_dense(padding="same"):
    return perturb(
        keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(3, 3, strides=2, padding=padding, name="conv"),
                layers.Flatten(),
                layers.Dense(4, name="dense"),
            ]
        )
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_obs_by_brute_force(monkeypatch, padding):
    """Each weight removed, the others of its output solved for by least squares."""
    monkeypatch.setattr(surgeon, "_DAMPING", 0.0)
    model, x = conv_and_dense(padding), correlated()
    found = kernels(model)[0]
    got = saliency.obs(model, found, PassData(x, None, lambda model: model))
    hidden = np.asarray(model.layers[0](x), np.float64)
    # An identity kernel gives what the convolution reads, in the order of its weights.
    reader = layers.Conv2D(18, 3, strides=2, padding=padding, use_bias=False)
    reader.build(x.shape)
    reader.set_weights([np.eye(18).reshape(3, 3, 2, 18)])
    inputs = [np.asarray(reader(x), np.float64).reshape(-1, 18), hidden.reshape(len(x), -1)]
    for kernel, score, read in zip(found, got, inputs, strict=True):
        weights = kernel.matrix(kernel.value()).astype(np.float64)
        outputs = read @ weights
        for q, o in [(0, 0), (3, 1), (5, 2)]:
            rest = np.delete(read, q, 1)
            best = np.linalg.lstsq(rest, outputs[:, o], rcond=None)[0]
            error = np.square(rest @ best - outputs[:, o]).sum() / np.square(outputs).sum()
            assert kernel.matrix(score)[q, o] == pytest.approx(error, rel=1e-2)


def test_obs_fits_what_stays_by_least_squares(monkeypatch):
    monkeypatch.setattr(surgeon, "_DAMPING", 0.0)
    model, x = conv_and_dense(), correlated()
    kernel = kernels(model)[0][1]
    read = np.asarray(model.layers[0](x), np.float64).reshape(len(x), -1)
    old = kernel.value().astype(np.float64)
    stays = np.random.default_rng(0).uniform(size=old.shape) < 0.5
    surgeon.compensate(model, [kernel], [stays], x)
    for o in range(4):
        part = read[:, stays[:, o]]
        best = np.linalg.lstsq(part, read @ old[:, o], rcond=None)[0]
        np.testing.assert_allclose(kernel.value()[stays[:, o], o], best, atol=1e-3)
    assert not kernel.value()[~stays].any()


def test_obs_without_any_inputs_to_see_is_relative_magnitude():
    model, x = conv_and_dense(), correlated(20)
    outer = keras.Sequential([keras.Input((6, 6, 2)), model])
    found = kernels(outer)[0]
    scores = saliency.obs(outer, found, PassData(x, None, lambda model: model))
    for kernel, score in zip(found, scores, strict=True):
        squares = np.square(kernel.value())
        np.testing.assert_allclose(score, squares / squares.sum(), rtol=1e-5)


def test_obs_disturbs_the_outputs_least():
    model, x = conv_and_dense(), correlated()
    data, want = PassData(x, None, lambda model: model), np.asarray(model(x))
    error = {}
    for name in ("obs", "magnitude"):
        config = weights.Config(0.5, saliency=name, scope="layer", **FAST)
        error[name] = np.square(
            np.asarray(weights.apply(model, config, data).model(x)) - want
        ).sum()
    assert error["obs"] < 0.3 * error["magnitude"]


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1x4", "4x1"])
def test_patterns_by_layer(pattern):
    result = weights.apply(lenet(), weights.Config(0.5, pattern=pattern, scope="layer", **FAST))
    for kernel in kernels(result.model)[0]:
        kept = kernel.matrix(kernel.value()) != 0
        if ":" in pattern:
            n = int(pattern[0])
            full = kept[: len(kept) // 4 * 4].reshape(-1, 4, kept.shape[1]).sum(1)
            assert (full == n).all()
        else:
            sides = [int(side) for side in pattern.split("x")]
            cut = [size // side * side for size, side in zip(kept.shape, sides, strict=True)]
            inner = kept[: cut[0], : cut[1]]
            blocks = inner.reshape(cut[0] // sides[0], sides[0], cut[1] // sides[1], sides[1])
            assert set(blocks.sum((1, 3)).ravel()) <= {0, 4}
            assert kept.mean() == pytest.approx(0.5, abs=0.1)
    assert result.summary["ratio"] == pytest.approx(0.75 if pattern == "1:4" else 0.5, abs=0.02)


def test_a_ratio_that_is_out_of_reach_is_said_so():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    for pattern, reached in (("none", "75.0%"), ("2x1", "50.0%"), ("2:2", "")):
        result = weights.apply(model, weights.Config(0.9, pattern=pattern, **FAST))
        assert result.missed == (
            f"90.0% of the kernels' weights zero: {reached} at most" if reached else ""
        )
    assert weights.apply(model, weights.Config(0.75, **FAST)).missed == ""


def test_ends_may_stay_dense():
    result = weights.apply(lenet(), weights.Config(0.9, dense_ends=True, **FAST))
    assert list(result.summary["kernels"]) == ["conv2/kernel", "fc1/kernel"]
    assert result.protected == [
        "conv1/kernel: an end stays dense",
        "logits/kernel: an end stays dense",
    ]
    assert result.summary["ratio"] == pytest.approx(0.9, abs=1e-4)


def test_gradual_pruning_trains_and_goes_on_from_what_is_sparse(tmp_path):
    dataset = data.load(data.check(corners.save(tmp_path / "x.npz")))
    from cnnkit.training.fit import fit

    nonzeros = []

    def train(model, *, callbacks, **options):
        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                nonzeros.append(sum(int((v != 0).sum()) for v in values(model).values()))

        fit(model, dataset, batch_size=16, lr=1e-3, callbacks=[*callbacks, Watch()], **options)
        return model

    model = corners.network(end="deployable")
    x, y = dataset.arrays("train")
    given = PassData(x.astype("float32"), y, lambda model: model, train)
    size = sum(v.size for v in values(model).values())
    first = weights.apply(model, weights.Config(0.5, epochs=2, **FAST), given)
    assert nonzeros == sorted(nonzeros, reverse=True)
    assert len(set(nonzeros)) > 5
    assert nonzeros[-1] == first.summary["nonzeros"] == pytest.approx(size / 2, abs=1)
    assert any(
        (a != b).any() for a, b in zip(model.get_weights(), first.model.get_weights(), strict=True)
    )
    nonzeros.clear()
    second = weights.apply(first.model, weights.Config(0.75, epochs=2, **FAST), given)
    assert size / 4 < nonzeros[0] <= size / 2
    assert len(set(nonzeros)) > 5
    assert nonzeros[-1] == second.summary["nonzeros"] == pytest.approx(size / 4, abs=1)


def test_without_data_the_epochs_are_left_out_and_said_so():
    result = weights.apply(lenet(), weights.Config(0.5, epochs=3, **FAST))
    assert result.notes[0] == "without data the weights went at once, not in epochs"
    assert result.summary["ratio"] == pytest.approx(0.5, abs=1e-4)


def test_what_it_buys_is_measured():
    model = corners.network(end="deployable")
    kernel, bias = model.get_layer("second").get_weights()
    result = weights.apply(model, weights.Config(0.9))
    measured = result.summary["files"]
    assert set(measured) == {"keras", "tflite"}
    for sizes in measured.values():
        assert sizes["zip_bytes_after"] < sizes["zip_bytes_before"] - 2 * (kernel.size + bias.size)
    assert measured["tflite"]["bytes_before"] == measured["tflite"]["bytes_after"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w", b"".join(w.tobytes() for w in result.model.get_weights()))
    assert measured["tflite"]["zip_bytes_after"] > len(packed.getvalue())
    assert result.notes[-1].endswith("so memory and latency on x86 do not change")


def test_a_file_that_cannot_be_written_is_said_so():
    @keras.saving.register_keras_serializable("test_weights")
    class Mine(layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3), Mine()])
    result = weights.apply(model, weights.Config(0.5))
    assert set(result.summary["files"]) == {"keras"}
    assert any(note.startswith("tflite: not measured:") for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("saliency=obd", "looks at pictures, and there are none. Give data, or choose magnitude"),
        ("saliency=fisher", "looks at pictures"),
        ("saliency=obs", "looks at pictures"),
        ("pattern=4:2", "N of an N:M pattern is more than M"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    with pytest.raises(UsageError, match=message):
        passes.parse(f"prune-weights:{options}").apply(lenet())


def test_labels_are_asked_for():
    model = lenet()
    unlabelled = PassData(sample(model).x, None, lambda model: model)
    with pytest.raises(UsageError, match="needs labels"):
        weights.apply(model, weights.Config(saliency="fisher"), unlabelled)


@pytest.mark.parametrize("pattern", ["2:", "0:4", "2:4:8", "block", "x4"])
def test_a_wrong_pattern_is_refused(pattern):
    with pytest.raises(UsageError, match="none, N:M such as 2:4, or blocks"):
        passes.parse(f"prune-weights:pattern={pattern}")


def test_models_without_a_graph_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    for model in (Own(), keras.Sequential([layers.Dense(3)])):
        with pytest.raises(UsageError, match="The model has no layer graph"):
            weights.apply(model, weights.Config())


def test_a_model_with_nothing_to_prune():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.GlobalAveragePooling2D()])
    result = weights.apply(model, weights.Config(**FAST))
    assert result.summary["weights"] == 0
    assert result.missed == "80.0% of the kernels' weights zero: 0.0% at most"
    assert result.notes[0] == "nothing could be pruned: no layer has a kernel that may go"
    assert result.invariants == []
