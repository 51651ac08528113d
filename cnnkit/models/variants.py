"""Models of one family, registered by the rows of its table."""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras

from cnnkit.registry import register


def register_all(build: Callable[..., keras.Model], summaries: Mapping[str, str]) -> None:
    """Registers `build` once for each name, with the name as its first argument.

    Args:
        build: `build(name, input_shape, classes, *, ...)`. Its docstring is that of the family:
            what stands after its first line holds for every model.
        summaries: By name of a model, the first line of its docstring.
    """
    for name, summary in summaries.items():
        register("model")(_variant(build, name, summary))


def _variant(
    build: Callable[..., keras.Model], name: str, summary: str
) -> Callable[..., keras.Model]:
    def make(*args: Any, **kwargs: Any) -> keras.Model:
        return build(name, *args, **kwargs)

    signature = inspect.signature(build)
    _, *parameters = signature.parameters.values()
    _, _, family = inspect.getdoc(build).partition("\n")  # type: ignore[union-attr]
    make.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    make.__module__, make.__qualname__, make.__name__ = build.__module__, name, name
    make.__doc__ = f"{summary}\n{family}"
    return make
