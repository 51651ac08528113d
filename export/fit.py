"""Whether a model will run on a target, before it is trained, and what would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

from cnnkit.errors import GateError
from export import formats
from export.estimate import estimate
from export.targets import Target
from export.targets import parse

if TYPE_CHECKING:
    import keras

    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter
    from export.estimate import Estimate
    from export.lowering import Lowered

# Modules of formats whose ops are not TFLite's, by which networks are told here.
_OWN_OPS = frozenset({"onnx", "saved_model"})
# The least part of its filters that a pass can be asked to take.
_STEP = 0.05


@dataclass(frozen=True)
class Fit:
    """What a model needs on a target, and what it has.

    Attributes:
        target: The target, with the limits of the board.
        format: The format that it would take.
        size_bytes: Of that file, foretold.
        ram_bytes: Of its activations, with what TFLite Micro keeps beside.
        lacking: By layer, the ops that the target does not have.
        slow: By layer, the ops that its accelerator leaves to the CPU.
        problems: Why it does not fit; empty if it does.
        remedies: What would make it fit.
        notes: What is not a reason.
    """

    target: Target
    format: str
    size_bytes: int
    ram_bytes: int
    lacking: dict[str, tuple[str, ...]]
    slow: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]
    remedies: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def memory(self) -> str:
        """What `ram_bytes` counts: only TFLite Micro needs nothing else."""
        return "RAM" if self.format == "micro" else "activations"

    def to_dict(self) -> dict[str, Any]:
        """Returns what a manifest says of it."""
        return {
            "name": self.target.name,
            "format": self.format,
            "flash_limit": self.target.flash_bytes,
            "ram_limit": self.target.ram_bytes,
            "size_bytes": self.size_bytes,
            "ram_bytes": self.ram_bytes,
            "memory": self.memory,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def check(
    model: keras.Model,
    target: Target,
    labels: Sequence[str] | None = None,
    resize: str | None = "letterbox",
) -> Fit:
    """Returns whether `model` will fit `target`.

    Args:
        model: From raw pixels to probabilities, trained or not.
        target: See `export.targets.parse`.
        labels: Class names, which are stored in the file.
        resize: The resize rule, which is stored too.

    Raises:
        UsageError: If the model is not functional, with one input and one output.
    """
    name = target.formats[0]
    found = estimate(model, name, labels, resize)
    own = formats.get(name).module in _OWN_OPS
    lacking = {} if own else _outside(found.ops, target.ops)
    slow = {} if own else _outside(found.ops, target.fast_ops)
    slow = {at: ops for at, ops in slow.items() if at not in lacking}
    problems = [f"{target.name} has no {', '.join(ops)} ({at})" for at, ops in lacking.items()]
    remedies = [f"replace {', '.join(lacking)}"] if lacking else []
    size, ram = found.size_bytes, found.ram_bytes
    if target.flash_bytes is not None and size > target.flash_bytes:
        problems.append(f"the {name} file has about {size:,} bytes, flash {target.flash_bytes:,}")
        remedies.append(_smaller(found, target.flash_bytes, name))
    if target.ram_bytes is not None and ram > target.ram_bytes:
        problems.append(f"it needs about {ram:,} bytes of RAM, there are {target.ram_bytes:,}")
        remedies.append(_lighter(model, found.ops, target.ram_bytes / ram))
    notes = [f"{', '.join(ops)} runs on the CPU ({at})" for at, ops in slow.items()]
    if own:
        unknown = _outside(found.ops, None).items()
        notes += [f"{', '.join(ops)} is not foretold ({at})" for at, ops in unknown]
    if target.fast_bytes is not None and size > target.fast_bytes:
        notes.append(f"beyond {target.fast_bytes:,} bytes, weights are fetched for each picture")
    return Fit(
        target,
        name,
        size,
        ram,
        lacking,
        slow,
        tuple(problems),
        tuple(dict.fromkeys(remedies)),
        tuple(notes),
    )


def require(
    model: keras.Model, recipe: Recipe, reporter: Reporter, labels: Sequence[str] | None = None
) -> None:
    """Tells whether a network fits the target of its recipe, before it is trained or compressed.

    Ops that the target lacks stay, whatever is done later. A file or RAM that is too large may
    still become small: the passes of the recipe say whether somebody intends that.

    Raises:
        GateError: If it cannot run there.
        UsageError: If the target is not a known one.
    """
    target = parse(recipe.export.target)
    if target is None:
        return
    found = check(model, target, labels, recipe.data.resize)
    for note in found.notes:
        reporter.note(f"{target.name}: {note}")
    if found.ok:
        reporter.note(
            f"fits {target.name}: {len(found.notes) or 'no'} notes, about {found.size_bytes:,} "
            f"bytes of {found.format} file and {found.ram_bytes:,} of {found.memory}"
        )
    elif found.lacking or not recipe.compress.passes:
        raise GateError(
            f"The network does not fit {target.name}",
            where=f"export.target={recipe.export.target}",
            received="; ".join(found.problems),
            todo="; or ".join(found.remedies),
        )
    else:
        reporter.warn(
            f"as it is, the network does not fit {target.name}: {'; '.join(found.problems)}. "
            f"{'; or '.join(found.remedies)}"
        )


def _outside(ops: Iterable[Lowered], known: frozenset[str] | None) -> dict[str, tuple[str, ...]]:
    """Returns the ops that are not known, by layer; None knows all that have a rule."""
    found: dict[str, tuple[str, ...]] = {}
    for op in ops:
        if not op.known or (known is not None and op.name not in known):
            found[op.layer] = (*found.get(op.layer, ()), op.name)
    return found


def _smaller(found: Estimate, limit: int, name: str) -> str:
    """Returns what leaves so many bytes: weights go with the square of the channels."""
    constants = [constant for op in found.ops for constant in op.constants]
    weights = sum(constant.size for constant in constants if constant.kind == "weight")
    weights *= 4 if formats.get(name).variant == "float32" else 1
    rest = found.size_bytes - weights
    width = _down(math.sqrt(max(limit - rest, 0) / weights))
    return (
        f"a width of {width:g} times the present one (`--set model.width=`), or "
        f"`--pass prune-filters:ratio={1 - width:g}`"
    )


def _lighter(model: keras.Model, ops: Iterable[Lowered], part: float) -> str:
    """Returns what leaves a part of the activations, which go with the channels and the pixels."""
    height, width, _ = model.input_shape[1:]
    side = math.sqrt(part)
    largest = max(ops, key=lambda op: math.prod(op.shape))
    return (
        f"pictures of {int(height * side)}x{int(width * side)} (`--set data.image_size=`), or "
        f"{_down(part):g} times the channels, most of all at {largest.layer}"
    )


def _down(part: float) -> float:
    return round(max(_STEP, math.floor(part / _STEP) * _STEP), 2)
