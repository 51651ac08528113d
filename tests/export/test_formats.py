import math
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.errors import UsageError
from export import formats
from export.formats import flatbuffer
from export.formats import int4
from export.formats import metadata
from export.formats import onnx
from export.formats import saved_model
from export.formats import tflite
from export.formats import trace
from tests.contracts.parts import perturb
from tests.export import networks

pytestmark = pytest.mark.export
# MediaPipe takes pictures of 1 or 3 channels only: its file has tests of its own.
NAMES = [name for name in formats.FORMATS if name != "tflite-mediapipe"]
TFLITE = [name for name in NAMES if name.startswith("tflite")]


@pytest.fixture(scope="module")
def model():
    return networks.everything()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """Every format of one model that has every kind of connection."""
    folder = tmp_path_factory.mktemp("formats")
    return {
        name: row.load().write(
            model,
            folder / row.path("net"),
            variant=row.variant,
            calibration=networks.pictures(32) if row.needs_calibration else None,
            labels=networks.LABELS,
            resize="letterbox",
        )
        for name, row in formats.FORMATS.items()
        if name in NAMES
    }


# float16 stores weights with 11 bits: an error of 2^-12 a weight, through six layers.
@pytest.mark.parametrize(
    ("name", "atol"),
    [("tflite", 1e-5), ("onnx", 1e-5), ("savedmodel", 1e-5), ("tflite-fp16", 2e-3)],
)
@pytest.mark.parametrize("n", [1, 3])
def test_float_formats_equal_keras(model, written, name, atol, n):
    x = networks.pictures(n)
    want = np.asarray(model(x.astype("float32"), training=False))
    got = formats.get(name).load().run(written[name], x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=atol)


@pytest.mark.parametrize("name", ["tflite-int8", "onnx-int8", "tflite-dynamic", "tflite-int16x8"])
def test_int8_formats_are_close_to_keras(model, written, name):
    x = networks.pictures(64, seed=1)
    want = np.asarray(model(x.astype("float32"), training=False))
    got = formats.get(name).load().run(written[name], x, threads=2)
    assert networks.sqnr_db(want, got) >= 25.0


def test_int16_activations_are_closer_than_int8_ones(model, written):
    x = networks.pictures(64, seed=1)
    want = np.asarray(model(x.astype("float32"), training=False))
    wide, narrow = (
        networks.sqnr_db(want, formats.get(name).load().run(written[name], x))
        for name in ("tflite-int16x8", "tflite-int8")
    )
    assert wide > narrow


def test_int4_weights_are_not_far_from_keras(model, written):
    x = networks.pictures(64, seed=1)
    want = np.asarray(model(x.astype("float32"), training=False))
    # A step is 18 times that of int8: 25 dB less, of the 40 that int8 weights alone leave.
    assert networks.sqnr_db(want, int4.run(written["tflite-int4"], x)) >= 12.0


def test_int4_weights_are_half_of_int8_ones(written):
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.parse(written["tflite-int4"].read_bytes())
    kinds = schema.TensorType
    (graph,) = model.subgraphs
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    for op in graph.operators:
        name = names[model.operatorCodes[op.opcodeIndex].builtinCode]
        if name in ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):
            weights = graph.tensors[op.inputs[1]]
            stored = len(model.buffers[weights.buffer].data)
            if name == "DEPTHWISE_CONV_2D":  # has no int4 kernel
                assert (weights.type, stored) == (kinds.INT8, np.prod(weights.shape))
            else:
                assert (weights.type, stored) == (kinds.INT4, -(-np.prod(weights.shape) // 2))
    sizes = {name: written[name].stat().st_size for name in TFLITE}
    assert sizes["tflite-int4"] == min(sizes.values())


def test_without_litert_quantizer_int4_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)  # as if it were not installed
    assert int4.missing() == "litert-quantizer"
    with pytest.raises(UsageError, match=r"not installed. `pip install 'cnnkit\[quantizers\]'`"):
        int4.write(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_resize_rule_travel_inside(written, name):
    found = formats.get(name).load().metadata(written[name])
    assert found.labels == tuple(networks.LABELS)
    assert found.resize == "letterbox"
    assert found.input_shape == networks.SHAPE


@pytest.mark.parametrize("name", TFLITE)
def test_tflite_interface(written, name):
    dtype = np.uint8 if name == "tflite-int8" else np.float32
    runner = tflite.interpreter(written[name])
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()
    assert runner.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
    }
    assert (i["name"], i["dtype"], o["name"], o["dtype"]) == (
        "image",
        dtype,
        "probabilities",
        np.float32,
    )
    assert list(i["shape_signature"]) == [1, *networks.SHAPE]  # nothing dynamic is left
    content = written[name].read_bytes()
    assert flatbuffer.custom_ops(content) == []
    assert flatbuffer.float_ops(content) == []
    if dtype == np.uint8:
        assert i["quantization"] == (1.0, 0)  # raw pixels are the quantized values


def test_constants_shrink_as_promised(written):
    def constants(name):
        model = flatbuffer.parse(written[name].read_bytes())
        used = {t.buffer for graph in model.subgraphs for t in graph.tensors}
        return sum(len(model.buffers[b].data) for b in used if model.buffers[b].data is not None)

    # Biases stay: int32 in the int8 file. The dynamic one leaves small kernels in float32.
    assert constants("tflite-int8") < 0.3 * constants("tflite")
    assert constants("tflite-fp16") < 0.55 * constants("tflite")
    assert constants("tflite-dynamic") < 0.5 * constants("tflite")


def test_onnx_interface(written):
    import onnx as onnx_library

    for name in ("onnx", "onnx-int8"):
        session = onnx.session(written[name])
        (i,), (o,) = session.get_inputs(), session.get_outputs()
        assert (i.name, i.shape, i.type) == ("image", ["batch", *networks.SHAPE], "tensor(float)")
        assert (o.name, o.shape) == ("probabilities", ["batch", len(networks.LABELS)])
        proto = onnx_library.load(str(written[name]))
        assert {entry.domain: entry.version for entry in proto.opset_import}[""] == onnx.OPSET


def test_onnx_int8_is_per_channel(written):
    import onnx as onnx_library

    proto = onnx_library.load(str(written["onnx-int8"]))
    constants = {c.name: c for c in proto.graph.initializer}
    by_output = {o: node for node in proto.graph.node for o in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 5
    for node in convolutions:
        data, weight = (by_output[name] for name in node.input[:2])
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        kinds = [
            onnx_library.helper.tensor_dtype_to_np_dtype(constants[n.input[2]].data_type)
            for n in (data, weight)
        ]
        assert kinds == [np.uint8, np.int8]
        assert constants[weight.input[1]].dims == constants[weight.input[0]].dims[:1]


def test_grouped_convolution_is_not_left_as_a_function(written):
    import onnx as onnx_library
    import tensorflow as tf

    proto = onnx_library.load(str(written["onnx"]))
    groups = [a.i for n in proto.graph.node for a in n.attribute if a.name == "group"]
    assert 4 in groups
    loaded = tf.saved_model.load(str(written["savedmodel"]))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    assert not any(f.attr["_XlaMustCompile"].b for f in graph.library.function)
    assert not tf.config.functions_run_eagerly()


def test_savedmodel_signature_can_be_served(written):
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel.FromString(
        (written["savedmodel"] / "saved_model.pb").read_bytes()
    )
    (graph,) = proto.meta_graphs
    signature = graph.signature_def["serving_default"]
    assert tf.compat.v1.saved_model.signature_def_utils.is_valid_signature(signature)
    assert set(signature.inputs) == {"image"}
    assert set(signature.outputs) == {"probabilities"}
    assert [d.size for d in signature.inputs["image"].tensor_shape.dim] == [-1, *networks.SHAPE]


def test_a_savedmodel_has_each_weight_once(model, written):
    import tensorflow as tf

    stored = tf.train.list_variables(str(written["savedmodel"] / "variables/variables"))
    assert sum(math.prod(shape) for _, shape in stored if shape) == model.count_params()


def test_the_probe_cannot_import_keras(written, tmp_path):
    np.save(tmp_path / "x.npy", networks.pictures(1))
    code = (
        "import runpy, sys; sys.argv[1:] = {!r}; "
        "scope = runpy.run_path({!r}); scope['main'](*sys.argv[1:]); "
        "import keras"
    ).format(
        [str(written["savedmodel"]), str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "1"],
        str(saved_model._PROBE.script),
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert (tmp_path / "y.npy").exists()
    assert "ModuleNotFoundError" in done.stderr or "halted; None in sys.modules" in done.stderr


def test_finish_changes_no_output_and_aligns_the_buffers(model):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    offsets = set()
    x = networks.pictures(4)

    def outputs(content):
        runner = Interpreter(model_content=content)
        runner.allocate_tensors()
        (i,), (o,) = runner.get_input_details(), runner.get_output_details()
        rows = []
        for picture in x:
            runner.set_tensor(i["index"], picture[None].astype(i["dtype"]))
            runner.invoke()
            rows.append(runner.get_tensor(o["index"]).copy())
        return np.concatenate(rows)

    for variant in tflite.VARIANTS:
        content, _ = _raw(model, variant)
        finished = flatbuffer.finish(content, metadata.of(model, networks.LABELS, "letterbox"))
        np.testing.assert_array_equal(outputs(content), outputs(finished))
        assert len(finished) < len(content) - 1000
        flat = schema.Model.GetRootAs(finished, 0)
        buffers = [flat.Buffers(k) for k in range(flat.BuffersLength())]
        offsets |= {b._tab.Vector(b._tab.Offset(4)) % 16 for b in buffers if b.DataLength()}
    assert offsets == {0}


def test_equal_vectors_are_written_once(model):
    content, _ = _raw(model, "int8")
    graph = flatbuffer.parse(content).subgraphs[0]
    channels = [
        len(t.quantization.scale)
        for t in graph.tensors
        if t.quantization is not None and t.quantization.scale is not None
    ]
    spared = 8 * (sum(n for n in channels if n > 1) - sum({n for n in channels if n > 1}))
    plain = len(flatbuffer.pack(flatbuffer.parse(content)))
    distinct = flatbuffer.parse(content)
    for number, tensor in enumerate(distinct.subgraphs[0].tensors):
        if tensor.quantization is not None and tensor.quantization.zeroPoint is not None:
            tensor.quantization.zeroPoint = tensor.quantization.zeroPoint + number
    assert spared > 0
    assert plain + spared <= len(flatbuffer.pack(distinct))


def test_equal_tables_are_written_once(model):
    from ai_edge_litert import schema_py_generated as schema

    finished = _finished(model, "int8")
    graph = schema.Model.GetRootAs(finished, 0).Subgraphs(0)
    found = [graph.Tensors(k).Quantization() for k in range(graph.TensorsLength())]
    tables = [table for table in found if table is not None]
    contents = {
        (*table.ScaleAsNumpy(), *table.ZeroPointAsNumpy(), table.QuantizedDimension())
        for table in tables
    }
    assert len({table._tab.Pos for table in tables}) == len(contents) < len(tables)


def test_only_input_and_output_have_a_name(model):
    tensors = flatbuffer.parse(_finished(model, "int8")).subgraphs[0].tensors
    names = [tensor.name for tensor in tensors]
    assert sorted(filter(None, names)) == [b"image", b"probabilities"]


def test_what_calibration_found_is_not_kept(written):
    tensors = flatbuffer.parse(written["tflite-int16x8"].read_bytes()).subgraphs[0].tensors
    found = [tensor.quantization for tensor in tensors if tensor.quantization is not None]
    assert found
    assert {(q.min, q.max) for q in found} == {(None, None)}


@pytest.mark.parametrize(("shared", "flattenings"), [(False, 0), (True, 1)])
def test_flattening_is_left_to_a_dense_layer_that_alone_reads_it(shared, flattenings):
    from ai_edge_litert import schema_py_generated as schema

    image = keras.Input(networks.SHAPE, name="image")
    flat = layers.Flatten(name="flat")(layers.MaxPooling2D(4, name="pool")(image))
    x = layers.Dense(64, activation="relu", name="hidden")(flat)
    x = layers.Multiply(name="both")([x, flat]) if shared else x
    x = layers.Dense(3, activation="softmax", name="probabilities")(x)
    model = flatbuffer.parse(_finished(perturb(keras.Model(image, x)), "int8"))
    codes = [model.operatorCodes[op.opcodeIndex].builtinCode for op in model.subgraphs[0].operators]
    assert codes.count(schema.BuiltinOperator.RESHAPE) == flattenings
    assert {code.builtinCode for code in model.operatorCodes} == set(codes)


def _finished(model, variant):
    return flatbuffer.finish(_raw(model, variant)[0], metadata.of(model, None, None))


def _raw(model, variant):
    samples = networks.pictures(8).astype("float32") if variant in tflite.CALIBRATED else None
    with tempfile.TemporaryDirectory() as folder:
        return tflite._convert(trace.save(model, Path(folder), 1), variant, samples, "uint8")


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_a_large_network_is_converted_with_its_variables(model, variant, monkeypatch, tmp_path):
    x = networks.pictures(32).astype("float32")
    outputs, sizes = [], []
    for name, many in (("constants", trace._MANY), ("variables", 0)):
        monkeypatch.setattr(trace, "_MANY", many)
        path = tflite.write(model, tmp_path / name, variant=variant, calibration=x)
        outputs.append(tflite.run(path, x))
        sizes.append(path.stat().st_size)
    np.testing.assert_allclose(*outputs, atol=1e-6)
    assert abs(sizes[0] - sizes[1]) < 500  # what is in them is the same, its order is not


def test_a_step_of_the_onnx_optimizer_that_fails_is_left_out(model, written, monkeypatch, tmp_path):
    from tf2onnx import optimizer
    from tf2onnx.optimizer.optimizer_base import GraphOptimizerBase

    class Fails(GraphOptimizerBase):
        def _optimize(self, graph):
            raise RuntimeError("this step does not know the op")

    monkeypatch.setitem(optimizer._optimizers, "merge_duplication", Fails)
    path = onnx.write(model, tmp_path / "m.onnx")
    x = networks.pictures(4)
    np.testing.assert_allclose(onnx.run(path, x), onnx.run(written["onnx"], x), atol=1e-6)


@pytest.mark.parametrize("variant", tflite.CALIBRATED)
def test_a_dead_relu_is_cured_and_named(tmp_path, variant):
    model, x = networks.tiny(dead=True), networks.pictures(16, (8, 8, 4))
    path = tflite.write(model, tmp_path / "m.tflite", variant=variant, calibration=x)
    want = np.asarray(model(x.astype("float32"), training=False))
    assert networks.sqnr_db(want, tflite.run(path, x)) >= 25.0
    assert tflite.metadata(path).silent == ("second",)
    assert "second" in tflite.notes(path)[0]


def test_live_ranges_are_left_as_the_converter_found_them(model):
    import tensorflow as tf

    x = networks.pictures(8).astype("float32")  # holds 0 and 255, so the input range fits too
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = trace.save(model, Path(folder), 1)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({"image": row[None]} for row in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        stock = converter.convert()
        ours = tflite._convert(saved, "int8", x, "uint8")[0]
    assert _tensors(stock) == _tensors(ours)


def _tensors(content):
    """Shape, type, contents and range of each tensor; their order is not always the same."""
    model = flatbuffer.parse(content)
    return Counter(
        (
            *(t.type, tuple(t.shape), bytes(_filled(model.buffers[t.buffer].data))),
            *(bytes(_filled(getattr(t.quantization, x, None))) for x in ("scale", "zeroPoint")),
        )
        for t in model.subgraphs[0].tensors
    )


def _filled(values):
    return b"" if values is None else values


def test_int8_with_float_input_outside_pixels(tmp_path):
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, layers.Conv2D(4, 3, name="c")(x))
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 4)).astype("float32")
    path = tflite.write(
        model, tmp_path / "m.tflite", variant="int8", calibration=x[:16], input_type="float32"
    )
    assert networks.sqnr_db(np.asarray(model(x)), tflite.run(path, x)) >= 25.0


@pytest.mark.parametrize("shape", [(6,), (5, 3), (4, 4, 4, 2)])
def test_any_rank(shape, tmp_path):
    x = keras.Input(shape)
    model = keras.Model(x, layers.Dense(3, activation="tanh", name="d")(x))
    x = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype("float32")
    want = np.asarray(model(x))
    for module, name in ((tflite, "m.tflite"), (onnx, "m.onnx")):
        got = module.run(module.write(model, tmp_path / name), x)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_exact_gelu(tmp_path):
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(6, 3, activation=keras.activations.gelu, name="c")(x)
    model = keras.Model(x, layers.Activation("gelu", name="g")(layers.Dense(3, name="d")(y)))
    # From deep in the left tail, where 1 - erf cancels, to the right.
    x = 10 * np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")
    want = np.asarray(model(x))
    for module, name in ((tflite, "m.tflite"), (onnx, "m.onnx")):
        got = module.run(module.write(model, tmp_path / name), x)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_onnx_normalizes_small_maps_right(tmp_path):
    x = keras.Input((1, 1, 8))
    y = layers.DepthwiseConv2D(3, padding="same", name="c")(x)
    model = keras.Model(x, layers.LayerNormalization(name="n")(y))
    x = np.random.default_rng(0).normal(size=(4, 1, 1, 8)).astype("float32")
    got = onnx.run(onnx.write(model, tmp_path / "m.onnx"), x)
    np.testing.assert_allclose(got, np.asarray(model(x)), atol=1e-5)


def test_float_islands_are_reported(tmp_path):
    x = keras.Input((8, 8, 4), name="image")
    y = layers.Conv2D(4, 3, name="c")(layers.Rescaling(1 / 255, name="r")(x))
    model = keras.Model(x, layers.Conv2D(4, 1, name="d")(layers.ELU(name="e")(y)))
    path = tflite.write(
        model, tmp_path / "m.tflite", variant="int8", calibration=networks.pictures(4, (8, 8, 4))
    )
    assert "1 ELU" in tflite.notes(path)[0]


@keras.saving.register_keras_serializable("tests")
class InverseError(layers.Layer):
    def call(self, x):
        return keras.ops.erfinv(keras.ops.tanh(x))


def test_an_op_that_is_not_built_in_is_named(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, InverseError(name="odd")(x))
    for module in (tflite, onnx):
        with pytest.raises(UsageError, match="Erfinv"):
            module.write(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_calibration_is_checked(tmp_path):
    model, x = networks.tiny(), networks.pictures(4, (8, 8, 4))
    for module, variant in ((tflite, "int8"), (tflite, "int16x8"), (onnx, "int8")):
        with pytest.raises(UsageError, match="needs calibration pictures"):
            module.write(model, tmp_path / "m", variant=variant)
    with pytest.raises(UsageError, match=r"not raw pixels.*Received values from 0 to 1"):
        tflite.write(model, tmp_path / "m", variant="int8", calibration=x / 255)
    with pytest.raises(UsageError, match=r"do not fit.*\(8, 8, 4\).*\(4, 4, 4\)"):
        tflite.write(model, tmp_path / "m", variant="int8", calibration=x[:, :4, :4])
    with pytest.raises(UsageError, match=r"Expected 3 labels.*Received 2"):
        tflite.write(model, tmp_path / "m", labels=["a", "b"])
    with pytest.raises(ValueError, match=r"`variant` of tflite.write must be one of"):
        tflite.write(model, tmp_path / "m", variant="int4")


def test_wrong_input_and_wrong_files(written, tmp_path):
    x = networks.pictures(1)[:, :8]
    for name in ("tflite", "onnx", "savedmodel"):
        with pytest.raises(UsageError):
            formats.get(name).load().run(written[name], x)
    (tmp_path / "m").write_text("not a model")
    for module in (tflite, onnx, saved_model):
        with pytest.raises(UsageError, match="m"):
            module.run(tmp_path / "m", x)


def test_two_inputs_are_refused(tmp_path):
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], layers.Add(name="sum")([a, b]))
    with pytest.raises(UsageError, match="one input of known size and one output"):
        tflite.write(model, tmp_path / "m.tflite")


def test_unknown_format_has_the_closest_names():
    with pytest.raises(UsageError, match=r"Unknown format 'tflit8'.*Closest: .*tflite"):
        formats.select(["tflite", "tflit8"])
    assert [row.name for row in formats.select(["onnx", "tflite", "onnx"])] == ["onnx", "tflite"]


def test_the_table_needs_no_tensorflow():
    code = "import sys, export.formats; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
