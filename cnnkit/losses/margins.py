"""By how much a class beats the others."""

from keras import ops

from cnnkit.types import Tensor


def best_other(scores: Tensor) -> Tensor:
    """Returns, for each class, the largest score of the other classes."""
    best, first = _best(scores)
    return ops.where(first, ops.max(_without(scores, first), -1, keepdims=True), best)


def logsumexp_of_others(scores: Tensor) -> Tensor:
    """Returns, for each class, `log Σ exp` over the scores of the other classes."""
    best, first = _best(scores)
    ratios = ops.exp(scores - best)
    # The best class is in this sum for all classes but itself, so that it is 1 or more.
    rest = ops.where(first, 1.0, ops.sum(ratios, -1, keepdims=True) - ratios)
    of_best = ops.logsumexp(_without(scores, first), -1, keepdims=True)
    return ops.where(first, of_best, best + ops.log(rest))


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest score, and where it is: at one class, even if several share it."""
    first = ops.one_hot(ops.argmax(scores, -1), scores.shape[-1], dtype="bool")
    return ops.max(scores, -1, keepdims=True), first


def _without(scores: Tensor, left_out: Tensor) -> Tensor:
    return ops.where(left_out, -float("inf"), scores)
