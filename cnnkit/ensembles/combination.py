"""How members become one answer, from their probabilities `(members, n, classes)`.

What the rules return has the shape `(n, classes)`, sums to 1 for each picture, and is largest at
the answer; `majority` alone may answer nothing.

Reference:
    Wei 2017, section 13.2.2, eq. 13.2-13.4. Differs: eq. 13.3 divides by the number of members
    what is weighted already; here weights that sum to 1 give a mean.
"""

from collections.abc import Sequence

import numpy as np

# What `majority` answers where no class has more than half of the votes.
REJECTED = -1
_TOLERANCE = 1e-6


def mean(probabilities: np.ndarray) -> np.ndarray:
    """Returns `Σ s_i / N` over the N members.

    Raises:
        ValueError: If the shape is not `(members, n, classes)`.
    """
    return _stacked(probabilities).mean(0)


def weighted(probabilities: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns `Σ w_i s_i`.

    Args:
        probabilities: `(members, n, classes)`.
        weights: One for each member, not negative, of sum 1, such as `accuracy_weights` gives.

    Raises:
        ValueError: If the shape is wrong, or the weights are not such.
    """
    members = _stacked(probabilities)
    return np.tensordot(checked_weights(weights, len(members)), members, 1)


def accuracy_weights(accuracies: Sequence[float]) -> np.ndarray:
    """Returns weights in proportion to what members are right on in the validation split.

    Members that are all always wrong get equal weights.

    Args:
        accuracies: Fractions, one for each member.
    """
    found = np.asarray(accuracies, float)
    return found / found.sum() if found.any() else np.full(len(found), 1 / len(found))


def checked_weights(weights: Sequence[float] | np.ndarray, members: int) -> np.ndarray:
    """Returns the weights, float64.

    Raises:
        ValueError: If they are not as many as the members, negative, or not of sum 1.
    """
    found = np.asarray(weights, float)
    sound = found.shape == (members,) and (found >= 0).all()
    if not sound or abs(found.sum() - 1) > _TOLERANCE:
        raise ValueError(
            f"`weights` must be {members} numbers that are not negative and sum to 1. "
            f"Received: weights={found.tolist()}"
        )
    return found


def votes(probabilities: np.ndarray) -> np.ndarray:
    """Returns how many members find each class the likeliest, `(n, classes)`.

    A member that finds several equally likely votes for the first of them.

    Raises:
        ValueError: If the shape is not `(members, n, classes)`.
    """
    members = _stacked(probabilities)
    return np.eye(members.shape[-1])[members.argmax(-1)].sum(0)


def plurality(probabilities: np.ndarray) -> np.ndarray:
    """Returns `(votes + mean) / (N + 1)`: the class with the most votes has the highest score.

    Of classes with equally many votes it is the one of the higher mean probability: the mean
    differs by less than one vote.

    Raises:
        ValueError: If the shape is not `(members, n, classes)`.
    """
    return (votes(probabilities) + mean(probabilities)) / (len(probabilities) + 1)


def majority(probabilities: np.ndarray) -> np.ndarray:
    """Returns the class that more than half of the members vote for, else `REJECTED`, `(n,)`.

    Raises:
        ValueError: If the shape is not `(members, n, classes)`.
    """
    counts = votes(probabilities)
    return np.where(counts.max(-1) > len(probabilities) / 2, counts.argmax(-1), REJECTED)


def _stacked(probabilities: np.ndarray) -> np.ndarray:
    members = np.asarray(probabilities, float)
    if members.ndim != 3 or not len(members):
        raise ValueError(
            "`probabilities` must have the shape (members, n, classes). "
            f"Received: shape={members.shape}"
        )
    return members
