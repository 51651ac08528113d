"""What raw errors of converters and runtimes mean, and what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why something failed, and what the user should do about it."""

    cause: str
    cure: str

    def __str__(self) -> str:
        return f"{self.cause}. {self.cure[:1].upper()}{self.cure[1:]}."


FULL_DISK = "The disk is full, or the file too large for it"
# Pattern, cause, cure. The first match wins; `{name}` stands for a named group of the pattern.
RECIPES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|ENOSPC|[Dd]isk quota exceeded|EDQUOT|File too large|EFBIG",
        FULL_DISK,
        "free some space or choose another place; nothing half-written is left",
    ),
    (
        r"MemoryError|std::bad_alloc|[Oo]ut of memory|OOM when allocating|Cannot allocate memory"
        r"|Unable to allocate",
        "There was not enough memory",
        "close other programs, or use a smaller model or fewer calibration pictures",
    ),
    (
        r"(?s)'tf\.(?P<op>\w+)' op is neither a custom op nor a flex op",
        "TFLite has no built-in op for TensorFlow's {op}",
        "replace the layer that uses it by one made of convolutions, pooling and "
        "element-wise ops, or export to ONNX or SavedModel",
    ),
    (
        r"(?:Flex delegate|node number \d+ \(Flex(?P<op>\w+)\))",
        "The TFLite file needs the Flex delegate, which plain runtimes do not have",
        "convert it with built-in ops only; slices with a new axis (`x[:, None]`) become "
        "`keras.ops.expand_dims`, random and look-up layers leave the model",
    ),
    (
        r"Encountered unresolved custom op: (?P<op>\w+)",
        "The TFLite file uses the custom op {op}, which this runtime does not have",
        "convert it with built-in ops only",
    ),
    (
        r"Didn't find op for builtin opcode '(?P<op>\w+)' version '(?P<version>\d+)'",
        "The runtime is older than the file: it lacks version {version} of {op}",
        "update the runtime on the device, or convert with the TensorFlow of its time",
    ),
    (
        r"Hybrid models are not supported on TFLite Micro"
        r"|Input type: FLOAT32 with filter type: INT8 not supported",
        "TFLite Micro does not run dynamic-range files",
        "export micro, which is int8 throughout",
    ),
    (
        r"Invalid input tensor type TENSOR_QUANT8_SYMM_PER_CHANNEL",
        "This phone's NNAPI is older than scales for each channel, which int8 files have",
        "run the file on the CPU, where LiteRT's XNNPACK is: NNAPI is deprecated since Android 15",
    ),
    (
        r"Please check if the quantized model is in debug mode",
        "TensorFlow's QuantizationDebugger takes only files that were made in its debug mode",
        "`cnnkit verify` names the layer at which a file departs from its model, of any file",
    ),
    (
        r"only supports? the NHWC tensor format|only supported for NHWC",
        "The model has layers with data_format='channels_first', which TensorFlow has on GPUs only",
        "build it with channels_last, which has the same weights",
    ),
    (
        # LiteRT tells that it made the delegate every time.
        r"TfLiteXNNPackDelegate|XNNPACK(?! delegate for CPU)",
        "A tensor has the same value on all calibration pictures, so its int8 scale is nearly "
        "zero and XNNPACK refuses the file",
        "calibrate with more, and more different, pictures",
    ),
    (
        r"Failed to infer result type|missing attribute 'value'",
        "The converter met a variable that was not frozen and aborted",
        "save the model with `keras.Model.save` and export that file: never hand a folder of "
        "`tf.saved_model.save` to the converter",
    ),
    (
        r"'to_quantize' can only either be a keras|`prune_low_magnitude` can only prune an object"
        r"|No module named 'keras\.api'",
        "TensorFlow Model Optimization knows Keras 2 only, and this is Keras 3",
        "use the passes of `cnnkit compress`, or `export.tfmot`, which takes a Keras 3 model over "
        "to Keras 2 and back (`pip install 'cnnkit[tfmot]'`)",
    ),
    (
        r"`model\.quantize\(\)`: \d+ layer\(s\) were skipped"
        r"|Layer \w+ does not have a `quantize` method",
        "`keras.Model.quantize` quantizes dense layers and embeddings only, no convolutions",
        "export tflite-int8 or onnx-int8, or train for int8 with the pass `qat`",
    ),
    (
        r"Descriptors cannot (?:not )?be created directly"
        r"|tf2onnx [\d.]+ requires protobuf|has requirement protobuf",
        "This tf2onnx was made for an older protobuf than TensorFlow's",
        "install tf2onnx>=1.17, which takes any protobuf from 3.20",
    ),
    (
        r"get_call_context_function|_get_save_spec|_wrapped_model",
        "TFLiteConverter.from_keras_model does not work with Keras 3",
        "export with cnnkit, which converts through a SavedModel",
    ),
    (
        r"_DictWrapper",
        "TensorFlow before 2.21 cannot save this model on Python 3.12 or later",
        "install tensorflow>=2.21 and keras>=3.15",
    ),
    (
        r"untracked' resource",
        "The model uses a variable or table that Keras does not know of",
        "assign it as an attribute of the layer that uses it, in `__init__` or `build`",
    ),
    (
        r"has not yet been built|has never (?:been )?call|has no defined inputs yet",
        "The model has no input shape yet",
        "build it with its input shape, or call it once, before saving it",
    ),
    (
        r"File format not supported.*TFSMLayer|TFSMLayer\(",
        "A SavedModel folder is not a Keras model",
        "give the `.keras` file that it was exported from",
    ),
    (
        r"save_format`? argument is deprecated",
        "The code was written for Keras 2",
        "use `model.save('name.keras')` or `cnnkit export`",
    ),
    (
        r"float4_e2m1fn",
        "onnx and ml_dtypes do not fit together",
        "install tensorflow>=2.21, which brings a recent ml_dtypes",
    ),
    (
        r"np\.cast`? was removed|module 'numpy' has no attribute '(?:object|cast|bool)'"
        r"|has no attribute 'output_names'",
        "This tf2onnx is too old for the installed NumPy or Keras",
        "install tf2onnx>=1.17",
    ),
    (
        r"No Op registered for (?P<op>\w+)|Tensorflow op \[[^\]]*: (?P<tf>\w+)\] is not supported",
        "ONNX has no op for {op}{tf}",
        "replace the layer that uses it, or export to TFLite or SavedModel",
    ),
    (
        r"Unable to convert node FakeQuant|requires const scalar value for min",
        "tf2onnx cannot convert fake quantization",
        "finalize quantization-aware training before the export",
    ),
    (
        r"NodeDef mentions attr '(?P<attr>\w+)' not in Op",
        "The TensorFlow that wrote the SavedModel is newer than the one that loads it",
        "use a TF Serving image of at least the version in manifest.json",
    ),
    (
        r"No versions of servable (?P<name>\S+) found",
        "TF Serving found no version folder of {name}",
        "point `base_path` at the folder that holds the folder `1`",
    ),
    (
        r"signature name: \"?(?P<name>\w+)\"? not found|does not have named input",
        "The request does not fit the model's signature",
        "compare it with request_example.json in the bundle",
    ),
    (
        r"Please make sure that this is.*safe|safe_mode|Requested the deserialization of a",
        "The model file holds Python code (a Lambda layer), which is not run",
        "replace the Lambda by a layer class and save the model again",
    ),
    (
        r"exit code -9|\bSIGKILL\b|oom-kill",
        "The system ended the process, most likely for want of memory",
        "close other programs, or use a smaller model; TensorFlow 2.20 and 2.21 keep some 22 MB of "
        "every `TFLiteConverter.convert()`, so call it in a process of its own, as cnnkit does",
    ),
)


def explain(text: str) -> Cause | None:
    """Returns what the raw error in `text` means, or None if it is not known."""
    return next((cause for _, cause in _found(text)), None)


def explain_all(text: str) -> list[tuple[str, Cause]]:
    """Returns every known error in `text`, in its order: the words that tell it, and the cause."""
    found = sorted(_found(text), key=lambda pair: pair[0].start())
    return [(" ".join(match[0].split())[:100], cause) for match, cause in found]


def _found(text: str) -> Iterator[tuple[re.Match[str], Cause]]:
    """Yields the known errors in `text`, in the order of the recipes."""
    for pattern, cause, cure in RECIPES:
        if match := re.search(pattern, text):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            yield match, Cause(cause.format(**groups), cure.format(**groups))
