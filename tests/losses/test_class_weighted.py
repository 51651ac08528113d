import keras
import numpy as np
import pytest

from cnnkit.losses import ClassWeighted
from cnnkit.losses import Hinge
from cnnkit.losses import class_weights
from tests.specs import Spec

WEIGHTS = [0.5, 2.0, 1.0, 3.0, 0.25]
SPECS = (
    Spec(
        "loss",
        "ClassWeighted",
        lambda: ClassWeighted(WEIGHTS),
        input_shape=(5,),
        exempt={
            "test_no_class_is_special": (
                "weights name classes; test_classes_and_weights_move_together holds instead"
            ),
            "test_a_soft_label_is_the_expectation_of_hard_ones": (
                "the weight is linear in the label, and so is the loss, but not their product; "
                "test_a_mixed_label_has_the_mixed_weight holds instead"
            ),
        },
    ),
)


def scores(n=4):
    return np.random.default_rng(0).normal(size=(n, 5)).astype("float32")


def cross_entropy(y, h):
    return -(y * (h - np.log(np.exp(h).sum(-1, keepdims=True)))).sum(-1)


def test_matches_the_formula():
    h, y = scores(), [0, 3, 1, 1]
    want = np.array(WEIGHTS)[y] * cross_entropy(np.eye(5)[y], h)
    np.testing.assert_allclose(ClassWeighted(WEIGHTS, reduction="none")(y, h), want, rtol=1e-5)
    np.testing.assert_allclose(ClassWeighted(WEIGHTS)(y, h), want.mean(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixed_label_has_the_mixed_weight(smoothing):
    h, share = scores(), np.array([[0.3], [1.0], [0.5], [0.9]])
    y = share * np.eye(5)[[0, 3, 1, 1]] + (1 - share) * np.eye(5)[[2, 2, 0, 4]]
    inner = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    weight = share[:, 0] * [0.5, 3, 2, 2] + (1 - share[:, 0]) * [1, 1, 0.5, 0.25]
    want = weight * cross_entropy((1 - smoothing) * y + smoothing / 5, h)
    found = ClassWeighted(WEIGHTS, inner, reduction="none")(y.astype("float32"), h)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_mixing_leaves_the_mean_weight_as_it_is():
    """With a loss of 1 for everybody, the loss is the weight: 1 over the training pictures."""
    counts = [90, 9, 1]
    y = np.repeat(np.eye(3), counts, 0).astype("float32")
    rng = np.random.default_rng(0)
    share = rng.uniform(size=(100, 1)).astype("float32")
    for labels in (y, (y + y[rng.permutation(100)]) / 2):
        found = ClassWeighted(class_weights(counts), _One())(labels, np.zeros((100, 3), "float32"))
        np.testing.assert_allclose(found, 1, rtol=1e-5)
    mixed = share * y + (1 - share) * y[rng.permutation(100)]
    weights = mixed @ np.array(class_weights(counts))
    found = ClassWeighted(class_weights(counts), _One())(mixed, np.zeros((100, 3), "float32"))
    np.testing.assert_allclose(found, weights.mean(), rtol=1e-5)


class _One(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.ones_like(y_pred[:, 0])


def test_weights_are_what_seeing_a_class_more_often_does():
    """The gradient is that of a training set in which each class is repeated by its weight."""
    h, y = scores(3), np.array([0, 1, 1])
    repeated = np.repeat(np.arange(3), [4, 1, 1])  # class 0 four times
    plain = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    want = np.asarray(plain(np.eye(5)[y][repeated], h[repeated])) * 6 / 3
    found = ClassWeighted([4.0, 1.0, 1.0, 1.0, 1.0], plain)(np.eye(5)[y], h)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_any_loss_can_be_weighted():
    h, y = scores(), np.eye(5)[[0, 3, 1, 1]].astype("float32")
    want = np.array([0.5, 3, 2, 2]) * np.asarray(Hinge(reduction="none")(y, h))
    np.testing.assert_allclose(ClassWeighted(WEIGHTS, Hinge(), reduction="none")(y, h), want)


def test_classes_and_weights_move_together():
    h, y, order = scores(), np.array([0, 2, 4, 1]), [3, 0, 4, 1, 2]
    moved = ClassWeighted(np.array(WEIGHTS)[order].tolist())
    np.testing.assert_allclose(
        moved(np.argsort(order)[y], h[:, order]), ClassWeighted(WEIGHTS)(y, h), rtol=1e-5
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99, 0.9999, 1.0])
def test_mean_weight_over_the_examples_is_one(beta):
    counts = np.array([500, 50, 5])
    weights = np.array(class_weights(counts.tolist(), beta))
    np.testing.assert_allclose((weights * counts).sum(), counts.sum())
    effective = (1 - beta**counts) / (1 - beta) if beta < 1 else counts
    np.testing.assert_allclose(weights * effective, weights[0] * effective[0])
    assert list(weights) == sorted(weights)


def test_weights_of_beta_zero_and_one():
    assert class_weights([6, 3, 1], 0.0) == [1, 1, 1]
    np.testing.assert_allclose(class_weights([6, 3, 1]), np.array([10, 20, 60]) / 18)
    np.testing.assert_allclose(class_weights([6, 3, 1], 1 - 1e-9), class_weights([6, 3, 1]))


def test_bad_arguments():
    for weights in ([1.0], [[1.0, 2.0]], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="`weights` of ClassWeighted must be"):
            ClassWeighted(weights)
    with pytest.raises(TypeError, match="`loss` of ClassWeighted must be a loss"):
        ClassWeighted([1.0, 2.0], "hinge")
    for counts in ([3], [3, 0], [[1, 2]]):
        with pytest.raises(ValueError, match="`counts` of class_weights must be"):
            class_weights(counts)
    with pytest.raises(ValueError, match=r"`beta` of class_weights must be in \[0.0, 1.0\]"):
        class_weights([1, 2], 1.5)
