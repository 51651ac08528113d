"""What a student is to match of its teacher's logits."""

import keras
from keras import ops

from cnnkit.types import Tensor


def soft_labels(temperature: float) -> keras.distillation.LogitsDistillation:
    """Returns `T² KL(softmax(z / T) ‖ softmax(g / T))`, averaged over the pictures.

    `z` are the teacher's logits, `g` the student's. Its gradient is that of the soft cross-entropy,
    `T (softmax(g / T) - softmax(z / T))`: the factor T² keeps its size as T grows, where it comes
    to that of `logit_regression`, for logits of zero mean divided by the number of classes.

    Args:
        temperature: T, positive.

    Reference:
        Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", eq. 1-4,
        https://arxiv.org/abs/1503.02531. Differs: less the entropy of the soft labels, so that
        the loss is 0 at a match. From logits throughout: the KL divergence of Keras clips
        probabilities at 1e-7, beyond which a student that is wrong learns nothing.
    """

    def loss(teacher: Tensor, student: Tensor) -> Tensor:
        soft, logs = ops.softmax(teacher), ops.log_softmax(student)
        return temperature**2 * ops.sum(soft * (ops.log_softmax(teacher) - logs), -1)

    return keras.distillation.LogitsDistillation(temperature, loss)


def logit_regression() -> keras.distillation.LogitsDistillation:
    """Returns `1/(2N) Σ ‖g(x) - z‖²` over the N pictures of a batch.

    Reference:
        Ba, Caruana 2014, "Do Deep Nets Really Need to be Deep?", eq. 1,
        https://arxiv.org/abs/1312.6184. Differs: nothing.
    """

    def loss(teacher: Tensor, student: Tensor) -> Tensor:
        return ops.sum(ops.square(student - teacher), -1) / 2

    return keras.distillation.LogitsDistillation(1.0, loss)
