import numpy as np

from cnnkit.losses import CostMatrix
from cnnkit.losses import CostVector
from tests.losses.test_cost_matrix import COSTS
from tests.specs import Spec

NO_LABEL = "its labels are costs; test_a_matrix_gives_all_examples_of_a_class_one_vector holds"
VECTORS = np.array(COSTS, "float32")[[1, 3]]
SPECS = (
    Spec(
        "loss",
        "CostVector",
        lambda: CostVector(),
        input_shape=(5,),
        targets=VECTORS,
        truth=100 * np.eye(5)[[1, 3]] - 50,
        exempt={
            "test_a_soft_label_is_the_expectation_of_hard_ones": NO_LABEL,
            "test_numbers_and_one_hot_labels_are_the_same": NO_LABEL,
        },
    ),
)


def test_a_matrix_gives_all_examples_of_a_class_one_vector():
    """12.2.1"""
    h = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    for from_logits in (True, False):
        options = {"from_logits": from_logits, "reduction": "none"}
        np.testing.assert_allclose(
            CostVector(**options)(VECTORS, h), CostMatrix(COSTS, **options)([1, 3], h), rtol=1e-5
        )


def test_by_hand():
    loss = CostVector(from_logits=False, reduction="none")
    costs, p = [[0.0, 3.0], [2.0, 0.0]], [[0.5, 0.5], [0.25, 0.75]]
    np.testing.assert_allclose(loss(costs, p), [1.5, 0.5])
