import numpy as np
import pytest

from cnnkit.losses import CostMatrix
from cnnkit.losses import costs_from_confusion
from cnnkit.losses import costs_from_counts
from tests.specs import Spec

COSTS = [[0.0, 1, 2, 3, 1], [2, 0, 1, 1, 1], [1, 1, 0, 5, 4], [1, 3, 2, 0, 1], [1, 1, 1, 1, 0]]
SPECS = (
    Spec(
        "loss",
        "CostMatrix",
        lambda: CostMatrix(COSTS),
        input_shape=(5,),
        exempt={
            "test_no_class_is_special": (
                "costs name classes; test_classes_and_costs_move_together holds instead"
            )
        },
    ),
)


def test_matches_the_formula():
    """12.2.1"""
    h = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    p = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    y = [0, 2, 4, 1]
    want = (np.array(COSTS)[y] * p).sum(-1)
    np.testing.assert_allclose(CostMatrix(COSTS, reduction="none")(y, h), want, rtol=1e-5)
    sure = CostMatrix(COSTS, from_logits=False, reduction="none")
    answers = [3, 3, 4, 0]
    np.testing.assert_allclose(sure(y, np.eye(5)[answers]), np.array(COSTS)[y, answers])


def test_classes_and_costs_move_together():
    h = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    y, order = np.array([0, 2, 4, 1]), [3, 0, 4, 1, 2]
    moved = CostMatrix(np.array(COSTS)[np.ix_(order, order)].tolist())
    np.testing.assert_allclose(
        moved(np.argsort(order)[y], h[:, order]), CostMatrix(COSTS)(y, h), rtol=1e-5
    )


def test_costs_from_counts():
    """12.2.2: counts 3:2:1."""
    want = np.array([[0, 2 / 3, 1 / 3], [3 / 2, 0, 1 / 2], [3, 2, 0]])
    np.testing.assert_allclose(costs_from_counts([3, 2, 1]), want)
    np.testing.assert_allclose(costs_from_counts([30, 20, 10]), want)
    np.testing.assert_allclose(6 * want, [[0, 4, 2], [9, 0, 3], [18, 12, 0]])
    CostMatrix(costs_from_counts([3, 2, 1]))


def test_costs_from_confusion():
    """12.2.2, with exact shares of the error rates 1/2, 2/3 and 5/26."""
    costs = np.array(costs_from_confusion([[4, 1, 3], [2, 3, 4], [3, 2, 21]]))
    rates = np.array([1 / 2, 2 / 3, 5 / 26])
    errors = np.array([[0, 1, 3], [2, 0, 4], [3, 2, 0]])
    np.testing.assert_allclose(costs, errors * (rates / rates.sum())[:, None])
    per_cent = [[0, 36.8, 110.4], [98.1, 0, 196.2], [42.5, 28.3, 0]]
    np.testing.assert_allclose(100 * costs, per_cent, atol=0.05)
    assert not np.any(costs_from_confusion([[5, 0], [0, 7]]))


@pytest.mark.parametrize(
    "costs", [[[0.0]], [[0, 1]], [[0, -1], [1, 0]], [[1, 1], [1, 0]], [[0, np.inf], [1, 0]]]
)
def test_bad_costs(costs):
    with pytest.raises(ValueError, match="`costs` of CostMatrix must be a square matrix"):
        CostMatrix(costs)


@pytest.mark.parametrize("counts", [[3], [3, 0], [[1, 2]], [1, -1]])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="`counts` of costs_from_counts must be"):
        costs_from_counts(counts)


@pytest.mark.parametrize("confusion", [[[1]], [[1, 2]], [[0, 0], [1, 1]], [[1, -1], [1, 1]]])
def test_bad_confusion(confusion):
    with pytest.raises(ValueError, match="`confusion` of costs_from_confusion must be"):
        costs_from_confusion(confusion)
