"""Reading and editing the flatbuffer of a TFLite file; needs LiteRT, not TensorFlow."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.formats import metadata
from export.formats.metadata import INPUT
from export.formats.metadata import KEY
from export.formats.metadata import OUTPUT
from export.formats.metadata import Metadata

# The converter's quantizer cannot tell a narrower range from zero (kNearZeroTolerance).
_ZERO_RANGE = 1e-6
# Kernels read weights in vectors: the TFLite schema asks for buffers aligned to 16 bytes.
_ALIGNMENT = 16


def parse(content: bytes) -> Any:
    """Returns the flatbuffer as a tree of objects, with all constants in it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # Some tools put constants behind the flatbuffer; 0 and 1 mean none.
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: Any) -> bytes:
    """Returns the tree of objects as a flatbuffer: its buffers aligned, equal parts shared."""
    for buffer in model.buffers:
        buffer.Pack = _aligned(buffer)
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _sharing_builder() -> Any:
    """Returns a builder that writes equal parts once, and points there again.

    A tensor quantized per channel has a zero point for each channel, 8 bytes that are all 0;
    pooling has the scale of its input, and layers of a kind have the same options: in a small
    file these are many. A part is a vector of numbers, a text, or a table, whose key has the
    places that it points to instead of its distances to them.
    """
    import flatbuffers  # type: ignore[import-untyped]  # comes with LiteRT

    class Sharing(flatbuffers.Builder):
        def __init__(self) -> None:
            super().__init__(1024)
            self.written: dict[tuple[Any, ...], int] = {}
            self.vector: tuple[int, int, int] | None = None
            self.pointers: list[tuple[int, int]] = []

        def CreateString(self, s: Any, *args: Any) -> int:  # noqa: N802
            if (s,) not in self.written:
                self.written[s,] = super().CreateString(s, *args)
            return self.written[s,]

        def StartVector(self, size: int, count: int, alignment: int) -> Any:  # noqa: N802
            self.began, self.vector = self.Offset(), (size, count, alignment)
            return super().StartVector(size, count, alignment)

        def StartObject(self, count: int) -> None:  # noqa: N802
            self.began, self.pointers = self.Offset(), []
            super().StartObject(count)

        def PrependUOffsetTRelative(self, offset: int) -> None:  # noqa: N802
            self.vector = None  # Bytes that point mean something else in another place.
            super().PrependUOffsetTRelative(offset)
            self.pointers.append((self.Offset(), offset))

        def EndVector(self) -> int:  # noqa: N802
            made: int = super().EndVector()
            if self.vector is None:  # also of a string, which is begun in another way
                return made
            size, count, alignment = self.vector
            self.vector, begin = None, self.Head() + 4  # behind the length
            content = bytes(self.Bytes[begin : begin + size * count])
            return self._once((size, alignment, content), made)

        def EndObject(self) -> int:  # noqa: N802
            made: int = super().EndObject()
            start, end = len(self.Bytes) - made, len(self.Bytes) - self.began
            content = self.Bytes[start:end]
            layout = made + int.from_bytes(content[:4], "little", signed=True)
            for place, offset in ((made, layout), *self.pointers):
                content[made - place : made - place + 4] = offset.to_bytes(4, "little")
            return self._once(("table", bytes(content)), made)

        def _once(self, key: tuple[Any, ...], made: int) -> int:
            known = self.written.setdefault(key, made)
            if known != made:
                self.head = len(self.Bytes) - self.began
            return known

    return Sharing()


def _aligned(buffer: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    def pack_buffer(builder: Any) -> int:
        data = None
        if buffer.data is not None and len(buffer.data):
            content = np.asarray(buffer.data, np.uint8).tobytes()
            # Bytes are one long element to `StartVector`, which aligns only elements.
            builder.StartVector(1, len(content), _ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)

    return pack_buffer


def finish(content: bytes, meta: Metadata, others: Mapping[str, bytes] | None = None) -> bytes:
    """Returns the file without what no runtime needs, and with `meta` inside; it computes the same.

    The names that the converter leaves are paths in the Python code: they cost kilobytes in
    a small file. Only input and output keep one, which is stable.

    Args:
        content: A `.tflite` file.
        meta: What cnnkit says of it, in place of what was there.
        others: Metadata of others, by name.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = parse(content)
    _drop_flattening(model)
    _keep_used(model)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        tensor.name = None
        if tensor.shape is not None and len(tensor.shape):
            tensor.hasRank = False  # It tells a shape without dimensions from no shape.
        if tensor.quantization is not None:
            tensor.quantization.min = tensor.quantization.max = None  # What calibration found.
            if tensor.quantization.scale is None:
                tensor.quantization = None
    main = model.subgraphs[0]
    main.tensors[main.inputs[0]].name = INPUT.encode()
    main.tensors[main.outputs[0]].name = OUTPUT.encode()

    # What the converter says of itself is of no use to a runtime.
    model.metadata, model.description = [], None
    for name, told in {KEY: meta.dumps().encode(), **(others or {})}.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(told, np.uint8)
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    return pack(model)


def _drop_flattening(model: Any) -> None:
    """Takes out each RESHAPE in front of a FULLY_CONNECTED, which takes its input as a row."""
    from ai_edge_litert import schema_py_generated as schema

    codes = [code.builtinCode for code in model.operatorCodes]
    named = schema.BuiltinOperator
    for graph in model.subgraphs:
        readers = collections.defaultdict(list)
        for op in graph.operators:
            for index in op.inputs:
                readers[index].append(op)
        for op in list(graph.operators):
            flat = op.outputs[0]
            if codes[op.opcodeIndex] != named.RESHAPE or len(readers[flat]) != 1:
                continue
            (reader,) = readers[flat]
            if codes[reader.opcodeIndex] != named.FULLY_CONNECTED or flat in graph.outputs:
                continue
            row = graph.tensors[flat].shape[1:]
            weights = graph.tensors[reader.inputs[1]].shape
            if np.array_equal(row, weights[1:]) and not reader.builtinOptions.keepNumDims:
                reader.inputs = [op.inputs[0], *reader.inputs[1:]]
                graph.operators.remove(op)


def _keep_used(model: Any) -> None:
    """Drops the tensors, ops and buffers that nothing uses; tensors without data share one."""
    for number, graph in enumerate(model.subgraphs):
        ends = [
            (holder, field)
            for holder in (graph, *graph.operators)
            for field in ("inputs", "outputs", "intermediates")
            if getattr(holder, field, None) is not None
        ]
        used = {int(i) for end in ends for i in getattr(*end) if i >= 0}
        place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}  # -1 is none
        graph.tensors = [graph.tensors[old] for old in sorted(used)]
        for end in ends:
            setattr(*end, [place[int(i)] for i in getattr(*end)])
        for signature in model.signatureDefs or ():
            for end in (*signature.inputs, *signature.outputs):
                if signature.subgraphIndex == number:
                    end.tensorIndex = place[end.tensorIndex]

    ops = [op for graph in model.subgraphs for op in graph.operators]
    codes = sorted({op.opcodeIndex for op in ops})
    model.operatorCodes = [model.operatorCodes[old] for old in codes]
    for op in ops:
        op.opcodeIndex = codes.index(op.opcodeIndex)

    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    buffers = sorted({t.buffer for t in tensors if model.buffers[t.buffer].data is not None})
    model.buffers = [model.buffers[old] for old in (0, *buffers)]  # 0 is the empty one
    for tensor in tensors:
        tensor.buffer = buffers.index(tensor.buffer) + 1 if tensor.buffer in buffers else 0


def read_metadata(path: Path) -> Metadata | None:
    """Returns what cnnkit wrote into a TFLite file, or None if that is nothing."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == KEY.encode():
            return metadata.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    return None


def custom_ops(content: bytes) -> list[str]:
    """Returns the names of the ops that the built-in runtime does not have (Flex and others)."""
    from ai_edge_litert import schema_py_generated as schema

    custom = schema.BuiltinOperator.CUSTOM
    codes = parse(content).operatorCodes
    return sorted({code.customCode.decode() for code in codes if code.builtinCode == custom})


def ops(content: bytes) -> list[str]:
    """Returns the names of the ops in the order of execution, such as `CONV_2D`."""
    model = parse(content)
    names = _op_names()
    return [
        names[model.operatorCodes[op.opcodeIndex].builtinCode]
        for graph in model.subgraphs
        for op in graph.operators
    ]


def macs(content: bytes) -> int:
    """Returns the multiply-accumulates of convolutions and dense layers."""
    model, names, total = parse(content), _op_names(), 0
    for graph in model.subgraphs:
        for op in graph.operators:
            name = names[model.operatorCodes[op.opcodeIndex].builtinCode]
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                # (outputs, …); of a depthwise one (1, …, outputs)
                kernel = graph.tensors[op.inputs[1]].shape
                each = kernel[1:3] if name == "DEPTHWISE_CONV_2D" else kernel[1:]
                total += math.prod(map(int, [*each, *graph.tensors[op.outputs[0]].shape]))
    return total


def _op_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


def float_ops(content: bytes) -> list[str]:
    """Returns the names of the ops that compute in float32 in a file that also has int8 ops."""
    from ai_edge_litert import schema_py_generated as schema

    model, names, integer, found = parse(content), _op_names(), False, []
    for graph in model.subgraphs:
        for op in graph.operators:
            name = names[model.operatorCodes[op.opcodeIndex].builtinCode]
            results = {graph.tensors[i].type for i in op.outputs}
            if schema.TensorType.FLOAT32 not in results:
                integer = True
            elif name != "DEQUANTIZE":
                found.append(name)
    return found if integer else []


def smallest_scales(content: bytes, limit: float) -> list[str]:
    """Returns the names of the activations whose scale is below `limit`, smallest first."""
    model, found = parse(content), []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            scale = None if tensor.quantization is None else tensor.quantization.scale
            empty = model.buffers[tensor.buffer].data is None
            if empty and scale is not None and len(scale) == 1 and scale[0] < limit:
                found.append((float(scale[0]), tensor.name.decode()))
    return [name for _, name in sorted(found)]


def set_ranges(content: bytes, pixels: tuple[float, float] | None) -> tuple[bytes, list[str]]:
    """Returns a calibrated file whose ranges can all be quantized, and where zeros begin.

    A ReLU that is dead on the calibration pictures leaves the range [0, 0]. Its scale of 8e-9
    makes XNNPACK refuse the file, and would pin the unit at zero if another picture woke it.
    It gets the range of the widest tensor that it is computed from: zero stays exact.

    Args:
        content: What the converter gives after calibration, with `min` and `max` of tensors.
        pixels: Range of the input tensor, whatever the calibration pictures held: (0, 255)
            makes its scale exactly 1, so that raw pixels are the quantized values.
    """
    model, silent = parse(content), []
    for position, graph in enumerate(model.subgraphs):
        changed: set[int] = set()
        if pixels and position == 0:
            _set_range(graph.tensors[graph.inputs[0]], pixels)
        for op in graph.operators:  # in the order of execution
            known = [_range(graph.tensors[i]) for i in op.inputs if i >= 0]
            widest = max(filter(None, known), key=lambda r: r[1] - r[0], default=None)
            for index in op.outputs:
                tensor = graph.tensors[index]
                own = _range(tensor)
                if own and widest and max(map(abs, own)) <= _ZERO_RANGE:
                    _set_range(tensor, widest)
                    if not changed.intersection(op.inputs):
                        silent.append(tensor.name.decode())
                    changed.add(index)
    return pack(model), silent


def _range(tensor: Any) -> tuple[float, float] | None:
    found = tensor.quantization
    if found is None or found.min is None or found.max is None or not len(found.min):
        return None
    return float(np.min(found.min)), float(np.max(found.max))


def _set_range(tensor: Any, limits: tuple[float, float]) -> None:
    tensor.quantization.min = np.array([limits[0]], np.float32)
    tensor.quantization.max = np.array([limits[1]], np.float32)
