import numpy as np
import pytest

from cnnkit.ensembles import combination

# Four members, two pictures, three classes.
P = np.array(
    [
        [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]],
        [[0.4, 0.5, 0.1], [0.2, 0.7, 0.1]],
        [[0.6, 0.2, 0.2], [0.3, 0.3, 0.4]],
        [[0.1, 0.8, 0.1], [0.0, 1.0, 0.0]],
    ]
)


def test_simple_averaging_is_equation_13_2():
    np.testing.assert_allclose(combination.mean(P), [[0.4, 0.45, 0.15], [0.15, 0.7, 0.15]])


def test_weighted_averaging_is_not_divided_again():
    """The erratum of equation 13.3: with weights of sum 1, probabilities stay probabilities."""
    w = np.array([0.1, 0.2, 0.3, 0.4])
    expected = sum(w[i] * P[i] for i in range(4))
    found = combination.weighted(P, w)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.sum(-1), 1)
    np.testing.assert_allclose(combination.weighted(P, [0.25] * 4), combination.mean(P))


def test_weights_follow_the_validation_accuracy():
    weights = combination.accuracy_weights([0.9, 0.6, 0.0])
    np.testing.assert_allclose(weights, [0.6, 0.4, 0.0])
    np.testing.assert_allclose(combination.accuracy_weights([0.0, 0.0]), [0.5, 0.5])


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.6, -0.1, 0.0], [0.3] * 4])
def test_weights_that_equation_13_4_forbids(weights):
    with pytest.raises(ValueError, match="4 numbers that are not negative and sum to 1"):
        combination.weighted(P, weights)


def test_majority_needs_more_than_half_else_it_rejects():
    np.testing.assert_array_equal(combination.votes(P), [[2, 2, 0], [0, 3, 1]])
    np.testing.assert_array_equal(combination.majority(P), [combination.REJECTED, 1])
    np.testing.assert_array_equal(combination.majority(P[:3]), [0, 1])
    np.testing.assert_array_equal(combination.majority(P[:1]), [0, 1])


def test_plurality_always_answers_and_ties_go_to_the_higher_mean():
    found = combination.plurality(P)
    np.testing.assert_allclose(found, (combination.votes(P) + combination.mean(P)) / 5)
    np.testing.assert_allclose(found.sum(-1), 1)
    np.testing.assert_array_equal(found.argmax(-1), [1, 1])


def test_no_probability_is_worth_a_vote():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(6, 0.2), (5, 2000))
    counts = combination.votes(p)
    answer = combination.plurality(p).argmax(-1)
    np.testing.assert_array_equal(
        np.take_along_axis(counts, answer[:, None], 1)[:, 0], counts.max(-1)
    )
    clear = combination.majority(p) != combination.REJECTED
    np.testing.assert_array_equal(combination.majority(p)[clear], answer[clear])


@pytest.mark.parametrize("rule", [combination.mean, combination.votes, combination.majority])
def test_shapes(rule):
    with pytest.raises(ValueError, match=r"\(members, n, classes\)"):
        rule(P[0])
