"""The whole state of a training at the end of an epoch: what it takes to go on as if never stopped.

`checkpoints/state.json` names the arrays beside it and their SHA-256. It is replaced after they are
written, so that a kill at any moment leaves the state of this epoch or of the one before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnkit import files
from cnnkit.errors import UsageError

STATE = "checkpoints/state.json"


@dataclass(frozen=True)
class State:
    """What a training is made of, besides its recipe and its data.

    Attributes:
        epoch: Epochs that are done.
        arrays: Values of `variables_of`, in their order.
        memory: What the keeper remembers, of JSON's types.
    """

    epoch: int
    arrays: list[np.ndarray]
    memory: dict[str, Any]


def variables_of(trained: keras.Model) -> list[keras.Variable]:
    """Returns what training changes: weights, random states, and the optimizer's variables.

    Frozen or not, weights have the same place.
    """
    return [*trained.variables, *trained.optimizer.variables]


def capture(trained: keras.Model) -> list[np.ndarray]:
    """Returns copies of the values of `variables_of`."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables_of(trained)]


def restore(trained: keras.Model, arrays: list[np.ndarray], *, anew: bool = False) -> None:
    """Gives the variables their values back; the optimizer is built.

    Args:
        trained: What is trained.
        arrays: As `capture` returned them.
        anew: Leaves the optimizer as it is: that of the arrays trained other layers.

    Raises:
        UsageError: If these are the values of another network or optimizer.
    """
    variables = variables_of(trained)
    if anew:
        variables = list(trained.variables)
        arrays = arrays[: len(variables)]
    expected, received = [tuple(v.shape) for v in variables], [a.shape for a in arrays]
    if expected != received:
        raise UsageError(
            "The checkpoint is of another network or optimizer",
            expected=f"{len(expected)} arrays of its shapes",
            received=f"{len(received)} arrays",
            todo="the recipe in the run folder must be the one that it was begun with",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def save(folder: Path, state: State) -> None:
    """Writes a state and removes the one before."""
    place = folder / STATE
    arrays = place.with_name(f"state-{state.epoch:05d}.npz")
    with files.replacing(arrays) as partial:
        np.savez(partial, *state.arrays)
    # json's floats are exact: they are written with as many digits as it takes.
    described = {
        "epoch": state.epoch,
        "arrays": arrays.name,
        "sha256": files.sha256(arrays),
        "memory": state.memory,
    }
    files.write_json(place, described)
    for old in place.parent.glob("state-*.npz"):
        if old != arrays:
            files.remove(old)


def load(folder: Path) -> State | None:
    """Returns the last state that was written whole; None if there is none.

    Raises:
        UsageError: If it is damaged.
    """
    place = folder / STATE
    if not place.is_file():
        return None
    try:
        described = json.loads(place.read_text(encoding="utf-8"))
        arrays = place.with_name(Path(described["arrays"]).name)
        if files.sha256(arrays) != described["sha256"]:
            raise ValueError(f"{arrays.name} is not the file that was written")
        with np.load(arrays, allow_pickle=False) as held:
            values = [held[name] for name in held.files]
        return State(described["epoch"], values, described["memory"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            "The checkpoint is damaged",
            where=place,
            received=error,
            todo="train again; the best weights so far are beside it",
        ) from None
