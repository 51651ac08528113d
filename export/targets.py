"""Where a model can run: what each target takes, what it gains from compression, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pydantic

from cnnkit import grammar
from cnnkit.errors import UsageError
from cnnkit.training.recipe import SizeBytes


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Methods of MicroMutableOpResolver, August 2026: https://github.com/tensorflow/tflite-micro, file
# tensorflow/lite/micro/micro_mutable_op_resolver.h.
TFLM_OPS = _ops(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
    BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP
    EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER
    GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
    REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT
    SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """
)
# `vela --supported-ops-report` of Vela 5.2.0.
ETHOS_U55_OPS = _ops(
    """
    ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D ELU EXP
    EXPAND_DIMS FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN
    MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6
    RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SLICE
    SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
    """
)
ETHOS_U85_OPS = ETHOS_U55_OPS | _ops(
    """
    ASSIGN_VARIABLE CAST DIV EQUAL GATHER GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND
    LOGICAL_NOT LOGICAL_OR NOT_EQUAL READ_VARIABLE REDUCE_ALL REDUCE_ANY SCATTER_ND SELECT SELECT_V2
    """
)
# https://coral.ai/docs/edgetpu/models-intro#supported-operations, of runtime 14. For their shapes,
# the compiler leaves some of them to the CPU.
EDGETPU_OPS = _ops(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED
    L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE
    REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
    RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH
    TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
    """
)


@dataclass(frozen=True)
class Target:
    """One place where models run.

    Attributes:
        name: What users type.
        description: One line for lists.
        formats: Formats that it takes, the best first.
        dtypes: Of the tensors that it computes with.
        static: Whether every shape, the batch too, must be known.
        int8: What int8 gains there.
        zeros: What weights that are zero gain there, in files that have room for them.
        clusters: What weights that share few values gain there.
        source: Where that is from.
        ops: The TFLite ops that it can run; None are all that the format can have.
        fast_ops: Those that its accelerator runs; others fall back to its CPU. None without one.
        flash_bytes: Room for the file; None where it depends on the board, or there is plenty.
        ram_bytes: Room for activations; None as above.
        fast_bytes: Bytes of weights beyond which each picture waits for memory; None without.
    """

    name: str
    description: str
    formats: tuple[str, ...]
    dtypes: tuple[str, ...]
    static: bool
    int8: str
    zeros: str
    clusters: str
    source: str
    ops: frozenset[str] | None = None
    fast_ops: frozenset[str] | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    fast_bytes: int | None = None


_ALL = "size, RAM, latency"
_NOTHING = "nothing"
_TRANSFER = "size in transfer, if it is compressed"
_ETHOS = Target(
    "ethos-u55",
    "Arm Ethos-U55 NPU beside a Cortex-M, through Vela and TFLite Micro",
    ("micro",),
    ("int8", "int16"),
    True,
    int8="size, RAM, latency; nothing else runs on the NPU",
    zeros="size; latency where the NPU waits for weights",
    clusters="size; latency where the NPU waits for weights",
    source="https://developer.arm.com/community/arm-community-blogs/b/ai-blog/posts/"
    "pruning-clustering-arm-ethos-u-npu",
    ops=TFLM_OPS | ETHOS_U55_OPS,
    fast_ops=ETHOS_U55_OPS,
)
TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target(
            "litert-cpu",
            "LiteRT (TensorFlow Lite) on the CPU of a phone, a board or a computer",
            ("tflite-int8", "tflite", "tflite-fp16", "tflite-dynamic"),
            ("float32", "float16 weights", "int8"),
            False,
            int8=_ALL,
            # Sparse kernels are for float networks of 1x1 convolutions after a 3x3 one.
            zeros=_NOTHING,
            clusters=_NOTHING,
            source="https://github.com/google-ai-edge/LiteRT/blob/main/tflite/delegates/xnnpack/"
            "README.md",
        ),
        Target(
            "android-mediapipe",
            "MediaPipe's ImageClassifier in an app for Android or iOS",
            ("tflite-mediapipe",),
            ("uint8 pixels", "int8"),
            True,
            int8=_ALL,
            zeros=_TRANSFER,  # of the app's package
            clusters=_TRANSFER,
            source="https://ai.google.dev/edge/mediapipe/solutions/vision/image_classifier",
        ),
        Target(
            "tflm",
            "TFLite Micro on the CPU of a microcontroller",
            ("micro",),
            ("int8",),
            True,
            int8=_ALL,
            # Measured on a Cortex-M4: no flash, RAM or time.
            zeros=_NOTHING,
            clusters=_NOTHING,
            source="https://aminhasanpour.github.io/EdgeMark/results/TFLM_pruning_and_clustering",
            ops=TFLM_OPS,
        ),
        _ETHOS,
        replace(
            _ETHOS,
            name="ethos-u65",
            description="Arm Ethos-U65 NPU beside a Cortex-A or Cortex-M, through Vela",
        ),
        replace(
            _ETHOS,
            name="ethos-u85",
            description="Arm Ethos-U85 NPU, through Vela and TFLite Micro",
            ops=TFLM_OPS | ETHOS_U85_OPS,
            fast_ops=ETHOS_U85_OPS,
        ),
        Target(
            "edgetpu",
            "Coral Edge TPU, through its compiler, which is not part of cnnkit",
            ("tflite-int8",),
            ("int8",),
            True,
            int8="size, RAM, latency; nothing else runs on it",
            zeros=_NOTHING,
            clusters=_NOTHING,
            source="https://coral.ai/docs/edgetpu/compiler",
            fast_ops=EDGETPU_OPS,
            fast_bytes=8 * 10**6,  # "roughly 8 MB" of memory on the chip
        ),
        Target(
            "ort-cpu",
            "ONNX Runtime on the CPU of a server or a computer",
            ("onnx-int8", "onnx"),
            ("float32", "int8"),
            False,
            int8="size, RAM; latency on processors with VNNI or its like",
            zeros=_NOTHING,
            clusters=_NOTHING,
            source="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
        ),
        Target(
            "tf-serving",
            "TensorFlow Serving on a server",
            ("savedmodel",),
            ("float32",),
            False,
            int8=_NOTHING,
            zeros=_NOTHING,
            clusters=_NOTHING,
            source="https://www.tensorflow.org/tfx/serving/serving_basic",
        ),
        Target(
            "browser",
            "a web page, with ONNX Runtime Web or LiteRT.js in WebAssembly",
            ("onnx-int8", "onnx", "tflite-int8", "tflite"),
            ("float32", "int8"),
            False,
            int8="size in transfer, RAM",
            zeros=_TRANSFER,
            clusters=_TRANSFER,
            source="https://onnxruntime.ai/docs/tutorials/web/",
        ),
    )
}
NONE = "none"
_LIMITS = ("flash", "ram")
_SIZE = pydantic.TypeAdapter(SizeBytes)


def parse(text: str) -> Target | None:
    """Returns the target that `text` means, with the limits of the board; None for "none".

    Raises:
        UsageError: If there is no such target or limit, or a limit is not a size.

    Example:
        >>> parse("tflm:flash=256KB,ram=64KiB").ram_bytes
        65536
    """
    if text == NONE:
        return None
    name, values = grammar.parse("target", text, TARGETS, lambda _: _LIMITS)
    limits: dict[str, Any] = {}
    for key, value in values.items():
        try:
            limits[f"{key}_bytes"] = _SIZE.validate_python(value)
        except pydantic.ValidationError as error:
            raise UsageError(
                f"Wrong {key} of target {name!r}",
                expected='bytes, or a text such as "64KiB" or "2MB"',
                received=value,
            ) from error
    return replace(TARGETS[name], **limits)
