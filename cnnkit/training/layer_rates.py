"""Rates by depth: what the learning rate is multiplied by, for each weight of a network."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from cnnkit.errors import UsageError
from cnnkit.types import Tensor


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model in their order, and those of models within it in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def weights(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Returns the weights that are trained by their paths, which begin with a layer's name.

    What a layer lies in, such as a sequential model, is no part of the path.
    """
    found: dict[str, list[keras.Variable]] = {}
    for layer in leaves(model):
        for variable in layer.trainable_variables:
            held = found.setdefault(_path(layer.name, variable), [])
            if all(variable is not other for other in held):  # a layer may be called twice
                held.append(variable)
    return found


def caught(
    model: keras.Model, layer_lr: Mapping[str, float]
) -> dict[str, dict[str, list[keras.Variable]]]:
    """Returns the weights whose whole path matches each pattern.

    Args:
        model: Any built model.
        layer_lr: Regular expression -> multiplier of the learning rate.

    Raises:
        UsageError: If a pattern or a multiplier is not one, a pattern catches nothing, or two
            catch the same weight.
    """
    paths, owner = weights(model), dict[str, str]()
    found: dict[str, dict[str, list[keras.Variable]]] = {}
    for pattern, multiplier in layer_lr.items():
        if not 0 <= multiplier < math.inf:
            raise _wrong(pattern, "a finite number >= 0", multiplier)
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise _wrong(pattern, "a regular expression", error) from None
        found[pattern] = {path: v for path, v in paths.items() if expression.fullmatch(path)}
        if not found[pattern]:
            close = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
            raise _wrong(
                pattern, "the whole path of a weight", "none", f"closest: {', '.join(close)}"
            )
        for path in found[pattern]:
            if path in owner:
                raise _wrong(
                    pattern,
                    "one pattern for each weight",
                    f"{path}, which {owner[path]!r} catches too",
                    "make one of them narrower",
                )
            owner[path] = pattern
    return found


def layered(make: Any, factors: Sequence[tuple[keras.Variable, float]]) -> Any:
    """Returns what makes the same optimizer, with its rate and decay multiplied for some weights.

    All else is of one optimizer: its step, the norm that gradients are cut to, its averages.
    `keras.optimizers.MultiOptimizer` would cut the gradients of each group by themselves, and has
    no `learning_rate`.

    Args:
        make: A class of `keras.optimizers`, or a `partial` of one.
        factors: Weights and their multipliers; all others have 1.
    """
    whole = make if isinstance(make, partial) else partial(make)
    # Of the class, not of the object, where Keras would track it as state.
    names = {"factors": {id(variable): factor for variable, factor in factors}}
    kind: Any = whole.func
    return partial(type(f"Layered{kind.__name__}", (_Layered, kind), names), **whole.keywords)


class _Layered:
    """Comes before a `keras.optimizers.Optimizer` in the bases."""

    factors: dict[int, float] = {}

    def update_step(self: Any, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        super().update_step(  # type: ignore[misc]
            gradient, variable, learning_rate * self._factor(variable)
        )

    def _apply_weight_decay(self: Any, variables: Sequence[Any]) -> None:
        if self.weight_decay is None:
            return
        decay = self.weight_decay
        for variable in variables:
            self.weight_decay = decay * self._factor(variable)
            super()._apply_weight_decay([variable])  # type: ignore[misc]
        self.weight_decay = decay

    def _factor(self: Any, variable: Any) -> float:
        # What comes is maybe a part of it: the backend's own, or that of one device.
        own = self._trainable_variables[self._get_variable_index(variable)]
        return self.factors.get(id(own), 1.0)


def _path(layer: str, variable: keras.Variable) -> str:
    parts = variable.path.split("/")
    return "/".join(parts[parts.index(layer) :]) if layer in parts else f"{layer}/{variable.name}"


def _wrong(pattern: str, expected: str, received: object, todo: str = "") -> UsageError:
    return UsageError(
        "Wrong entry of layer_lr", where=pattern, expected=expected, received=received, todo=todo
    )
