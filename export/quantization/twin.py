"""The simulation twin of a model: the same network, rounded where an int8 runtime rounds.

It comes in two forms. `Twin` is for training: the layers of the model, with kernels on the grid
and a `Range` behind every tensor that the runtime stores. Batch normalizations stay layers, which
is exact: a kernel's grid has a scale for each channel, so that rounding the kernel and then scaling
its channels is rounding the folded kernel; the statistics in training are those of the convolution
that will run. `frozen` is for converters: batch normalizations are folded and every range is a
constant.

Ranges are a plain dictionary from the name of a grid to its two ends, and travel as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cnnkit.errors import UsageError
from export.batches import batches
from export.quantization import fake_quant
from export.quantization import plan as plans
from export.quantization.operations import WEIGHTED
from export.quantization.operations import Limits
from export.quantization.operations import Op
from export.quantization.plan import Plan
from export.quantization.ranges import Ranges

_BATCH = 64
# That may stand for one operation, one behind the other.
_NODES = 8
_CLASSES = {
    kind.__name__: kind
    for kind in (
        fake_quant.Conv1D,
        fake_quant.Conv2D,
        fake_quant.Conv2DTranspose,
        fake_quant.DepthwiseConv2D,
        fake_quant.Dense,
    )
}


class Twin:
    """A model to train in its place.

    Args:
        model: Functional or built sequential model with one input and one output; not changed.
        pixels: Whether its input is raw pixels.
        momentum: Part of the old range in the moving average over batches, in [0, 1).

    Attributes:
        model: The simulation: same inputs and outputs, same weights, ranges not known yet. Weights
            that are zero stay so in training.
        floats: Operations that stay float32 in the integer file, with the reason.

    Raises:
        UsageError: If it is not such a model.
    """

    def __init__(self, model: keras.Model, pixels: bool = True, momentum: float = 0.99) -> None:
        self.original, self.plan = model, plans.plan(model, pixels)
        self._build = _Training(self.plan, momentum)
        self.model = _assemble(model, self.plan, self._build)
        self.floats = dict(self.plan.floats)
        for source, target in self._build.pairs:
            target.assign(source)
        for _, layer in self._build.kernels:
            zero = np.asarray(layer.kernel) == 0
            layer.mask = (~zero).astype(np.float32) if zero.any() else None

    def observe(self, x: np.ndarray) -> None:
        """Learns the ranges from inputs; no weight and no statistic changes."""
        ranges = list(self._build.ranges.values())
        for layer in ranges:
            layer.observing = True
        for part in batches(x, _BATCH):
            self.model(x[part].astype(np.float32), training=False)
        for layer in ranges:
            layer.observing = False

    def ranges(self) -> dict[str, Limits]:
        """Returns the range of every grid."""
        learned = {name: self._build.range(name).learned() for name in self.plan.learned}
        return {**self.plan.fixed, **learned}

    def finalize(self) -> tuple[keras.Model, dict[str, Limits]]:
        """Returns the plain float model and the ranges.

        The model has the layers of the original. Its kernels are on the int8 grid, so that the
        integer file holds the very same weights.
        """
        model = keras.models.clone_model(self.original)
        values = {id(w): np.asarray(w) for w in self.original.weights}
        for source, target in self._build.pairs:
            values[id(source)] = np.asarray(target)
        for kernel, layer in self._build.kernels:
            values[id(kernel)] = np.asarray(layer.rounded())
        model.set_weights([values[id(w)] for w in self.original.weights])
        return model, self.ranges()


def frozen(model: keras.Model, ranges: Ranges, *, target: str = "") -> keras.Model:
    """Returns the simulation of a trained model, in constants: what the TFLite file computes.

    Args:
        model: As `Twin.finalize` returns it.
        ranges: Likewise.
        target: Whose converter is to read it, if one is. "tflite" leaves it to the runtime how
            ties are rounded. "onnx" does too, and has kernels that are on the grid; it repeats the
            rounding behind pooling and reshaping, where ONNX Runtime looks for it, and has none
            behind a softmax at the end, as our calibrated ONNX files have none.

    Raises:
        UsageError: If the ranges are not those of this model.
    """
    # A list, if the ranges come from JSON.
    found = plans.plan(model, tuple(ranges.get("input", ())) == plans.PIXELS)
    wanted = set(found.grids.values())
    if wanted != set(ranges):
        raise UsageError(
            "The int8 ranges are those of another model",
            where=model.name,
            expected=", ".join(sorted(wanted - set(ranges))[:3]) or "fewer ranges",
            received=", ".join(sorted(set(ranges) - wanted)[:3]) or "not so many ranges",
            todo="train it with the pass qat again, or remove ranges.json",
        )
    build = _Frozen(found, ranges, target)
    twin = _assemble(model, found, build)
    for source, copy in build.copied():
        copy.assign(source)
    return twin


def _assemble(model: keras.Model, found: Plan, build: _Training | _Frozen) -> keras.Model:
    (old,) = model.inputs
    # Keras walks through a graph by recursion, now and whenever this one is opened.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + _NODES * len(found.ops)))
    image = keras.Input(old.shape[1:], dtype="float32", name=old.name)
    tensors = {found.input: build.put(image, found.grids[found.input])}
    for op in found.ops:
        given = [tensors[n] for n in op.inputs]
        if op.kind in plans.JOINING:  # brings tensors with a grid of their own to the common one
            name = found.grids[op.outputs[0]]
            given = [
                x if found.grids[n] == name else build.put(x, name)
                for x, n in zip(given, op.inputs, strict=True)
            ]
        made = build.call(op, given)
        made = [made] if op.arguments is None else keras.tree.flatten(made)
        for number, tensor in zip(op.outputs, made, strict=True):
            tensors[number] = build.rounded(tensor, number, op)
    return keras.Model(image, tensors[found.output], name=model.name)


class _Builder:
    """Makes the layers of a twin; a layer that is shared in the model is shared in the twin.

    Attributes:
        whole: Whether a softmax at the end is rounded too.
        repeats: Whether what pooling and reshaping give is rounded again, which changes nothing.
        ties: Whether ties are broken as TFLite breaks them.
    """

    whole = repeats = False
    ties = True
    momentum = 0.0

    def __init__(self, found: Plan) -> None:
        self.plan = found
        self.ranges: dict[str, fake_quant.Range] = {}
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[str, int] = {}

    def limits(self, grid: str) -> Limits | None:
        raise NotImplementedError

    def weighted(self, op: Op, x: Any) -> Any:
        raise NotImplementedError

    def scaled(self, op: Op, x: Any) -> Any:
        raise NotImplementedError

    def range(self, grid: str) -> fake_quant.Range:
        """Returns the layer that rounds onto a grid."""
        if grid not in self.ranges:
            name = f"{grid}.range"
            # More than there are, if some are not rounded: those stay at zero.
            tensors = list(self.plan.grids.values()).count(grid) + self.plan.moved.count(grid)
            limits = self.limits(grid)
            self.ranges[grid] = fake_quant.Range(limits, self.momentum, tensors, name=name)
        return self.ranges[grid]

    def rounded(self, x: Any, number: int, op: Op) -> Any:
        """Returns a tensor that `op` made, on its grid if it has one."""
        # A softmax at the end is left as it is where losses and converters must find it.
        softmax = number == self.plan.output and op.kind == "softmax" and not self.whole
        if number in self.plan.inner or softmax or (op.kind == "same" and not self.repeats):
            return x
        return self.put(x, self.plan.grids[number], op.kind == "average" and self.ties)

    def put(self, x: Any, grid: str, average: bool = False) -> Any:
        """Returns a tensor, rounded onto a grid."""
        self._tensors[grid] = self._tensors.get(grid, -1) + 1
        return self.range(grid)(x, number=self._tensors[grid], average=average)

    def call(self, op: Op, given: list[Any]) -> Any:
        """Returns what an operation makes of tensors."""
        if op.kind in WEIGHTED:
            return self.weighted(op, *given)
        if op.kind in ("norm", "affine"):
            return self.scaled(op, *given)
        if op.kind in fake_quant.FUNCTIONS:
            return fake_quant.Function(op.kind, name=op.path)(*given)
        if op.arguments is not None:
            args, kwargs = op.arguments(given)
            return self.copy(op)(*args, **kwargs)
        if op.kind == "add":
            return keras.layers.Add(name=op.path)(given)
        if op.kind == "multiply":
            return keras.layers.Multiply(name=op.path)(given)
        known = op.kind in ("relu", "relu6", "sigmoid", "softmax", "tanh")
        function = op.kind if known else op.operation.activation
        return keras.layers.Activation(function, name=op.path)(*given)

    def copy(self, op: Op) -> Any:
        """Returns a copy of the operation itself; its weights are not set yet."""
        source = op.operation
        if id(source) not in self._copies:
            config = source.get_config()
            if isinstance(source, keras.layers.Layer):
                config |= {"name": op.path, "dtype": "float32"}
            self._copies[id(source)] = source, type(source).from_config(config)
        return self._copies[id(source)][1]

    def copied(self) -> Iterator[tuple[Any, Any]]:
        """Yields the weights of the model and those of the copies, in pairs."""
        for source, target in self._copies.values():
            if isinstance(source, keras.layers.Layer):
                yield from zip(source.weights, target.weights, strict=True)


class _Training(_Builder):
    """Layers that learn: kernels rounded as they are now, ranges moving with the data."""

    def __init__(self, found: Plan, momentum: float) -> None:
        super().__init__(found)
        self.momentum = momentum
        self._weighted: dict[tuple[int, str], tuple[Op, Any]] = {}

    def limits(self, grid: str) -> Limits | None:
        return self.plan.fixed.get(grid)

    def weighted(self, op: Op, x: Any) -> Any:
        key = id(op.operation), op.part
        if key not in self._weighted:
            per_channel = op.kind == "dense" and self.plan.follower(op, {"norm"})
            kind = fake_quant.DensePerChannel if per_channel else _class(op)
            self._weighted[key] = op, kind.from_config(_config(op))
        return self._weighted[key][1](x)

    def scaled(self, op: Op, x: Any) -> Any:
        return self.copy(op)(x)

    @property
    def kernels(self) -> list[tuple[Any, Any]]:
        """The kernels of the model and the layers that round them."""
        return [(_weights(op)[0], layer) for op, layer in self._weighted.values()]

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights of the model and those of the twin."""
        found = list(self.copied())
        for op, layer in self._weighted.values():
            found += zip(_weights(op), layer.weights, strict=True)
        return found


class _Frozen(_Builder):
    """Constants: folded kernels on their grid, ranges as they were learned."""

    def __init__(self, found: Plan, ranges: Ranges, target: str) -> None:
        super().__init__(found)
        self._given, self.ties = ranges, not target
        self.repeats, self.whole = target == "onnx", target != "onnx"
        # By tensor that is pixels on another scale and is not made: the scale, the number of
        # pixel 0, and the tensor of the pixels.
        self._pixels = dict(_scaled_pixels(found)) if target == "tflite" else {}
        found.inner.update(self._pixels)

    def limits(self, grid: str) -> Limits:
        low, high = self._given[grid]
        return float(low), float(high)

    def weighted(self, op: Op, x: Any) -> Any:
        kernel, *rest = [np.asarray(w, np.float64) for w in _weights(op)]
        config = {**_config(op), "use_bias": bool(rest)}
        if op.kind == "transposed":
            outputs: tuple[int, ...] = (kernel.shape[2], 1)
        else:
            outputs = kernel.shape[2:] if op.kind == "depthwise" else kernel.shape[-1:]
        if norm := self.plan.follower(op, {"norm"}):
            scale, offset = plans.affine(norm.operation, int(np.prod(outputs)))
            kernel = kernel * scale.reshape(outputs)
            rest = [(rest[0] * scale if rest else 0) + offset]
            config["use_bias"] = True
        if pixels := self._pixels.get(op.inputs[0]):
            scale, zero, _ = pixels
            shift = zero * kernel.sum(tuple(range(kernel.ndim - 1)))
            kernel, rest = kernel * scale, [(rest[0] if rest else 0) + shift]
            config["use_bias"] = True
        if norm and op.kind == "dense":  # with a scale for each output, as only convolutions have
            config = {"filters": config["units"], "kernel_size": 1, "name": op.path}
            return self._pointwise(fake_quant.Conv2D(**config), x, [kernel[None, None], *rest], op)
        return self._set(_class(op).from_config(config), x, [kernel, *rest], op)(x)

    def scaled(self, op: Op, x: Any) -> Any:
        if op.inputs[0] in self.plan.inner or op.outputs[0] in self._pixels:
            return x  # folded
        scale, offset = plans.affine(op.operation, int(op.shape[-1] or 1))
        layer = fake_quant.DepthwiseConv2D(1, name=op.path)
        return self._pointwise(layer, x, [scale[None, None, :, None], offset], op)

    def _pointwise(self, layer: Any, x: Any, weights: list[Any], op: Op) -> Any:
        """Calls a 1x1 convolution on a tensor of any rank."""
        if len(x.shape) != 4:
            grid = (int(np.prod(x.shape[1:-1])), 1, x.shape[-1])
            x = keras.layers.Reshape(grid, name=f"{op.path}.picture")(x)
        x = self._set(layer, x, weights, op)(x)
        if len(op.shape) != 4:
            x = keras.layers.Reshape(op.shape[1:], name=f"{op.path}.back")(x)
        return x

    def _set(self, layer: Any, x: Any, weights: list[Any], op: Op) -> Any:
        layer.build(x.shape)
        layer.set_weights(weights)
        source = op.inputs[0]
        source = self._pixels[source][2] if source in self._pixels else source
        low, high = self.limits(self.plan.grids[source])
        layer.freeze((high - low) / fake_quant.STEPS)
        # TFLite's converter loses the axis of the scales where it reshapes a kernel: it finds those
        # of a kernel on the grid for itself.
        if self.repeats or isinstance(layer, fake_quant.Conv1D | fake_quant.Conv2DTranspose):
            layer.kernel.assign(layer.rounded())
            layer.plain = True
        return layer


def _scaled_pixels(found: Plan) -> Iterator[tuple[int, tuple[float, float, int]]]:
    """Yields the tensors of scaled pixels that convolutions can make for themselves.

    Where a grid has the very steps of the pixels', a convolution without padding gives the same
    integers from the pixels as they are, with another scale and another bias.
    """
    for op in found.ops:
        source, made = op.inputs[0], op.outputs[0]
        low, high = found.fixed.get(found.grids.get(made, ""), (0.0, 0.0))
        if op.kind != "affine" or found.fixed.get(found.grids[source]) != plans.PIXELS:
            continue
        scale, _ = plans.affine(op.operation, 1)
        steps = len(scale) == 1 and np.isclose(high - low, 255 * scale[0], rtol=1e-5)
        if steps and made != found.output and all(map(_takes_pixels, found.readers(made))):
            yield made, (float(scale[0]), low, source)


def _takes_pixels(op: Op) -> bool:
    return op.kind == "conv" and getattr(op.operation, "padding", "") == "valid"


def _class(op: Op) -> Any:
    if op.part:
        return fake_quant.DepthwiseConv2D if op.part == "depthwise" else fake_quant.Conv2D
    return _CLASSES[type(op.operation).__name__]


def _config(op: Op) -> dict[str, Any]:
    """Returns the config of a weighted layer without its activation."""
    layer = op.operation
    config = layer.get_config()
    if op.part == "depthwise":
        keys = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
        config = {key: config[key] for key in keys} | {"use_bias": False}
    elif op.part == "pointwise":
        config = {"filters": layer.filters, "kernel_size": 1, "use_bias": layer.use_bias}
    fixed = {"activation": "linear", "dtype": "float32"}
    return {**config, **fixed, "name": op.path, "trainable": layer.trainable}


def _weights(op: Op) -> list[Any]:
    """Returns the variables of a weighted layer: kernel, and bias if it has one."""
    layer = op.operation
    if op.part == "depthwise":
        return [layer.depthwise_kernel]
    kernel = layer.pointwise_kernel if op.part else getattr(layer, "_kernel", layer.kernel)
    return [kernel, layer.bias] if layer.use_bias else [kernel]
