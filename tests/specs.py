"""What a test needs to know about a part in order to run the contracts on it."""

import importlib
import pkgutil
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import pytest

import tests


@dataclass(frozen=True)
class Spec:
    """How to make one part and what to feed it.

    Attributes:
        kind: Registry kind.
        name: Registry name.
        make: Builds a fresh instance in a non-default configuration. Of a block: a function from a
            tensor to a tensor.
        input_shape: Shape of one example, without the batch axis. Of a loss: of its predictions.
        targets: Of a loss: `y_true` of two examples.
        predict: Of a loss: `y_pred` made from numbers in [-1, 1] of shape `(2, *input_shape)`.
        truth: Of a loss: `y_pred` for which the loss of `targets` is 0; None is the scores of a
            classifier that is sure of them.
        atol: Largest absolute error allowed after float export.
        deep: Whether the part is a deeper variant of one with the same code: its contracts are
            run by `pytest -m deep`.
        exempt: Contract name -> reason (with issue number). Strict: a contract
            that starts to pass must be taken out of this table.
    """

    kind: str
    name: str
    make: Callable[[], Any]
    input_shape: tuple[int, ...] = (8, 8, 4)
    targets: Any = (1, 3)
    predict: Callable[[Any], Any] = lambda numbers: numbers
    truth: Any = None
    atol: float = 1e-5
    deep: bool = False
    exempt: dict[str, str] = field(default_factory=dict)


def all_specs() -> Iterator[Spec]:
    """Yields the `SPECS` of every test file."""
    for module in pkgutil.walk_packages(tests.__path__, "tests."):
        if ".contracts" not in module.name and module.name.rsplit(".", 1)[-1].startswith("test_"):
            yield from getattr(importlib.import_module(module.name), "SPECS", ())


def each(*kinds: str) -> pytest.MarkDecorator:
    """Parametrizes a contract over every spec of the given kinds."""
    return pytest.mark.parametrize(
        "spec", [pytest.param(s, id=f"{s.kind}-{s.name}") for s in all_specs() if s.kind in kinds]
    )
