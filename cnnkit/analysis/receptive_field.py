"""Receptive fields: the part of the picture that one unit of a layer sees.

Of each spatial axis by itself. Unit `i` of a layer sees the pixels from `start + i * jump` on,
`size` of them, padding included. Where branches meet, the field is the smallest that holds those of
all branches. Units that may see every pixel have the whole picture: behind global pooling, a
flattening, attention, and behind layers of which it is not known what they look at.

Reference:
    Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks",
    https://distill.pub/2019/computing-receptive-fields. Differs: nothing for convolutions and
    pooling. Behind a transposed convolution or up-sampling, units differ in what they see: `size`
    is that of the largest field, and `start + i * jump` is exact for those units that are whole
    input units apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from typing import NamedTuple

import keras

from cnnkit.analysis.calls import Call
from cnnkit.analysis.calls import Sizes
from cnnkit.analysis.calls import opened
from cnnkit.analysis.calls import symbolic

# Layers and operations that look at all places, though the picture keeps its size.
_EVERYWHERE = """
    AdditiveAttention Attention Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D Cumprod Cumsum
    DotProductAttention Einsum EinsumDense Flip GRU GroupNormalization GroupQueryAttention LSTM
    MultiHeadAttention Permute RNN Roll SimpleRNN Sort Transpose
"""
# Operations that do if they are given two tensors; with a constant they are dense layers.
_PRODUCTS = ("Dot", "Matmul", "Tensordot")
# Own layers of which each unit sees one place.
_POINTWISE = frozenset(
    f"cnnkit>{name}"
    for name in ("FeatureNormalization", "LocalResponseNormalization", "MeanImage", "RReLU")
)
_CONVOLUTIONS = ("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv")
# Values of a picture that make one of a resized one, along an axis.
_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4, "lanczos3": 6, "lanczos5": 10}


@dataclass(frozen=True)
class LayerField:
    """What the units of one call of one layer see, along each spatial axis of the input.

    Attributes:
        name: Name of the layer; inside a nested model, `outer/inner`.
        kind: Class of the layer or operation.
        size: Pixels that a unit sees.
        jump: Pixels from one unit's field to the next one's: the product of the strides.
        start: First pixel that the first unit sees; negative in the padding.
        whole: Whether that is the whole picture.
    """

    name: str
    kind: str
    size: tuple[float, ...]
    jump: tuple[float, ...]
    start: tuple[float, ...]
    whole: bool

    def __str__(self) -> str:
        """Returns the size as tables show it."""
        return "whole" if self.whole else "x".join(f"{side:g}" for side in self.size)


class _Axis(NamedTuple):
    size: Fraction
    jump: Fraction
    start: Fraction


class _Step(NamedTuple):
    """What a unit reads: `reach` units from `offset` on, and the next unit `stride` further."""

    reach: int = 1
    stride: Fraction = Fraction(1)
    offset: int = 0


@dataclass(frozen=True)
class _Seen:
    axes: tuple[_Axis, ...]
    picture: Sizes
    whole: bool = False

    def through(self, steps: Iterable[_Step]) -> _Seen:
        """Returns what units see that read these."""
        moved = []
        for axis, step in zip(self.axes, steps, strict=True):
            size, start = axis.size, axis.start
            if not self.whole:
                size += (step.reach - 1) * axis.jump
                start += step.offset * axis.jump
            moved.append(_Axis(size, axis.jump * step.stride, start))
        return _Seen(tuple(moved), self.picture, self.whole)

    def everything(self) -> _Seen:
        sides = (_Axis(Fraction(side), Fraction(0), Fraction(0)) for side in self.picture)
        return _Seen(tuple(sides), self.picture, True)


def table(model: keras.Model) -> list[LayerField]:
    """Returns one row for each call of each layer, in the order of computation.

    Raises:
        UsageError: If `model` has no graph or a tensor of unknown size.

    Example:
        >>> conv = keras.layers.Conv2D
        >>> net = keras.Sequential([keras.Input((32, 32, 3)), conv(4, 3), conv(4, 3), conv(4, 3)])
        >>> str(table(net)[-1])
        '7x7'
    """
    calls, _ = opened(model)
    seen = _follow(calls, {}, {})
    return [
        LayerField(
            name=call.name,
            kind=type(call.operation).__name__,
            size=tuple(float(axis.size) for axis in seen[call.outputs[0]].axes),
            jump=tuple(float(axis.jump) for axis in seen[call.outputs[0]].axes),
            start=tuple(float(axis.start) for axis in seen[call.outputs[0]].axes),
            whole=seen[call.outputs[0]].whole,
        )
        for call in calls
    ]


def largest(model: keras.Model) -> LayerField | None:
    """Returns the last row with the largest field that is not the whole picture, if there is one.

    Raises:
        UsageError: As `table`.
    """
    rows = [row for row in table(model) if not row.whole and row.size]
    return max(reversed(rows), key=lambda row: math.prod(row.size), default=None)


def _follow(
    calls: list[Call], seen: dict[int, _Seen], shapes: dict[int, Sizes]
) -> dict[int, _Seen]:
    """Returns by number of a tensor what its units see; of the inputs, it may be known."""
    seen, shapes = dict(seen), dict(shapes)
    for call in calls:
        shapes |= zip(call.outputs, call.shapes, strict=True)
        if not call.inputs:
            for number, shape in zip(call.outputs, call.shapes, strict=True):
                seen.setdefault(number, _pixels(shape))
            continue
        inputs = [seen[number] for number in call.inputs]
        made = _traced(call, inputs) if _opaque(call.operation) else None
        if made is None:
            parts = (
                _read(call, part, shapes[number], len(call.inputs) > 1)
                for number, part in zip(call.inputs, inputs, strict=True)
            )
            made = _joined(list(parts))
        seen |= dict.fromkeys(call.outputs, made)
    return seen


def _pixels(shape: Sizes) -> _Seen:
    sides = shape[1:-1]
    return _Seen(tuple(_Axis(Fraction(1), Fraction(1), Fraction(0)) for _ in sides), sides)


def _joined(parts: list[_Seen]) -> _Seen:
    """Returns what units see that read several tensors at their place."""
    first = max(parts, key=lambda part: len(part.axes))
    if any(len(part.axes) < len(first.axes) for part in parts):
        return first.everything()
    axes = []
    for along in zip(*(part.axes for part in parts), strict=True):
        start = min(axis.start for axis in along)
        end = max(axis.start + axis.size for axis in along)
        axes.append(_Axis(end - start, max(axis.jump for axis in along), start))
    if any(part.whole for part in parts):
        sides = zip(axes, first.picture, strict=True)
        axes = [_Axis(Fraction(side), axis.jump, Fraction(0)) for axis, side in sides]
        return _Seen(tuple(axes), first.picture, True)
    return _Seen(tuple(axes), first.picture)


def _opaque(operation: Any) -> bool:
    """Returns whether it is somebody's own layer, without the attributes of a window."""
    if type(operation).__module__.startswith("keras."):
        return False
    registered = keras.saving.get_registered_name(type(operation))
    return registered not in _POINTWISE and not _window(operation)


def _traced(call: Call, inputs: list[_Seen]) -> _Seen:
    """Follows a layer that is made of others, by calling it on symbolic tensors."""
    leaves = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if symbolic(leaf)]
    try:
        outputs = call.operation.call(*call.args, **call.kwargs)
        calls, results = opened(keras.Function(leaves, outputs, name="traced"))
    except Exception:  # whatever a call that only computes on values raises
        return _joined(inputs).everything()
    shapes = {number: tuple(leaf.shape) for number, leaf in enumerate(leaves)}
    seen = _follow(calls, dict(enumerate(inputs)), shapes)
    return _joined([seen[number] for number in results])


def _read(call: Call, part: _Seen, shape: Sizes, several: bool) -> _Seen:
    """Returns what units see that read the tensor `part` of this shape by this call."""
    first = getattr(call.operation, "data_format", None) == "channels_first"
    sides = shape[2:] if first else shape[1:-1]
    made = call.shapes[0][2:] if first else call.shapes[0][1:-1]
    steps = _steps(call, sides, made)
    if several and type(call.operation).__name__ in _PRODUCTS:
        steps = None
    elif several and len(sides) == len(made) and set(sides) == {1}:  # broadcast
        steps = [_Step() for _ in sides]
    if steps is None or len(steps) != len(part.axes):
        return part.everything()
    return part.through(steps)


def _steps(call: Call, sides: Sizes, made: Sizes) -> list[_Step] | None:
    """Returns what a unit reads along each axis, None if it may read everything."""
    operation, kind = call.operation, type(call.operation).__name__
    if kind in _EVERYWHERE.split() or len(sides) != len(made):
        return None
    kernel = _window(operation)
    if kind in _CONVOLUTIONS:
        kernel = call.operands[1]
    if kernel is not None:
        return _windows(operation, _each(kernel, len(sides)), sides, "Transpose" in kind)
    if kind.startswith(("ZeroPadding", "Cropping")):
        (name, sign) = ("padding", -1) if "Padding" in kind else ("cropping", 1)
        ends = getattr(operation, name)
        ends = [ends] if len(sides) == 1 else ends
        return [_Step(offset=sign * low) for low, _ in ends]
    if kind == "CenterCrop":
        return [_Step(offset=(old - new) // 2) for old, new in zip(sides, made, strict=True)]
    if kind.startswith(("UpSampling", "Resizing", "Resize")):
        taps = _TAPS.get(getattr(operation, "interpolation", "nearest"), 1)
        pairs = zip(sides, made, strict=True)
        offset = -(taps // 2) if taps > 1 else 0
        return [_Step(taps, Fraction(old, new), offset) for old, new in pairs]
    return [_Step() for _ in sides] if sides == made else None


def _window(operation: Any) -> Any:
    """Returns the sides of the window that a layer moves over its input, if it says so."""
    for name in ("kernel_size", "pool_size"):
        if hasattr(operation, "strides") and hasattr(operation, name):
            return getattr(operation, name)
    return None


def _windows(operation: Any, kernel: Sizes, sides: Sizes, transposed: bool) -> list[_Step]:
    strides = _each(operation.strides or kernel, len(sides))
    dilations = _each(getattr(operation, "dilation_rate", 1), len(sides))
    steps = []
    for size, stride, dilation, side in zip(kernel, strides, dilations, sides, strict=True):
        reach = (size - 1) * dilation + 1
        low = 0
        if transposed:
            if operation.padding == "same":
                low = max(reach - stride, 0) // 2
            offset = -((reach - 1 - low) // stride)
            steps.append(_Step(-(-reach // stride), Fraction(1, stride), offset))
            continue
        if operation.padding == "same":
            low = max((-(-side // stride) - 1) * stride + reach - side, 0) // 2
        elif operation.padding == "causal":
            low = reach - 1
        steps.append(_Step(reach, Fraction(stride), -low))
    return steps


def _each(value: Any, count: int) -> Sizes:
    return (value,) * count if isinstance(value, int) else tuple(value)[:count]
