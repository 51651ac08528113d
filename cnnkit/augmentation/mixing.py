"""Draws for augmentations that put two pictures together."""

import tensorflow as tf

from cnnkit.augmentation.augmentation import split
from cnnkit.augmentation.augmentation import uniform
from cnnkit.types import Tensor


def partners(seed: Tensor, n: Tensor) -> Tensor:
    """Returns the number of another picture for each; or, now and then, its own."""
    return tf.argsort(uniform(seed, (n,)))


def beta(seed: Tensor, n: Tensor, alpha: float) -> Tensor:
    """Returns `n` numbers of the distribution Beta(alpha, alpha).

    Of two gamma variates, `a / (a + b)` is `sigmoid(log a - log b)`. With a small alpha both may
    be too small for a float, so their logarithms are drawn: `gamma(alpha)` has the distribution of
    `gamma(alpha + 1) u^(1 / alpha)` with an even u.
    """
    of_gamma, of_uniform = split(seed, 2)
    gammas = tf.random.stateless_gamma((2, n), of_gamma, alpha + 1)
    evens = 1 - uniform(of_uniform, (2, n))  # not 0
    logs = tf.math.log(gammas) + tf.math.log(evens) / alpha
    return tf.sigmoid(logs[0] - logs[1])
