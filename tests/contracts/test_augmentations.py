"""What every augmentation must do, whatever it does to pictures."""

import numpy as np
import pytest
import tensorflow as tf

from tests.specs import each

MIXING = ("MixUp", "CutMix", "OneOf", "Stack")  # their specs put pictures together
COLOURS = ("FancyPCA", "HSVJitter")


def batch(spec, n=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *spec.input_shape)).astype("float32")
    y = rng.dirichlet(np.ones(4), n).astype("float32")
    starts = rng.uniform(0, 0.4, (n, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(0.1, 0.5, (n, 2))], 1).astype("float32")
    return x, y, boxes


def done(part, x, y, boxes, seed=(3, 5)):
    results = part(tf.constant(x), tf.constant(y), tf.constant(seed, "int32"), tf.constant(boxes))
    return [np.asarray(result) for result in results]


@each("augmentation")
def test_shapes_types_and_ranges_are_kept(spec):
    for n in (1, 6):
        x, y, boxes = batch(spec, n)
        pictures, labels = done(spec.make(), x, y, boxes)
        assert (pictures.shape, pictures.dtype) == (x.shape, np.float32)
        assert (labels.shape, labels.dtype) == (y.shape, np.float32)
        assert pictures.min() >= 0
        assert pictures.max() <= 255
        assert labels.min() >= 0
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)


@each("augmentation")
def test_the_same_seed_gives_the_same_bits(spec):
    x, y, boxes = batch(spec)
    first = done(spec.make(), x, y, boxes)
    for one, other in zip(first, done(spec.make(), x, y, boxes), strict=True):
        np.testing.assert_array_equal(one, other)
    seeds = [done(spec.make(), x, y, boxes, (3, k))[0] for k in range(4)]
    assert any(not np.array_equal(first[0], other) for other in seeds)


@each("augmentation")
def test_runs_in_tf_data_and_gives_the_same_there(spec):
    """With batches of two sizes, none of them known when the graph is made."""
    part, (x, y, boxes) = spec.make(), batch(spec)
    data = tf.data.Dataset.from_tensor_slices((x, y, boxes)).batch(4)
    data = data.map(lambda x, y, boxes: part(x, y, tf.constant([3, 5]), boxes))
    assert data.element_spec[0].shape.as_list() == [None, *spec.input_shape]
    for start, (pictures, labels) in zip((0, 4), data, strict=True):
        end = start + 4
        want = done(part, x[start:end], y[start:end], boxes[start:end])
        np.testing.assert_allclose(pictures, want[0], atol=2e-3)
        np.testing.assert_allclose(labels, want[1], atol=1e-6)


@each("augmentation")
def test_each_picture_has_its_own_draw(spec):
    x, _, boxes = batch(spec, 12)
    x, boxes = (np.repeat(a[:1], 12, 0) for a in (x, boxes))
    y = np.eye(12, dtype="float32")
    pictures, labels = done(spec.make(), x, y, boxes)
    kinds = {
        p.tobytes() + np.sort(label).tobytes() for p, label in zip(pictures, labels, strict=True)
    }
    assert len(kinds) > 1


@each("augmentation")
def test_pictures_do_not_see_each_other(spec):
    """Where two are put together, a picture changes only those whose labels tell of it."""
    x, _, boxes = batch(spec, 8)
    y = np.eye(8, dtype="float32")
    before, labels = done(spec.make(), x, y, boxes)
    x[3] = 255 - x[3]
    after, _ = done(spec.make(), x, y, boxes)
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed[3] or labels[3, 3] == 0
    assert not any(changed & (labels[:, 3] == 0))
    if spec.name not in MIXING:
        np.testing.assert_array_equal(labels, y)


@each("augmentation")
def test_says_what_it_is(spec):
    assert repr(spec.make()).startswith(f"{spec.name}(")


@each("augmentation")
def test_grey_pictures_work_or_are_refused_in_words(spec):
    x, y, boxes = batch(spec)
    grey = x[..., :1]
    if spec.name in COLOURS:
        with pytest.raises(ValueError, match=f"{spec.name} needs pictures in colour"):
            done(spec.make(), grey, y, boxes)
    else:
        assert done(spec.make(), grey, y, boxes)[0].shape == grey.shape
