"""TFLite Micro: an int8 file for microcontrollers, its C sources, and a run in its interpreter.

LiteRT runs the file too, and gives the answers on all pictures. TFLite Micro's kernels are LiteRT's
reference kernels, a hundred times slower than its fast ones, which round otherwise: `confirm` holds
these two against each other.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

import cnnkit
from cnnkit import files
from cnnkit.errors import UsageError
from export.formats import flatbuffer
from export.formats import tflite
from export.formats.probe import Probe

if TYPE_CHECKING:
    import keras

    from export.quantization.ranges import Ranges

VARIANTS = ("int8",)
# What this computer needs for a picture says nothing about a microcontroller.
QUICK = False
# What TFLite Micro may differ by from LiteRT's reference kernels, of which its own are a copy.
STEPS = 1
# Plain loops do about 0.4e9 multiply-accumulates a second.
_MACS = 2e9
# Its interpreter first says what is wrong, and then what comes of it.
_PROBE = Probe(
    Path(__file__).with_name("micro_probe.py"), "TFLite Micro cannot run this file", line=0
)
_BYTES_A_LINE = 16
# Methods of `MicroMutableOpResolver` that are not their op's name in camel case.
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}

run = tflite.run
predictor = tflite.predictor
input_shape = tflite.input_shape
metadata = tflite.metadata
notes = tflite.notes


def write(
    model: keras.Model,
    path: Path,
    *,
    variant: str = "int8",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
    ranges: Ranges | None = None,
) -> Path:
    """Writes `model` as an int8 file of batch 1 and returns `path`; see `tflite.write`.

    Input and output are int8: a raw pixel p is fed as p - 128.

    Raises:
        UsageError: If the interpreter of TFLite Micro, without which the file is not verified, is
            not installed; or as `tflite.write`.
    """
    require()
    return tflite.write(
        model,
        path,
        variant=variant,
        calibration=calibration,
        labels=labels,
        resize=resize,
        input_type="int8",
        ranges=ranges,
    )


def missing() -> str:
    """Returns what is not installed that this format needs, or an empty string."""
    return "" if importlib.util.find_spec("tflite_micro") else "TFLite Micro's interpreter"


def require() -> None:
    """Raises UsageError if the interpreter of TFLite Micro is not installed."""
    if what := missing():
        raise UsageError(
            f"{what} is not installed",
            where="tflite-micro",
            todo="`pip install 'cnnkit[micro]'`, on Linux on x86-64, for which it is published",
        )


def confirm(path: Path, x: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Runs the file in TFLite Micro and returns what that tells: arena and an opinion.

    Args:
        path: The file.
        x: Raw pixels `(n, height, width, channels)`; as many are run as take some ten seconds.
        got: What LiteRT with its default delegate gives for them.

    Raises:
        UsageError: If TFLite Micro cannot run it, or differs from LiteRT's reference kernels by
            more than `STEPS`.
    """
    chosen = max(1, int(_MACS // max(flatbuffer.macs(path.read_bytes()), 1)))
    x, got = x[:chosen], got[:chosen]
    y, arena = interpret(path, x)
    details = tflite.interpreter(path).get_output_details()[0]
    want = tflite.quantized(tflite.predictor(path, reference=True)(x), details)
    steps = np.abs(y.astype(int) - want)
    if steps.max() > STEPS:
        raise UsageError(
            "TFLite Micro and LiteRT do not agree",
            where=path,
            expected=f"outputs within {STEPS} step of int8",
            received=f"{steps.max()} steps",
        )
    same = int((y.argmax(1) == got.argmax(1)).sum())
    note = (
        f"TFLite Micro: {arena:,} bytes of arena; {(steps == 0).mean():.1%} of the outputs equal "
        f"those of LiteRT's reference kernels, the largest difference is {steps.max()} of 256 "
        f"steps; the class is that of LiteRT's fast ones on {same} of {len(x)} pictures"
    )
    return {"arena_bytes": arena, "opinions": (note,)}


def interpret(path: Path, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the raw outputs of TFLite Micro for raw pixels, and the bytes of the arena.

    The arena is the smallest in which the interpreter for this computer works. A microcontroller
    has pointers half as long, and so needs less; kernels that are made for it may ask for more.

    Raises:
        UsageError: If TFLite Micro cannot run the file, or is not installed.
    """
    require()
    details = tflite.interpreter(path).get_input_details()[0]
    y, printed = _PROBE.outputs(path, tflite.quantized(x, details))
    return y, int(printed)


def write_sources(path: Path, labels: Sequence[str] | None, arena_bytes: int) -> list[Path]:
    """Writes the C header and the op resolver of a file beside it, and returns their paths.

    Args:
        path: The file, `NAME.tflite`.
        labels: Class names.
        arena_bytes: As `interpret` measured it.
    """
    name = identifier(path.stem)
    return [
        files.write_text(path.with_suffix(".h"), header(path, name, labels, arena_bytes)),
        files.write_text(path.with_name(f"{path.stem}_ops.h"), resolver(path, name)),
    ]


def identifier(name: str) -> str:
    """Returns `name` as the beginning of C identifiers.

    Example:
        >>> identifier("2-cats.v1")
        'model_2_cats_v1'
    """
    plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    return plain if plain[:1].isalpha() else f"model_{plain}"


def header(path: Path, name: str, labels: Sequence[str] | None, arena_bytes: int) -> str:
    """Returns the C header, which is C++ too, with the file as an array."""
    content = path.read_bytes()
    runner, upper = tflite.interpreter(path), name.upper()
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()
    (low, zero), (step, offset) = i["quantization"], o["quantization"]
    height, width, channels = map(int, i["shape"][1:])
    classes = int(o["shape"][-1])
    lines = [content[k : k + _BYTES_A_LINE] for k in range(0, len(content), _BYTES_A_LINE)]
    numbers = ",\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in line) for line in lines)
    listed = ",\n".join(f"  {_literal(label)}" for label in labels or ())
    named = (
        f"\n/* Class names in the order of the outputs, UTF-8. */\n"
        f"static const char *const {name}_labels[{upper}_CLASSES] = {{\n{listed}\n}};\n"
    )
    return f"""\
/* {path.name} as an array, written by cnnkit {cnnkit.__version__}.
 *
 * Include it in one source file. Input: int8, {height} x {width} x {channels}, row by row; the raw
 * pixel p (0-255) is fed as p - 128. Output: int8, one for each class; the probability is
 * ({upper}_OUTPUT_SCALE * (q - {upper}_OUTPUT_ZERO_POINT)).
 */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_INPUT_HEIGHT {height}
#define {upper}_INPUT_WIDTH {width}
#define {upper}_INPUT_CHANNELS {channels}
#define {upper}_INPUT_SCALE {_float(low)}
#define {upper}_INPUT_ZERO_POINT ({zero})
#define {upper}_CLASSES {classes}
#define {upper}_OUTPUT_SCALE {_float(step)}
#define {upper}_OUTPUT_ZERO_POINT ({offset})
/* The smallest arena, aligned to 16 bytes, in which TFLite Micro ran the file on a computer with
 * pointers of 8 bytes. Kernels that are made for a processor, such as CMSIS-NN's, may need more. */
#define {upper}_ARENA_BYTES {arena_bytes}
#define {upper}_TFLITE_BYTES {len(content)}

#if defined(__cplusplus)
#define {upper}_ALIGNED alignas(16)
#elif defined(__GNUC__)
#define {upper}_ALIGNED __attribute__((aligned(16)))
#else
#define {upper}_ALIGNED _Alignas(16)
#endif
{named if labels else ""}
{upper}_ALIGNED static const uint8_t {name}_tflite[{upper}_TFLITE_BYTES] = {{
{numbers}
}};

#endif
"""


def resolver(path: Path, name: str) -> str:
    """Returns the C++ source that gives TFLite Micro the ops of the file, and no others."""
    ops = sorted(set(flatbuffer.ops(path.read_bytes())))
    upper, calls = name.upper(), [f"Add{method(op)}" for op in ops]
    adds = "\n".join(
        f"  if (resolver.{call}() != kTfLiteOk) return kTfLiteError;" for call in calls
    )
    return f"""\
// The ops of {path.name}, written by cnnkit {cnnkit.__version__}: C++ for TFLite Micro.
#ifndef {upper}_OPS_H
#define {upper}_OPS_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using {name}_resolver = tflite::MicroMutableOpResolver<{len(calls)}>;

inline TfLiteStatus {name}_register_ops({name}_resolver& resolver) {{
{adds}
  return kTfLiteOk;
}}

#endif
"""


def method(op: str) -> str:
    """Returns what TFLite Micro's resolver calls an op, such as `Conv2D` for `CONV_2D`."""
    return _METHODS.get(op) or "".join(part.title() for part in op.split("_"))


def _literal(text: str) -> str:
    """Returns a C string: octal escapes, which end after three digits, and no trigraphs."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'


def _float(value: float) -> str:
    return f"{np.float32(value):.9e}f"
