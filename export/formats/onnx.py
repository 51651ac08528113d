"""ONNX files: any batch size, channels last at the border."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import checks
from cnnkit import files
from cnnkit.errors import UsageError
from export import cookbook
from export.formats import metadata as meta
from export.formats import trace
from export.formats.metadata import INPUT
from export.formats.metadata import KEY
from export.formats.metadata import OUTPUT
from export.formats.metadata import Metadata
from export.formats.probe import Probe

if TYPE_CHECKING:
    import keras

    from export.quantization.ranges import Ranges

VARIANTS = ("float32", "int8")
# Whether one call of a predictor is short enough to be timed.
QUICK = True
# The newest that tf2onnx 1.17 writes.
OPSET = 18
_BATCH = 32
# Pictures a time for calibration, which has all activations of all layers in memory.
_CALIBRATED = 8
# Pictures that a second runtime is asked about.
_CONFIRMED = 512
_PROBE = Probe(
    Path(__file__).with_name("openvino_probe.py"),
    "OpenVINO cannot run it",
    unset=("ONEDNN_MAX_CPU_ISA",),  # meant for TensorFlow's oneDNN, see the probe
)


def write(
    model: keras.Model,
    path: Path,
    *,
    variant: str = "float32",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
    ranges: Ranges | None = None,
) -> Path:
    """Writes `model` as an ONNX file with a symbolic batch size and returns `path`.

    Int8 is QDQ with uint8 activations and int8 weights per output channel, the form for which
    ONNX Runtime has the fastest kernels on x86; of the weights it uses 7 bits. Pre-processing and
    softmax stay float.

    Args:
        model: One input, one output. Deployable models take raw pixels 0-255.
        path: Where the file goes; it appears there whole or not at all.
        variant: "float32" or "int8".
        calibration: Inputs from which "int8" learns the ranges of activations, `(n, …)`.
        labels: Class names, stored in the file.
        resize: Name of the resize rule, stored in the file.
        ranges: Of activations, for "int8", as quantization-aware training learned them: then
            nothing is calibrated, pre-processing is int8 too, and the softmax stays float.

    Raises:
        UsageError: If the model cannot be expressed in ONNX ops, or int8 has no calibration.
    """
    checks.one_of("onnx.write", "variant", variant, VARIANTS)
    described = meta.of(model, labels, resize)
    learned = ranges if variant == "int8" else None
    if variant == "int8" and learned is None and (calibration is None or not len(calibration)):
        raise UsageError(
            "An int8 file needs calibration pictures", where=model.name, todo="pass `calibration`"
        )
    with _silence():
        if learned is not None:
            from export.formats import qdq
            from export.quantization import twin

            proto = _convert(twin.frozen(model, learned, target="onnx"))
            qdq.store_weights(proto)
        else:
            proto = _convert(model)
        if variant == "int8" and learned is None:
            proto = _quantize(proto, np.asarray(calibration, np.float32))
    _finish(proto, model, described)
    with files.replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return path


def unfinished(model: keras.Model) -> bytes:
    """Returns the float32 file as the converter leaves it, with the names of layers in it."""
    with _silence():
        return _convert(model).SerializeToString()


def predictor(path: Path, *, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pictures to outputs, on ONNX Runtime's CPU provider.

    Raises:
        UsageError: If the file is not one that ONNX Runtime can run; when called, if `x` does
            not fit.
    """
    runner = session(path, threads=threads)
    (i,), (o,) = runner.get_inputs(), runner.get_outputs()
    wanted = tuple(i.shape[1:])
    step = i.shape[0] if isinstance(i.shape[0], int) else _BATCH
    dtype = np.uint8 if "uint8" in i.type else np.float32

    def predict(x: np.ndarray) -> np.ndarray:
        if len(wanted) != x.ndim - 1 or any(
            isinstance(d, int) and d != n for d, n in zip(wanted, x.shape[1:], strict=True)
        ):
            raise UsageError(
                "The input does not fit the file",
                where=path,
                expected=f"batches of shape {tuple(i.shape)}",
                received=x.shape,
            )
        parts = [
            runner.run([o.name], {i.name: x[k : k + step].astype(dtype, copy=False)})[0]
            for k in range(0, len(x), step)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, *o.shape[1:]), np.float32)

    return predict


def run(path: Path, x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Returns the outputs for `x`; see `predictor`."""
    return predictor(path, threads=threads)(x)


def confirm(path: Path, x: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Runs pictures in OpenVINO too, where it is installed, and returns its opinion.

    Args:
        path: The file.
        x: Pictures as the file takes them, `(n, height, width, channels)`; the first are run.
        got: What ONNX Runtime gives for them.
    """
    if importlib.util.find_spec("openvino") is None:
        return {}
    x, got = x[:_CONFIRMED], got[:_CONFIRMED]
    try:
        y, version = _PROBE.outputs(path, x)
    except UsageError as error:
        return {"opinions": (str(error).replace(str(path), path.name),)}
    note = (
        f"run in OpenVINO {version} too: the class of ONNX Runtime on "
        f"{(y.argmax(1) == got.argmax(1)).sum()} of {len(x)} pictures, the largest difference of "
        f"a score is {np.abs(y - got).max():.2g}"
    )
    return {"opinions": (note,)}


def input_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape of one example."""
    (i,) = session(path).get_inputs()
    return tuple(i.shape[1:])


def metadata(path: Path) -> Metadata | None:
    """Returns what cnnkit wrote into the file, or None if that is nothing."""
    import onnx

    properties = onnx.load(str(path), load_external_data=False).metadata_props
    return meta.loads(next((p.value for p in properties if p.key == KEY), None))


def session(path: Path, *, threads: int = 1) -> Any:
    """Returns an ONNX Runtime session for the file.

    Raises:
        UsageError: If it is not an ONNX file with one input and output, or cannot be run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        runner = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common public class
        raise UsageError("ONNX Runtime cannot run this file", where=path, received=error) from error
    counts = len(runner.get_inputs()), len(runner.get_outputs())
    if counts != (1, 1):
        raise UsageError(
            "Not a classifier", where=path, expected="one input and one output", received=counts
        )
    return runner


def _convert(model: keras.Model) -> Any:
    import tensorflow as tf
    from tf2onnx import optimizer
    from tf2onnx import tf_loader
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer
    from tf2onnx.tfonnx import process_tf_graph

    class KeepsTransposes(TransposeOptimizer):
        def post_optimize_action(self) -> None:
            """Would write some as reshapes, from shapes that were right before the optimization.

            Layer normalization of 1x1 feature maps came out wrong (tf2onnx 1.17).
            """

    traced = trace.function(model, None)
    image, scores = traced.inputs[0].name, traced.outputs[0].name
    names = [image], [scores]

    def translated() -> Any:
        # Frozen here: captured constants would become inputs that the user has to feed.
        frozen = trace.frozen_graph(traced)
        with tf.Graph().as_default() as graph:
            frozen = tf_loader.tf_optimize(*names, frozen)
            tf.import_graph_def(frozen, name="")
            del frozen  # as large as the weights
            return process_tf_graph(
                graph,
                continue_on_error=True,  # `_finish` names an op that ONNX lacks
                input_names=names[0],
                output_names=names[1],
                opset=OPSET,
                tensors_to_rename={image: INPUT, scores: OUTPUT},
                # Of the exact GELU, as TensorFlow writes it; ONNX only has Erf.
                custom_op_handlers={"Erfc": (_complement_of_erf, [])},
            )

    steps = {**optimizer._get_optimizers(), "optimize_transpose": KeepsTransposes}
    graph = translated()
    # Each step would write all weights once more into buffers that stay; `make_model` does it too.
    graph.update_proto = lambda: None
    try:
        graph = optimizer.optimize_graph(graph, catch_errors=False, optimizers=steps)
        vars(graph).pop("update_proto", None)
    except Exception:
        # A step that fails is left out, for which tf2onnx copies the graph before each of them.
        graph = optimizer.optimize_graph(translated(), optimizers=steps)
    return graph.make_model(model.name)


def _complement_of_erf(graph: Any, node: Any, name: str, args: list[Any]) -> None:
    """Makes a node of tf2onnx's graph compute erfc(x) = 1 - erf(x)."""
    from tf2onnx.utils import map_onnx_to_numpy_type

    (erf,) = node.output
    dtype = map_onnx_to_numpy_type(graph.get_dtype(erf))
    one = graph.make_const(f"{name}/one", np.ones((), dtype)).output[0]
    node.type = "Erf"
    graph.insert_new_node_on_output("Sub", erf, inputs=[one, erf])


def _quantize(proto: Any, calibration: np.ndarray) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            starts = range(0, len(calibration), _CALIBRATED)
            self._batches = ({INPUT: calibration[k : k + _CALIBRATED]} for k in starts)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder, f"{step}.onnx") for step in range(3))
        plain.write_bytes(proto.SerializeToString())
        # Folds batch normalization into convolutions; the symbolic shapes need no solver here.
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared)).graph.node
        quantize_static(
            str(prepared),
            str(quantized),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Seven bits of weights: with eight, two products overflow the 16 bits in which x86
            # processors without VNNI add them (up to 15 dB), and unsigned ones cost half the speed.
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_float_nodes(nodes),
        )
        return onnx.load(str(quantized))


def _float_nodes(nodes: Iterable[Any]) -> list[str]:
    """Returns the names of the nodes that int8 would make worse: pre-processing and softmax.

    Quantizing the arithmetic on raw pixels costs up to twice the time of the whole net when it
    is per channel, and quantizing the softmax costs 16 dB (measured on a ResNet of 96x96x3).
    """
    pixels, found = {INPUT}, []
    for node in nodes:  # in the order of execution
        if node.op_type == "Softmax":
            found.append(node.name)
        elif node.op_type in ("Mul", "Add", "Sub", "Div") and pixels.intersection(node.input):
            pixels.update(node.output)
            found.append(node.name)
    return found


def _shorten(graph: Any) -> None:
    """Replaces the names inside the graph, which are paths in the Python code, by numbers."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    outputs = (name for node in graph.node for name in node.output)
    inner = dict.fromkeys((*(constant.name for constant in graph.initializer), *outputs))
    short = {name: str(i) for i, name in enumerate(inner) if name and name not in kept}
    for constant in graph.initializer:
        constant.name = short[constant.name]
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        node.ClearField("name")


def _finish(proto: Any, model: keras.Model, described: Metadata) -> None:
    """Names the batch axis, shortens the names, stores the metadata and checks the result."""
    import onnx

    graph = proto.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # inferred with another name for the batch axis
    _shorten(graph)
    onnx.helper.set_model_props(proto, {KEY: described.dumps()})
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        found = cookbook.explain(str(error))
        if found is None:
            raise
        raise UsageError(found.cause, where=model.name, todo=found.cure) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps tf2onnx, TensorFlow and ONNX Runtime from logging their advice to developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
