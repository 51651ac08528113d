"""What every loss must do, whatever it measures."""

import numpy as np
import tensorflow as tf

from tests.contracts.parts import batch
from tests.contracts.parts import predictions
from tests.specs import each


def each_of(part, y_true, y_pred):
    """Returns the losses of the single examples."""
    config = {**part.get_config(), "reduction": "none"}
    return np.asarray(type(part).from_config(config)(y_true, y_pred))


@each("loss")
def test_one_loss_for_each_example(spec):
    part, y = spec.make(), predictions(spec)
    losses = each_of(part, spec.targets, y)
    assert losses.shape == (2,)
    np.testing.assert_allclose(part(spec.targets, y), losses.mean(), rtol=1e-6)
    for k in range(2):
        alone = each_of(part, spec.targets[k : k + 1], y[k : k + 1])
        np.testing.assert_allclose(alone, losses[k : k + 1], rtol=1e-6)


@each("loss")
def test_finite_in_float16(spec):
    part = type(spec.make()).from_config({**spec.make().get_config(), "dtype": "float16"})
    y = tf.constant(spec.predict(50 * np.sign(batch(spec, dtype="float64"))), "float16")
    with tf.GradientTape() as tape:
        tape.watch(y)
        loss = part(spec.targets, y)
    assert loss.dtype == "float16"
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, y)).all()


@each("loss")
def test_no_class_is_special(spec):
    part, y = spec.make(), predictions(spec)
    order = np.random.default_rng(0).permutation(y.shape[-1])
    targets = np.asarray(spec.targets)
    moved = np.argsort(order)[targets] if targets.ndim == 1 else targets[:, order]
    np.testing.assert_allclose(
        each_of(part, moved, y[..., order]), each_of(part, targets, y), rtol=1e-5
    )


@each("loss")
def test_zero_at_the_truth_and_not_elsewhere(spec):
    part = spec.make()
    truth = spec.truth
    if truth is None:
        truth = 100 * np.eye(spec.input_shape[-1])[np.asarray(spec.targets)] - 50
    np.testing.assert_allclose(each_of(part, spec.targets, truth), 0, atol=1e-6)
    assert (each_of(part, spec.targets, predictions(spec)) > 0.01).all()


@each("loss")
def test_a_soft_label_is_the_expectation_of_hard_ones(spec):
    """For the losses that are linear in their label."""
    part, y = spec.make(), predictions(spec)
    classes = spec.input_shape[-1]
    labels = np.random.default_rng(1).dirichlet(np.ones(classes), 2).astype("float32")
    hard = [each_of(part, np.full(2, c), y) for c in range(classes)]
    np.testing.assert_allclose(
        each_of(part, labels, y), np.sum(labels.T * hard, 0), rtol=1e-5, atol=1e-6
    )


@each("loss")
def test_numbers_and_one_hot_labels_are_the_same(spec):
    part, y = spec.make(), predictions(spec)
    want = each_of(part, spec.targets, y)
    one_hot = np.eye(spec.input_shape[-1], dtype="float32")[np.asarray(spec.targets)]
    np.testing.assert_allclose(each_of(part, one_hot, y), want, rtol=1e-6)
    np.testing.assert_allclose(each_of(part, np.asarray(spec.targets)[:, None], y), want, rtol=1e-6)
