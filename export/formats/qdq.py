"""Int8 weights in an ONNX graph whose activations have QuantizeLinear and DequantizeLinear.

tf2onnx writes the fake quantization of activations so, but knows none of weights.

Weights are stored as unsigned bytes around 128, which is the same as signed ones around 0: where
an x86 processor has no VNNI, ONNX Runtime adds pairs of products of unsigned and signed bytes in
16 bits, which overflow (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Operation -> axis of the weight that has a scale for each index; None: one scale for all.
_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": None, "Gemm": None}
# Operations that leave values, and so their grid, as they are; zeros are on every grid.
_MOVING = frozenset({"Flatten", "Pad", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_STEPS = 127
_ZERO = 128


def store_weights(proto: Any) -> None:
    """Replaces weights by bytes and their biases by int32, each behind a DequantizeLinear.

    The weights must be on the grid of their largest magnitude / 127, so that nothing is lost.
    A weight is left alone if the input of its operation is not dequantized. Between the two may
    be what moves values: tf2onnx transposes pixels behind their rounding.

    Args:
        proto: The model; changed in place.
    """
    import onnx

    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes = []

    def array(name: str) -> np.ndarray:
        return onnx.numpy_helper.to_array(constants[name])

    def stored(name: str, integers: np.ndarray, scale: np.ndarray, axis: int | None) -> str:
        parts = {"int": integers, "scale": scale.astype(np.float32)}
        if integers.dtype == np.uint8:
            parts["zero"] = np.full(scale.shape, _ZERO, np.uint8)
        for part, value in parts.items():
            if f"{name}.{part}" not in constants:
                tensor = onnx.numpy_helper.from_array(value, f"{name}.{part}")
                constants[tensor.name] = tensor
                graph.initializer.append(tensor)
        if f"{name}.float" not in makers:
            axes = {} if axis is None else {"axis": axis}
            inputs = [f"{name}.{part}" for part in parts]
            node = onnx.helper.make_node("DequantizeLinear", inputs, [f"{name}.float"], **axes)
            nodes.append(node)
            makers[f"{name}.float"] = node
        return f"{name}.float"

    def origin(name: str) -> Any:
        node = makers.get(name)
        while node is not None and node.op_type in _MOVING:
            node = makers.get(node.input[0])
        return node

    for node in list(graph.node):
        source = origin(node.input[0]) if node.input else None
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # One scale for the whole tensor has no axis.
            del node.attribute[:]
        if source is None or source.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        if node.op_type in _AXES and node.input[1] in constants:
            axis = _AXES[node.op_type]
            weight = array(node.input[1])
            others = tuple(a for a in range(weight.ndim) if a != axis and axis is not None)
            limits = np.abs(weight).max(others or None)
            scale = np.where(limits > 0, limits, 1.0) / _STEPS
            shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
            integers = np.rint(weight / scale.reshape(shape if scale.ndim else ())) + _ZERO
            node.input[1] = stored(node.input[1], integers.astype(np.uint8), scale, axis)
            if len(node.input) > 2 and node.input[2] in constants:
                step = scale * float(array(source.input[1]))
                bias = np.rint(array(node.input[2]) / step).clip(-(2**31), 2**31 - 1)
                # A bias may be shared by convolutions with other scales.
                name = f"{node.input[2]}.{node.output[0]}"
                node.input[2] = stored(
                    name, bias.astype(np.int32), step, None if axis is None else 0
                )
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
