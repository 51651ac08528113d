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


def _convolutions(calls: list[Call]) -> Iterator[Call]:
    """Yields the convolutions that look at more than the rest of the picture."""
    for call in calls:
        layer = call.operation
        if not hasattr(layer, "kernel_size") or "Transpose" in type(layer).__name__:
            continue
        # One that covers all of its input is a dense layer.
        if max(layer.kernel_size) == 1 or max(_sides(call, call.shapes[0])) > 1:
            yield call


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


def _kernel_size(convolutions: list[Call]) -> Finding | None:
    found = []
    for call in convolutions:
        size = max(call.operation.kernel_size)
        if size > _LARGEST_KERNEL:
            count = size // 2
            found.append(
                (
                    call,
                    f"{_size(call.operation.kernel_size)} (as much is seen by {count} layers of "
                    f"3x3, with {9 * count / size**2:.0%} of the weights)",
                )
            )
    return _finding("kernel size", found, "{}: 3x3 and 5x5 are usual")


def _even_kernels(convolutions: list[Call]) -> Finding | None:
    found = [
        (call, _size(call.operation.kernel_size))
        for call in convolutions
        if any(size % 2 == 0 for size in call.operation.kernel_size)
    ]
    return _finding(
        "even kernel", found, "{}: only odd sizes f have a padding, (f-1)/2, that is symmetric"
    )


def _strides(convolutions: list[Call]) -> Finding | None:
    found = [
        (call, _size(call.operation.strides))
        for call in convolutions
        if max(call.operation.strides) > 1
    ]
    return _finding("stride", found, "{}: 1 is usual; pooling makes maps smaller")


def _padding(convolutions: list[Call], makers: dict[int, Call]) -> Finding | None:
    found = []
    for call in convolutions:
        layer, before = call.operation, makers[call.inputs[0]]
        padded = type(before.operation).__name__.startswith("ZeroPadding")
        if layer.padding != "valid" or max(layer.kernel_size) == 1 or padded:
            continue
        if max(layer.strides) == 1:
            pads = [dilation * (size - 1) / 2 for size, dilation in _kernel(layer)]
            found.append((call, f"none, where {max(pads):g} keeps the size,"))
    return _finding("padding", found, "{}: maps shrink with every layer, and edges count less")


def _kernel(layer: Any) -> Iterator[tuple[int, int]]:
    return zip(layer.kernel_size, layer.dilation_rate, strict=True)


def _channels(convolutions: list[Call], classes: set[int]) -> Finding | None:
    found = [
        (call, str(filters))
        for call in convolutions
        # As many as there are classes: the scores.
        if (filters := getattr(call.operation, "filters", None)) and filters not in classes
        if filters & (filters - 1)
    ]
    return _finding("channels", found, "{}: powers of two suit memory and kernels of hardware")


def _pooling(calls: list[Call]) -> Finding | None:
    found = []
    for call in calls:
        size = getattr(call.operation, "pool_size", 0)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if max(sides) > _LARGEST_WINDOW and max(_sides(call, call.shapes[0])) > 1:
            found.append((call, _size(sides)))
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
