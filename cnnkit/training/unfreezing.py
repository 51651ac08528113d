"""Which layers are trained, and from which epoch on: the grammar `NAME:key=value,…`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnkit import grammar
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

# Name -> what is trained, and the keys of its options, which are numbers of epochs.
PLANS: dict[str, tuple[str, tuple[str, ...]]] = {
    "all": ("all layers", ()),
    "head": ("the last layer with a kernel", ()),
    "deep": ("the second half of the layers with kernels", ()),
    "head_then_all": (
        "the last layer for some epochs, by default a third of them, and then all",
        ("epochs",),
    ),
    "stages": (
        "the last layer for some epochs, then the second half for some, and then all",
        ("head", "deep"),
    ),
}


# Chooses one of these, see `cnnkit.training.similarity`; only a recipe has it.
AUTO = "auto"


@dataclass(frozen=True)
class Stage:
    """Epochs in which the same layers are trained.

    Attributes:
        part: "head", "deep" or "all".
        start: First epoch, counted from 0.
        end: The epoch after the last one.
        last: Whether it is the last stage.
    """

    part: str
    start: int
    end: int
    last: bool


def parse(text: str) -> tuple[str, dict[str, int]]:
    """Returns the name and the options of a plan.

    Raises:
        UsageError: If the plan, an option or a value is not a known one.

    Example:
        >>> parse("stages:head=3,deep=6")
        ('stages', {'head': 3, 'deep': 6})
    """
    name, given = grammar.parse("plan of unfreezing", text, PLANS, lambda name: PLANS[name][1])
    for key, value in given.items():
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(
                f"Wrong value of `{key}` of plan {name!r}",
                expected="a number of epochs, at least 1",
                received=value,
            )
    if name == "stages" and not given:
        raise UsageError("No stage given", where=text, expected="such as stages:head=3,deep=6")
    return name, {key: int(value) for key, value in given.items()}


def stages(text: str, epochs: int) -> list[Stage]:
    """Returns the stages of a training.

    Args:
        text: As `parse` takes it.
        epochs: Of the training.

    Raises:
        UsageError: If the text is wrong, or no epoch is left for all layers.

    Example:
        >>> [(s.part, s.start, s.end) for s in stages("stages:head=3,deep=2", 10)]
        [('head', 0, 3), ('deep', 3, 5), ('all', 5, 10)]
    """
    name, options = parse(text)
    if name == "head_then_all":
        lengths = {"head": options.get("epochs", -(-epochs // 3))}
    elif name == "stages":
        lengths = {part: options[part] for part in ("head", "deep") if part in options}
    else:
        return [Stage(name, 0, epochs, last=True)]
    made, start = [], 0
    for part, length in lengths.items():
        made.append(Stage(part, start, start + length, last=False))
        start += length
    if start >= epochs:
        raise UsageError(
            "No epoch is left in which all layers are trained",
            where=f"unfreeze={text}",
            expected=f"more than {start} epochs",
            received=epochs,
        )
    return [*made, Stage("all", start, epochs, last=True)]


def final(text: str) -> str:
    """Returns the plan that trains from the start what `text`, or `AUTO`, trains at the end."""
    return text if text in ("head", "deep") else "all"


def before(part: str, layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Returns the layers that are frozen when a part is trained.

    Layers without kernels, such as batch normalization, belong to the kernel before them.

    Args:
        part: "head", "deep" or "all".
        layers: Of a model, in their order.
    """
    layers = list(layers)
    own = [k for k, layer in enumerate(layers) if has_kernel(layer)]
    if part == "all" or not own:
        return []
    return layers[: own[-1 if part == "head" else len(own) // 2]]


@contextlib.contextmanager
def frozen(
    layers: Iterable[keras.layers.Layer], variables: Iterable[keras.Variable]
) -> Iterator[None]:
    """Freezes layers and single weights, and gives them back as they were.

    Frozen batch normalization computes as in inference and leaves its averages alone, also where
    all weights of such a layer are frozen one by one.

    Args:
        layers: Frozen as a whole.
        variables: Of any layers.
    """
    # A layer hands its switch on to all that is in it, so everything below is remembered.
    below = [part for layer in layers for part in layer._flatten_layers()]
    switches = [(part, part.trainable) for part in below]
    weights = [v for part in below for v in part.variables] + list(variables)
    states = [(v, v.trainable) for v in weights]
    try:
        for thing in [*below, *weights]:
            thing.trainable = False
        yield
    finally:
        for part, state in switches:
            part.trainable = state
        for weight, state in states:
            weight.trainable = state


def has_kernel(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer has a kernel that is trained."""
    return any(v.name.endswith("kernel") for v in layer.trainable_variables)
