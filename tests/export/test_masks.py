from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import data
from cnnkit.training.fit import fit
from export.pruning import masks
from export.pruning.kernels import kernels
from tests.contracts.parts import perturb
from tests.export import corners
from tests.export import networks


def random(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1, shape)


@pytest.mark.parametrize("fraction", [0, 0.3, 0.5, 0.99])
def test_layer_scope_takes_the_fraction_of_each_matrix_to_a_weight(fraction):
    scores = [random((20, 3)), 100 * random((7, 5), 1)]
    for kept, score in zip(masks.select(scores, [fraction] * 2), scores, strict=True):
        gone = min(int(fraction * score.size + 0.5), score.size - 1)  # No matrix loses all.
        assert (~kept).sum() == gone
        assert gone == 0 or score[~kept].max() <= score[kept].min()


def test_global_scope_takes_the_least_wherever_they_are():
    small, large = random((10, 10)), 5 + random((10, 10), 1)
    kept = masks.select([small, large], [0.4, 0.4], scope="global")
    assert [(~k).sum() for k in kept] == [80, 0]
    # Not even here does a matrix lose all.
    kept = masks.select([small, large], [0.5, 0.7], scope="global")
    assert [(~k).sum() for k in kept] == [99, 21]
    assert kept[0].flat[small.argmax()]


def test_scores_are_not_changed():
    scores = [random((8, 2))]
    before = scores[0].copy()
    for text in ("none", "2:4", "2x1"):
        masks.select(scores, [0.5], pattern=masks.pattern(text))
    np.testing.assert_array_equal(scores[0], before)


@pytest.mark.parametrize("rows", [8, 9, 10, 11])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 3)])
def test_n_of_m_by_brute_force(rows, n, m):
    scores = random((rows, 3))
    pattern = masks.pattern(f"{n}:{m}")
    kept = masks.select([scores], [1.0], pattern=pattern)[0]
    for column in range(3):
        for start in range(0, rows, m):
            group = scores[start : start + m, column]
            best = np.sort(group)[-n:]
            np.testing.assert_array_equal(kept[start : start + m, column], np.isin(group, best))
    assert not pattern.broken(kept, kept)
    full = np.ones_like(kept)
    assert pattern.broken(full, kept) == (n < m)


def test_part_of_the_way_to_n_of_m():
    scores = random((16, 4))
    pattern = masks.NM(2, 4)
    end = masks.select([scores], [0.5], pattern=pattern)[0]
    half = masks.select([scores], [0.25], pattern=pattern)[0]
    assert ((~half).sum(), (~end).sum()) == (16, 32)
    assert not (~half & end).any()


def test_blocks_go_as_one_and_by_their_mean():
    scores = random((5, 6))
    pattern = masks.pattern("2x4")
    units = pattern.units(scores)
    assert units.shape == (3, 2)
    assert units[0, 0] == pytest.approx(scores[:2, :4].mean())
    assert units[2, 1] == pytest.approx(scores[4:, 4:].mean())
    kept = masks.select([scores], [0.5], pattern=pattern)[0]
    for i in range(0, 5, 2):
        for j in range(0, 6, 4):
            assert len(np.unique(kept[i : i + 2, j : j + 4])) == 1
    assert not pattern.broken(kept, kept)
    # The same number of non-zeros, in more blocks.
    shuffled = np.random.default_rng(0).permutation(kept.ravel()).reshape(kept.shape)
    assert pattern.broken(shuffled, kept)


def test_cubic_schedule():
    # Zhu & Gupta 2017, eq. 1: s_f + (s_i - s_f)(1 - t/T)³ with s_i = 0, s_f = 1.
    assert [masks.cubic(t) for t in (0, 0.25, 0.5, 1)] == [0, 1 - 0.75**3, 0.875, 1]


def every_kind():
    x = image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(6, 3, groups=2, name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(5, 2, name="separable")(x)
    x = layers.Conv2DTranspose(3, 2, name="transposed")(x)
    x = layers.Reshape((-1, 3), name="line")(x)
    x = layers.Conv1D(4, 2, name="line_conv")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    shared = layers.Dense(4, name="shared")
    x = shared(shared(inner(x)))
    x = layers.EinsumDense("ab,bc->ac", 3, name="einsum")(x)
    return perturb(keras.Model(image, x))


def test_kernels_of_every_kind():
    found, protected = kernels(every_kind())
    assert [kernel.path for kernel in found] == [
        "conv/kernel",
        "depthwise/kernel",
        "separable/depthwise_kernel",
        "separable/pointwise_kernel",
        "transposed/kernel",
        "line_conv/kernel",
        "inner/dense/kernel",
        "shared/kernel",
    ]
    assert protected == ["einsum: EinsumDense is no convolution or dense layer"]


def test_matrices_have_a_column_for_each_output():
    """One column zero, one output of the layer without its input: the bias alone."""
    model = every_kind()
    for kernel in kernels(model)[0]:
        matrix = kernel.matrix(kernel.value())
        np.testing.assert_array_equal(kernel.shaped(matrix), kernel.value())
        if kernel.path.startswith("separable"):
            continue  # Its first kernel has no bias behind it.
        layer = model
        for name in kernel.path.split("/")[:-1]:
            layer = layer.get_layer(name)
        zeroed = matrix.copy()
        zeroed[:, 1] = 0
        kernel.variable.assign(kernel.shaped(zeroed))
        x = random((1, *layer.input.shape[1:]) if layer.name != "line_conv" else (1, 36, 3))
        y = np.asarray(layer(x.astype("float32")))
        np.testing.assert_allclose(y[..., 1], layer.bias[1], atol=1e-6)
        assert np.abs(y[..., 0] - layer.bias[0]).max() > 1e-4


def test_quantized_and_unknown_layers_are_named():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(2)])
    model.layers[0].quantize("int8")
    found, protected = kernels(model)
    assert len(found) == 1
    assert protected == ["a: its kernel is quantized or adapted, not plain floats"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return data.load(data.check(corners.save(tmp_path_factory.mktemp("d") / "x.npz")))


def test_masked_weights_stay_zero_at_every_step_and_others_learn(dataset):
    model = corners.network(end="deployable")
    found = kernels(model)[0]
    kept = [np.random.default_rng(1).uniform(size=k.variable.shape) < 0.5 for k in found]
    before = [k.value() for k in found]
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([k.value() for k in found])

    fit(model, dataset, epochs=2, lr=1e-3, callbacks=[masks.Masks(found, kept), Watch()])
    assert len(seen) > 4
    for step in seen:
        assert all((v[~k] == 0).all() for v, k in zip(step, kept, strict=True))
    learned = zip(found, before, kept, strict=True)
    assert all((k.value() != b)[m].any() for k, b, m in learned)


def test_gradual_masks_follow_the_schedule_and_nothing_returns(dataset):
    model = corners.network(end="deployable")
    found = kernels(model)[0]
    asked, zeros = [], []

    def choose(part):
        asked.append(part)
        scores = [k.matrix(np.abs(k.value())) for k in found]
        kept = masks.select(scores, [0.8 * part] * len(found))
        return [k.shaped(m) for k, m in zip(found, kept, strict=True)]

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            zeros.append(np.concatenate([k.value().ravel() == 0 for k in found]))

    gradual = masks.Gradual(found, choose, updates=2)
    fit(
        model,
        dataset,
        epochs=3,
        batch_size=16,
        lr=1e-3,
        keep_best=False,
        callbacks=[gradual, Watch()],
    )
    steps = len(zeros)
    every = steps // 3 // 2
    # By hand: after every `every` steps, and at the end.
    due = sorted({*range(every, steps + 1, every), steps})
    assert asked == [masks.cubic(step / steps) for step in due]
    for before, after in pairwise(zeros):
        assert not (before & ~after).any()
    assert zeros[-1].mean() == pytest.approx(0.8, abs=0.01)
    share = dict(zip(due, asked, strict=True))
    for step in due:
        assert zeros[step - 1].mean() == pytest.approx(0.8 * share[step], abs=0.01)


def test_a_bound_on_the_nonzeros_of_a_part_holds_for_every_part():
    rng = np.random.default_rng(3)
    kept = rng.uniform(size=(3, 3, 8, 6)) < 0.1
    for _ in range(50):
        i, o = (np.sort(rng.permutation(n)[: rng.integers(1, n + 1)]) for n in (8, 6))
        part = kept[:, :, i][..., o]
        bound = masks._most(kept, part.shape)
        assert part.sum() <= bound <= kept.sum()
    assert masks._most(kept, kept.shape) == kept.sum()
    assert masks._most(kept, (3, 3, 4, 3)) < 0.7 * kept.sum()
    assert masks._most(kept, (3, 3, 9, 6)) == 0


def pruned(pattern="none"):
    """Returns a small network with half of its weights zero, and the invariant."""
    model = networks.tiny()
    found, form = kernels(model)[0], masks.pattern(pattern)
    scores = [k.matrix(np.abs(k.value())) for k in found]
    chosen = masks.select(scores, [0.5] * len(found), pattern=form)
    kept = [k.shaped(m) for k, m in zip(found, chosen, strict=True)]
    masks.Masks(found, kept).press()
    return model, masks.Zeros({k.path: m for k, m in zip(found, kept, strict=True)}, form)


def test_zeros_are_kept_or_missed():
    model, zeros = pruned()
    assert zeros.broken(model) == ""
    kernel = model.get_layer("second").kernel
    values = np.asarray(kernel).copy()
    at = np.argwhere(values == 0)[0]
    values[tuple(at)] = 1e-9
    # A weight elsewhere became zero: the number of zeros is not what counts.
    values[tuple(np.argwhere(values != 0)[-1])] = 0
    kernel.assign(values)
    assert zeros.broken(model) == (
        "at least 1 removed weights of second/kernel are not zero any more"
    )


def test_a_layer_that_is_gone_is_missed():
    model, _ = pruned()
    zeros = masks.Zeros({"other/kernel": np.ones((2, 2), bool)})
    assert "other/kernel, which has zeros to keep, is no more" in zeros.broken(model)
    assert zeros.keeper(model) is None


def test_a_pattern_that_is_lost_is_missed():
    """Without an input channel the groups of four begin elsewhere."""
    model, zeros = pruned("2:4")
    assert zeros.broken(model) == ""
    kept = zeros.kept["second/kernel"]
    cut = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, padding="same", name="second")]
    )
    cut.layers[0].set_weights([kept[:, :, 1:], np.zeros(4)])
    alone = masks.Zeros({"second/kernel": kept}, zeros.pattern)
    assert alone.broken(cut) == (
        "the non-zeros of second/kernel are no longer in the pattern NM(n=2, m=4)"
    )
    assert masks.Zeros({"second/kernel": kept}).broken(cut) == ""


def test_keeper_holds_what_is_zero_now(dataset):
    model = corners.network(end="deployable")
    found = kernels(model)[0]
    kept = {k.path: np.abs(k.value()) > np.median(np.abs(k.value())) for k in found}
    masks.Masks(found, list(kept.values())).press()
    zeros = masks.Zeros(kept)
    fit(model, dataset, epochs=1, lr=1e-2, callbacks=[zeros.keeper(model)])
    assert zeros.broken(model) == ""
    fit(model, dataset, epochs=1, lr=1e-2)
    assert "are not zero any more" in zeros.broken(model)
