"""What a network does otherwise than the rules of thumb say, in words.

The rules are for networks that are designed anew; well-known networks break some of them with
good reason.

Reference:
    Wei 2017, "Analyzing Convolutional Neural Networks", sections 11.1 and 11.2.3. Differs: sides
    of the picture are asked to be multiples of 32, which holds for the sizes that the book names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import NamedTuple

import keras

from cnnkit.analysis.calls import Call
from cnnkit.analysis.calls import opened

# Of the sizes 32, 96, 224, 448 and 672: they can be halved five times.
_SIDE = 32
_LARGEST_KERNEL = 5
_LARGEST_WINDOW = 3
# Names of layers in a text.
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One rule that is not kept.

    Attributes:
        rule: Its name.
        layers: Where; inside a nested model, `outer/inner`.
        text: What is found and what would be usual.
    """

    rule: str
    layers: tuple[str, ...]
    text: str


def check(model: keras.Model) -> list[Finding]:
    """Returns the rules that a model does not keep, in the order of the book.

    Raises:
        UsageError: If `model` has no graph or a tensor of unknown size.

    Example:
        >>> net = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(64, 7)])
        >>> [finding.rule for finding in check(net)]
        ['kernel size', 'padding']
    """
    calls, results = opened(model)
    makers = {number: call for call in calls for number in call.outputs}
    classes = {makers[number].shapes[0][-1] for number in results}
    convolutions = list(_convolutions(calls))
    findings = (
        _input_size(calls),
        _kernel_size(convolutions),
        _even_kernels(convolutions),
        _strides(convolutions),
        _padding(convolutions, makers),
        _channels(convolutions, classes),
        _pooling(calls),
        _normalization(calls, makers),
    )
    return [finding for finding in findings if finding is not None]


class _Conv(NamedTuple):
    call: Call
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]


def _convolutions(calls: list[Call]) -> Iterator[_Conv]:
    """Yields the convolutions; one that covers all of its input is a dense layer."""
    for call in calls:
        layer = call.operation
        if not hasattr(layer, "kernel_size") or "Transpose" in type(layer).__name__:
            continue
        sides = _sides(call, call.shapes[0])
        kernel = _each(layer.kernel_size, len(sides))
        if max(kernel) == 1 or max(sides) > 1:
            dilations = getattr(layer, "dilation_rate", 1)
            count = len(sides)
            yield _Conv(call, kernel, _each(layer.strides, count), _each(dilations, count))


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _sides(call: Call, shape: tuple[int, ...]) -> tuple[int, ...]:
    first = getattr(call.operation, "data_format", None) == "channels_first"
    return shape[2:] if first else shape[1:-1]


def _size(sides: Any) -> str:
    return "x".join(map(str, sides))


def _finding(rule: str, found: list[tuple[Call, str]], text: str) -> Finding | None:
    """Returns a finding whose text has `{}` for the places, or None without one."""
    if not found:
        return None
    names = tuple(dict.fromkeys(call.name for call, _ in found))
    details: dict[str, list[str]] = {}
    for call, detail in found:
        places = details.setdefault(detail, [])
        if call.name not in places:
            places.append(call.name)
    listed = (f"{detail} in {_some(places)}" for detail, places in details.items())
    return Finding(rule, names, text.format("; ".join(listed)))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _input_size(calls: list[Call]) -> Finding | None:
    found = []
    for call in calls:
        sides = call.shapes[0][1:-1]
        if not call.inputs and len(sides) > 1 and any(side % _SIDE for side in sides):
            near = (max(_SIDE, round(side / _SIDE) * _SIDE) for side in sides)
            found.append((call, f"{_size(sides)} (nearest: {_size(near)})"))
    return _finding(
        "input size", found, "{}: sides such as 32, 96, 224 and 448 can be halved five times"
    )


def _kernel_size(convolutions: list[_Conv]) -> Finding | None:
    found = []
    for conv in convolutions:
        size = max(conv.kernel)
        if size > _LARGEST_KERNEL:
            count = size // 2
            saved = f"{count} layers of 3x3, with {9 * count / size**2:.0%} of the weights"
            found.append((conv.call, f"{_size(conv.kernel)} (as much is seen by {saved})"))
    return _finding("kernel size", found, "{}: 3x3 and 5x5 are usual")


def _even_kernels(convolutions: list[_Conv]) -> Finding | None:
    even = (conv for conv in convolutions if any(size % 2 == 0 for size in conv.kernel))
    found = [(conv.call, _size(conv.kernel)) for conv in even]
    return _finding(
        "even kernel", found, "{}: only odd sizes f have a padding, (f-1)/2, that is symmetric"
    )


def _strides(convolutions: list[_Conv]) -> Finding | None:
    strided = (conv for conv in convolutions if max(conv.strides) > 1)
    found = [(conv.call, _size(conv.strides)) for conv in strided]
    return _finding("stride", found, "{}: 1 is usual; pooling makes maps smaller")


def _padding(convolutions: list[_Conv], makers: dict[int, Call]) -> Finding | None:
    found = []
    for conv in convolutions:
        before = makers[conv.call.inputs[0]].operation
        padded = type(before).__name__.startswith("ZeroPadding")
        valid = conv.call.operation.padding == "valid" and not padded
        if valid and max(conv.kernel) > 1 and max(conv.strides) == 1:
            pairs = zip(conv.kernel, conv.dilations, strict=True)
            pad = max((size - 1) * dilation / 2 for size, dilation in pairs)
            found.append((conv.call, f"none, where {pad:g} keeps the size,"))
    return _finding("padding", found, "{}: maps shrink with every layer, and edges count less")


def _channels(convolutions: list[_Conv], classes: set[int]) -> Finding | None:
    found = []
    for call, *_ in convolutions:
        layer = call.operation
        first = getattr(layer, "data_format", None) == "channels_first"
        made = call.shapes[0][1 if first else -1]
        own = "Depthwise" not in type(layer).__name__  # those follow from the input
        # As many as there are classes: the scores.
        if own and made not in classes and made & (made - 1):
            found.append((call, str(made)))
    return _finding("channels", found, "{}: powers of two suit memory and kernels of hardware")


def _pooling(calls: list[Call]) -> Finding | None:
    found = []
    for call in calls:
        size = getattr(call.operation, "pool_size", None)
        if size is None:
            continue
        sides = _sides(call, call.shapes[0])
        window = _each(size, len(sides))
        if max(window) > _LARGEST_WINDOW and max(sides) > 1:
            found.append((call, _size(window)))
    return _finding("pooling size", found, "{}: more than 3x3 throws too much away; 2x2 is usual")


def _normalization(calls: list[Call], makers: dict[int, Call]) -> Finding | None:
    found = []
    for call in calls:
        if not isinstance(call.operation, keras.layers.BatchNormalization):
            continue
        before = makers[call.inputs[0]].operation
        if _nonlinear(before):
            found.append((call, f"behind {before.name}"))
    return _finding(
        "normalization", found, "{}: batch normalization usually stands before the non-linearity"
    )


def _nonlinear(operation: Any) -> bool:
    if hasattr(operation, "activation"):
        return operation.activation not in (None, keras.activations.linear)
    kinds = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU)
    return isinstance(operation, kinds) or type(operation).__name__ in ("Relu", "Sigmoid", "Tanh")
