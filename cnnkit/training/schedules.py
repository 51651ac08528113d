"""The learning rate over a training: schedules by name, and the grammar `NAME:key=value,…`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnkit import grammar
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Option:
    """A number of a schedule, in (0, `most`]; `whole` if it counts something."""

    default: float
    meaning: str
    most: float = float("inf")
    whole: bool = False


_EVERY = Option(5, "epochs between two falls", whole=True)
_FACTOR = Option(0.5, "what each fall multiplies the rate by", most=1)
_END = Option(1e-3, "the last epoch's rate, as a fraction of the highest", most=1)
_K = Option(0.1, "how fast it falls: the rate is halved after 1 / k epochs")
_CYCLES = Option(5, "times that it falls from the highest rate to zero", whole=True)
# Name -> what it does with the rate, and its options. The defaults of `step` and `exponential` are
# the examples of Wei 2017, section 11.2.2; the papers leave the others to the user.
SCHEDULES: dict[str, tuple[str, dict[str, Option]]] = {
    "cosine": ("falls to zero along half a cosine", {}),
    "constant": ("stays", {}),
    "step": ("falls at once, every few epochs", {"every": _EVERY, "factor": _FACTOR}),
    "exponential": ("falls by the same factor after each epoch", {"end": _END}),
    "rising": (
        "rises by the same factor at every step: for a range test",
        {"start": Option(1e-7, "the first rate, as a fraction of the highest", most=1)},
    ),
    "inverse": ("falls as 1 / (1 + k * epochs)", {"k": _K}),
    "cyclic": ("falls along half a cosine, several times", {"cycles": _CYCLES}),
}


def parse(text: str) -> tuple[str, dict[str, float]]:
    """Returns the name and all options of the schedule that `text` describes.

    Raises:
        UsageError: If the schedule, an option or a value is not a known one.

    Example:
        >>> parse("step:every=10")
        ('step', {'every': 10, 'factor': 0.5})
    """
    name, given = grammar.parse("schedule", text, SCHEDULES, lambda name: SCHEDULES[name][1])
    options = SCHEDULES[name][1]
    values = {key: option.default for key, option in options.items()}
    for key, value in given.items():
        option = options[key]
        try:
            number = int(value) if option.whole else float(value)
        except ValueError:
            number = 0
        if not 0 < number <= option.most or number == float("inf"):
            interval = f"in (0, {option.most:g}]" if option.most < float("inf") else "above 0"
            raise UsageError(
                f"Wrong value of `{key}` of schedule {name!r}",
                expected=f"{'an integer' if option.whole else 'a number'} {interval}: "
                f"{option.meaning}, default {option.default:g}",
                received=value,
            )
        values[key] = number
    return name, values


def learning_rates(
    lr: float, schedule: str, epochs: int, epoch_steps: int, warmup_epochs: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate of every step: a linear rise, then what `schedule` says.

    Args:
        lr: The highest rate.
        schedule: As `parse` takes it.
        epochs: Of the training, with those of the rise.
        epoch_steps: Steps an epoch.
        warmup_epochs: Epochs of the rise.

    Raises:
        UsageError: If the schedule is unknown.

    Reference:
        Wei 2017, section 11.2.2 and eq. 13.1. Differs: `logspace(1e-2, 1e-5, 20)`, as printed
        there, is meant with the exponents -2 and -5.
    """
    from keras.optimizers import schedules

    from cnnkit.schedules import Warmup

    name, options = parse(schedule)
    epochs = max(1, epochs - warmup_epochs)
    steps = epochs * epoch_steps
    if name == "step":
        every = options["every"] * epoch_steps
        rates = schedules.ExponentialDecay(lr, every, options["factor"], staircase=True)
    elif name == "exponential":
        ratio = options["end"] ** (1 / max(1, epochs - 1))
        rates = schedules.ExponentialDecay(lr, epoch_steps, ratio, staircase=True)
    elif name == "rising":
        rates = schedules.ExponentialDecay(lr * options["start"], steps, 1 / options["start"])
    elif name == "inverse":
        rates = schedules.InverseTimeDecay(lr, epoch_steps, options["k"], staircase=True)
    elif name == "cyclic":
        cycle = -(-steps // int(options["cycles"]))
        rates = schedules.CosineDecayRestarts(lr, cycle, t_mul=1.0, m_mul=1.0)
    else:
        rates = schedules.CosineDecay(lr, steps, alpha=1.0 if name == "constant" else 0.0)
    return Warmup(rates, warmup_epochs * epoch_steps)
