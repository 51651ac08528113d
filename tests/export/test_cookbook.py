"""Raw errors: those that the installed packages can be made to raise, and others in their words."""

import importlib
import re
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from export import cookbook
from export.formats import flatbuffer
from export.formats import micro
from tests.export import corners

pytestmark = pytest.mark.export
# Error, word of its cause, word of its cure. Quoted from the issues in which users met them, for
# they need other versions, a server or a phone.
QUOTED = [
    (
        "ValueError: 'to_quantize' can only either be a keras Sequential or Functional model.",
        "Keras 2 only",
        "cnnkit compress",
    ),
    (
        "ValueError: `prune_low_magnitude` can only prune an object of the following types: "
        "keras.models.Sequential, keras functional model, keras.layers.Layer, list of keras.layers",
        "Keras 2 only",
        "cnnkit compress",
    ),
    (
        "AttributeError: 'Functional' object has no attribute '_get_save_spec'",
        "does not work with Keras 3",
        "through a SavedModel",
    ),
    (
        "  File tflite_keras_util.py, in _wrapped_model\n    with keras_deps."
        "get_call_context_function()().enter(\nTypeError: 'NoneType' object is not callable",
        "does not work with Keras 3",
        "through a SavedModel",
    ),
    (
        "error: missing attribute 'value'\nLLVM ERROR: Failed to infer result type(s).\n"
        "Aborted (core dumped)",
        "not frozen",
        "keras.Model.save",
    ),
    (
        "TypeError: this __dict__ descriptor does not support '_DictWrapper' objects",
        "Python 3.12",
        "tensorflow>=2.21",
    ),
    ("AttributeError: np.cast was removed in the NumPy 2.0 release", "tf2onnx", "tf2onnx>=1.17"),
    (
        "AttributeError: module 'ml_dtypes' has no attribute 'float4_e2m1fn'",
        "ml_dtypes",
        "tensorflow>=2.21",
    ),
    (
        "TypeError: Descriptors cannot be created directly.\nIf this call came from a _pb2.py "
        "file, your generated code is out of date",
        "older protobuf",
        "tf2onnx>=1.17",
    ),
    (
        "tf2onnx 1.16.1 requires protobuf~=3.20, but you have protobuf 5.29.1 which is "
        "incompatible.",
        "older protobuf",
        "tf2onnx>=1.17",
    ),
    (
        "Invalid input tensor type TENSOR_QUANT8_SYMM_PER_CHANNEL",
        "NNAPI is older",
        "on the CPU",
    ),
    (
        "ERROR: Didn't find op for builtin opcode 'QUANTIZE' version '3'",
        "lacks version 3 of QUANTIZE",
        "update the runtime",
    ),
    (
        "No versions of servable digits found under base path /models/digits",
        "no version folder of digits",
        "folder `1`",
    ),
    (
        'Serving signature name: "serving_default" not found in signature def',
        "does not fit the model's signature",
        "request_example.json",
    ),
    (
        "JSON object: does not have named input: image",
        "does not fit the model's signature",
        "request_example.json",
    ),
    ("exit code -9", "want of memory", "22 MB"),
    ("OSError: [Errno 28] No space left on device", "disk is full", "free some space"),
    (
        "ResourceExhaustedError: OOM when allocating tensor with shape[64,512,512,64]",
        "not enough memory",
        "smaller model",
    ),
]


@pytest.mark.parametrize(("text", "cause", "cure"), QUOTED)
def test_errors_that_users_quoted(text, cause, cure):
    found = cookbook.explain(text)
    assert cause in found.cause
    assert cure in found.cure


def network():
    return keras.Sequential(
        [keras.Input(corners.SHAPE), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    )


def import_what_tfmot_imports(folder):
    importlib.import_module("keras.api")


def look_up_what_old_tf2onnx_looks_up(folder):
    np.cast  # noqa: B018, NPY201


def ask_for_what_old_tf2onnx_asks(folder):
    network().output_names  # noqa: B018


def save_as_in_keras_2(folder):
    network().save(folder / "model", save_format="tf")


def open_a_savedmodel_as_a_model(folder):
    (folder / "saved_model.pb").write_bytes(b"")
    keras.models.load_model(folder)


def open_a_lambda(folder):
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda t: t * 2)])
    model.save(folder / "lambda.keras")
    keras.models.load_model(folder / "lambda.keras")


def export_what_is_not_built(folder):
    keras.Sequential([layers.Dense(2)]).export(str(folder / "served"), verbose=False)


def ask_what_is_not_built_for_inputs(folder):
    keras.Sequential([layers.Dense(2)]).inputs  # noqa: B018


def quantize_a_convolution_with_keras(folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer InputLayer")
        network().quantize("int8")


def save_what_nobody_tracks(folder):
    import tensorflow as tf

    module, lost = tf.Module(), [tf.Variable(1.0)]
    module.double = tf.function(lambda x: x * lost[0], input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, str(folder))


def check_an_op_that_onnx_lacks(folder):
    import onnx

    ends = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    node = onnx.helper.make_node("Betainc", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:])
    onnx.checker.check_model(onnx.helper.make_model(graph))


def _converter(folder):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((2, 3))])
    def strange(x):
        return tf.raw_ops.Betainc(a=x, b=x, x=x)

    return tf.lite.TFLiteConverter.from_concrete_functions([strange.get_concrete_function()])


def convert_an_op_that_tflite_lacks(folder):
    _converter(folder).convert()


def _interpret(content):
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(model_content=content).allocate_tensors()


def run_an_op_that_litert_lacks(folder):
    converter = _converter(folder)
    converter.allow_custom_ops = True
    _interpret(converter.convert())


def _file():
    from export.formats import tflite

    return tflite.unfinished(network())


def run_a_file_of_a_newer_converter(folder):
    model = flatbuffer.parse(_file())
    for code in model.operatorCodes:
        code.version = 99
    _interpret(flatbuffer.pack(model))


def debug_a_file_that_is_not_for_it(folder):
    import tensorflow as tf

    (folder / "file.tflite").write_bytes(_file())
    tf.lite.experimental.QuantizationDebugger(
        quant_debug_model_path=str(folder / "file.tflite"), debug_dataset=lambda: iter([])
    )


def run_a_dynamic_file_on_a_microcontroller(folder):
    from export.formats import tflite

    # Of fewer than 1,024 weights, the converter leaves a layer in float32.
    large = keras.Sequential([keras.Input(corners.SHAPE), layers.Flatten(), layers.Dense(64)])
    path = tflite.write(large, folder / "dynamic.tflite", variant="dynamic")
    np.save(folder / "x.npy", np.zeros((1, *corners.SHAPE), np.float32))
    command = [
        sys.executable,
        "-I",
        str(micro._PROBE.script),
        *map(str, (path, folder / "x.npy", "y")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
    raise RuntimeError(done.stderr)


PROVOKED = {
    import_what_tfmot_imports: "knows Keras 2 only",
    look_up_what_old_tf2onnx_looks_up: "tf2onnx is too old",
    ask_for_what_old_tf2onnx_asks: "tf2onnx is too old",
    save_as_in_keras_2: "written for Keras 2",
    open_a_savedmodel_as_a_model: "not a Keras model",
    open_a_lambda: "Python code",
    export_what_is_not_built: "no input shape yet",
    ask_what_is_not_built_for_inputs: "no input shape yet",
    quantize_a_convolution_with_keras: "no convolutions",
    save_what_nobody_tracks: "Keras does not know of",
    check_an_op_that_onnx_lacks: "no op for Betainc",
    convert_an_op_that_tflite_lacks: "no built-in op for TensorFlow's Betainc",
    run_an_op_that_litert_lacks: "custom op Betainc",
    run_a_file_of_a_newer_converter: "lacks version 99 of ",
    debug_a_file_that_is_not_for_it: "QuantizationDebugger takes only",
    run_a_dynamic_file_on_a_microcontroller: "does not run dynamic-range files",
}


@pytest.mark.parametrize("provoke", PROVOKED, ids=lambda provoke: provoke.__name__)
@pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated")
def test_errors_that_the_installed_packages_raise(provoke, tmp_path):
    with pytest.raises(Exception) as raised:  # noqa: PT011  # of many kinds, told apart by text
        provoke(tmp_path)
    found = cookbook.explain(f"{type(raised.value).__name__}: {raised.value}")
    assert found is not None, str(raised.value)
    assert PROVOKED[provoke] in found.cause


def test_every_recipe_is_a_sentence_and_a_cure():
    for pattern, cause, cure in cookbook.RECIPES:
        assert re.compile(pattern)
        assert cause
        assert cure[0].islower() or cure[0] == "`"
        assert not f"{cause} {cure}".endswith(".")


def test_an_unknown_text_and_an_innocent_one():
    assert cookbook.explain("everything is fine") is None
    # LiteRT says so whenever it begins.
    assert cookbook.explain("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.") is None
    assert cookbook.explain_all("") == []


def test_all_errors_of_a_log_in_their_order():
    log = "start\nNo versions of servable a found\nnoise\nMemoryError\n"
    assert [words for words, _ in cookbook.explain_all(log)] == [
        "No versions of servable a found",
        "MemoryError",
    ]
