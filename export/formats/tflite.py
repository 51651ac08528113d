"""TensorFlow Lite files: one picture at a time, built-in ops only."""

from __future__ import annotations

import collections
import re
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import checks
from cnnkit import files
from cnnkit.errors import UsageError
from export import cookbook
from export.formats import flatbuffer
from export.formats import metadata as meta
from export.formats import trace
from export.formats.metadata import INPUT
from export.formats.metadata import Metadata

if TYPE_CHECKING:
    import keras

    from export.quantization.ranges import Ranges

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")
# Those whose activations are integers, with ranges that calibration pictures tell.
CALIBRATED = ("int8", "int16x8")
INPUT_TYPES = ("uint8", "int8", "float32")
# Whether one call of a predictor is short enough to be timed.
QUICK = True
# Below this scale, a product of two scales no longer fits the kernels' fixed-point multipliers.
_TINY_SCALE = 1e-7
# A divisor that rounds to zero makes the integer kernel give up in the middle of a picture.
_FLOAT_OPS = {"DIV"}


def write(  # noqa: PLR0913
    model: keras.Model,
    path: Path,
    *,
    variant: str = "float32",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
    input_type: str = "uint8",
    ranges: Ranges | None = None,
) -> Path:
    """Writes `model` as a TFLite file of batch 1 and returns `path`.

    Args:
        model: One input, one output. Deployable models take raw pixels 0-255.
        path: Where the file goes; it appears there whole or not at all.
        variant: One of `VARIANTS`. "float16" halves the weights and "dynamic" stores them as
            int8, both compute in float32; "int8" uses integer kernels throughout, and so does
            "int16x8", with int8 weights and int16 activations.
        calibration: Inputs from which the last two learn the ranges of activations, `(n, …)`.
        labels: Class names, stored in the file.
        resize: Name of the resize rule, stored in the file.
        input_type: Of an int8 file: "uint8" takes raw pixels (scale 1, zero point 0), "int8"
            raw pixels less 128, "float32" any range, which is quantized in the graph. The output
            is float32; with "int8" it is int8 too, and no op computes in anything else. Other
            files take float32; of "int16x8", "float32" says that these are not raw pixels.
        ranges: Of activations, for "int8", as quantization-aware training learned them: then
            nothing is calibrated, and the file computes what `twin.frozen(model, ranges)` does.

    Raises:
        UsageError: If the model cannot be expressed in built-in ops, the calibration pictures
            are missing or not raw pixels, or the runtime refuses the result.
    """
    checks.one_of("tflite.write", "variant", variant, VARIANTS)
    checks.one_of("tflite.write", "input_type", input_type, INPUT_TYPES)
    described = meta.of(model, labels, resize)  # refuses before the work
    if variant == "int8" and ranges is not None:
        from export.quantization import twin

        content = _convert_simulation(twin.frozen(model, ranges, target="tflite"), input_type)
        check(content, model, variant)
        with files.replacing(path) as partial:
            partial.write_bytes(flatbuffer.finish(content, described))
        return path
    samples = _samples(calibration, model, variant, input_type) if variant in CALIBRATED else None
    with tempfile.TemporaryDirectory() as folder:
        content, silent = _convert(
            trace.save_frozen(model, Path(folder), 1), variant, samples, input_type
        )
    check(content, model, variant)
    if silent:
        described = meta.of(model, labels, resize, [layer_of(model, name) for name in silent])
    with files.replacing(path) as partial:
        partial.write_bytes(flatbuffer.finish(content, described))
    return path


def unfinished(model: keras.Model) -> bytes:
    """Returns the float32 file as the converter leaves it, for tools that know tensors by name."""
    with tempfile.TemporaryDirectory() as folder:
        return _convert(trace.save_frozen(model, Path(folder), 1), "float32", None, "float32")[0]


def predictor(
    path: Path, *, threads: int = 1, reference: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pictures to outputs, on LiteRT with its default delegate.

    One example at a time. A quantized input is rounded, a quantized output is brought back to
    float32. `reference` is as for `interpreter`.

    Raises:
        UsageError: If the file is not one that LiteRT can run; when called, if `x` does not fit.
    """
    runner = interpreter(path, threads=threads, reference=reference)
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()

    def predict(x: np.ndarray) -> np.ndarray:
        if tuple(i["shape"][1:]) != x.shape[1:] or i["shape"][0] != 1:
            raise UsageError(
                "The input does not fit the file",
                where=path,
                expected=f"batches of shape {tuple(map(int, i['shape']))}",
                received=x.shape,
            )
        y = np.empty((len(x), *o["shape"][1:]), np.float32)
        for index in range(len(x)):
            runner.set_tensor(i["index"], quantized(x[index : index + 1], i))
            runner.invoke()
            y[index] = dequantized(runner.get_tensor(o["index"]), o)[0]
        return y

    return predict


def run(path: Path, x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Returns the outputs for `x`; see `predictor`."""
    return predictor(path, threads=threads)(x)


def input_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape of one example."""
    (i,) = interpreter(path).get_input_details()
    return tuple(map(int, i["shape"][1:]))


def metadata(path: Path) -> Metadata | None:
    """Returns what cnnkit wrote into the file, or None if that is nothing."""
    return flatbuffer.read_metadata(path)


def notes(path: Path) -> list[str]:
    """Returns what the user should know about the file: silent layers, float ops among int8."""
    described, found = metadata(path), []
    if described and described.silent:
        found.append(
            f"zero on every calibration picture: {', '.join(described.silent)} (range taken "
            "from the input; more pictures or pruning the layer would be better)"
        )
    ops = collections.Counter(flatbuffer.float_ops(path.read_bytes()))
    if ops:
        counted = ", ".join(f"{count} {op}" for op, count in ops.items())
        found.append(f"computed in float32, for want of an int8 kernel: {counted}")
    return found


def interpreter(path: Path, *, threads: int = 1, reference: bool = False) -> Any:
    """Returns a LiteRT interpreter for the file, ready to be fed.

    With `reference`, its kernels are those that define the ops, slow and without a delegate.

    Raises:
        UsageError: If it is not a TFLite file with one input and output, or cannot be run.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise UsageError("Not a TFLite file", where=path, received=f"{len(content)} bytes of it")
    try:
        runner = Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF
            if reference
            else OpResolverType.AUTO,
        )
        runner.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UsageError("LiteRT cannot run this file", where=path, received=error) from error
    counts = len(runner.get_input_details()), len(runner.get_output_details())
    if counts != (1, 1):
        raise UsageError(
            "Not a classifier", where=path, expected="one input and one output", received=counts
        )
    return runner


def layer_of(model: keras.Model, tensor: str) -> str:
    """Returns the name of the Keras layer that the converter's name for a tensor points to."""
    names = {layer.name for layer in model._flatten_layers(include_self=False)}
    # `model_1/conv_2/Relu;model_1/…`: traced scopes get a number, fused ops are joined by `;`.
    for part in tensor.split(";")[0].split("/"):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return name
    return tensor


def _samples(
    calibration: np.ndarray | None, model: keras.Model, variant: str, input_type: str
) -> np.ndarray:
    if calibration is None or not len(calibration):
        raise UsageError(
            f"An {variant} file needs calibration pictures",
            where=model.name,
            todo="pass `calibration`",
        )
    if calibration.shape[1:] != model.input_shape[1:]:
        raise UsageError(
            "The calibration pictures do not fit the model",
            where=model.name,
            expected=model.input_shape[1:],
            received=calibration.shape[1:],
        )
    low, high = float(calibration.min()), float(calibration.max())
    if input_type != "float32" and not (low >= 0 and 1 < high <= 255):
        raise UsageError(
            "The calibration pictures are not raw pixels",
            where=model.name,
            expected="values from 0 to 255",
            received=f"values from {low:g} to {high:g}",
        )
    return calibration.astype(np.float32)


def _convert(
    saved: Path, variant: str, samples: np.ndarray | None, input_type: str
) -> tuple[bytes, list[str]]:
    """Returns the converter's file, and the names of tensors that were zero in calibration."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with warnings.catch_warnings():
        # The converter calibrates on `tf.lite.Interpreter`, which announces its own end.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter", append=False)
        if samples is None:
            return _translated(converter.convert), []
        return _convert_integer(converter, variant, samples, input_type)


def _convert_simulation(simulation: keras.Model, input_type: str) -> bytes:
    """Returns the integer file of a model that is rounded where the file has to round."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        saved = trace.save_frozen(simulation, Path(folder), 1)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = getattr(tf, input_type)
        converter.inference_output_type = getattr(tf, _output_type(input_type))
        return _translated(converter.convert)


def _convert_integer(
    converter: Any, variant: str, samples: np.ndarray, input_type: str
) -> tuple[bytes, list[str]]:
    """Calibrates, sets the ranges that calibration cannot know, and quantizes.

    The two halves of `convert()` are called apart, as `tf.lite.experimental.QuantizationDebugger`
    does, because ranges can only be corrected between them.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    def feed() -> Iterable[dict[str, np.ndarray]]:
        return ({INPUT: sample[None]} for sample in samples)

    raw = input_type != "float32"
    kinds, wide = tf.lite.OpsSet, variant == "int16x8"
    converter.target_spec.supported_ops = [
        kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        if wide
        else kinds.TFLITE_BUILTINS_INT8
    ]
    converter.representative_dataset = feed
    converter._experimental_calibrate_only = True
    calibrated = _translated(converter.convert)
    ranged, silent = flatbuffer.set_ranges(calibrated, (0.0, 255.0) if raw else None)
    if wide:  # by the older quantizer, as `convert()` does; it takes the ranges from the file
        none: Iterable[dict[str, np.ndarray]] = ()
        types = tf.float32, tf.float32, True, tf.int16, tf.int64
        tool = Calibrator(ranged)
        return _translated(lambda: tool.calibrate_and_quantize(lambda: none, *types)), silent
    quantized = mlir_quantize(
        ranged,
        input_data_type=getattr(tf, input_type),
        output_data_type=getattr(tf, _output_type(input_type)),
        denylisted_ops=_FLOAT_OPS,
    )
    return quantized, silent


def _output_type(input_type: str) -> str:
    return "int8" if input_type == "int8" else "float32"


def _translated(convert: Any) -> bytes:
    try:
        return convert()
    except Exception as error:
        found = cookbook.explain(str(error))
        if found is None:
            raise
        raise UsageError(found.cause, todo=found.cure) from error


def check(content: bytes, model: keras.Model, variant: str) -> None:
    """Refuses a file that a phone could not run.

    Raises:
        UsageError: If it has ops that are not built in, or LiteRT refuses its numbers.
    """
    from ai_edge_litert.interpreter import Interpreter

    if ops := flatbuffer.custom_ops(content):
        raise UsageError(
            "The TFLite file would need ops that are not built in",
            where=model.name,
            received=", ".join(ops),
            todo="replace the layers that need them",
        )
    try:
        Interpreter(model_content=content).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        tiny = flatbuffer.smallest_scales(content, _TINY_SCALE)
        layers = ", ".join(dict.fromkeys(layer_of(model, name) for name in tiny))
        raise UsageError(
            f"LiteRT refuses the {variant} file",
            where=model.name,
            received=f"{error}" + (f"; nearly constant outputs of: {layers}" if layers else ""),
            todo="take those layers out, or calibrate with pictures that make them vary",
        ) from error


def quantized(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Returns `x` as an interpreter's input of these details takes it."""
    dtype, (scale, zero) = details["dtype"], details["quantization"]
    if not np.issubdtype(dtype, np.integer):
        return x.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    steps = np.rint(np.asarray(x, np.float32) / (scale or 1.0)) + zero
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantized(y: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Returns a tensor of these details as float32."""
    scale, zero = details["quantization"]
    if not np.issubdtype(y.dtype, np.integer):
        return y.astype(np.float32, copy=False)
    return (y.astype(np.float32) - zero) * (scale or 1.0)
