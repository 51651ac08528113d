"""TFLite Micro: the file, its C sources, and that another runtime gives the same."""

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from export import formats
from export.formats import flatbuffer
from export.formats import micro
from export.formats import tflite
from export.quantization.twin import Twin
from export.targets import TFLM_OPS
from tests.export import declarations
from tests.export import networks

pytestmark = pytest.mark.export
LABELS = ['"quoted"', "back\\slash", "trigraph??/", "猫 Ångström", "line\nbreak1"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file with its sources, whose name is no C identifier."""
    path = tmp_path_factory.mktemp("micro") / "3-nets.v2.tflite"
    micro.write(
        networks.everything(),
        path,
        calibration=networks.pictures(32),
        labels=LABELS,
        resize="letterbox",
    )
    x = networks.pictures(16, seed=1)
    told = micro.confirm(path, x, micro.run(path, x))
    micro.write_sources(path, LABELS, told["arena_bytes"])
    return path, told


def test_everything_is_int8_with_pixels_less_128(written):
    runner = tflite.interpreter(written[0])
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()
    assert (i["dtype"], i["quantization"]) == (np.int8, (1.0, -128))
    assert (o["dtype"], o["quantization"]) == (np.int8, (1 / 256, -128))
    assert list(i["shape_signature"]) == [1, *networks.SHAPE]
    content = written[0].read_bytes()
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(flatbuffer.ops(content))
    assert flatbuffer.float_ops(content) == []
    assert micro.metadata(written[0]).labels == tuple(LABELS)


def test_tflite_micro_equals_the_reference_kernels(written):
    x = networks.pictures(32, seed=2)
    y, arena = micro.interpret(written[0], x)
    want = tflite.predictor(written[0], reference=True)(x)
    assert (y.dtype, y.shape) == (np.int8, want.shape)
    assert np.abs((y.astype(float) + 128) / 256 - want).max() <= micro.STEPS / 256
    assert arena == written[1]["arena_bytes"]


def test_the_arena_holds_the_activations_and_is_the_smallest(written):
    from tflite_micro import runtime

    content, arena = written[0].read_bytes(), written[1]["arena_bytes"]
    height, width, _ = networks.SHAPE
    assert height * width * (8 + 8) < arena < 8 * height * width * 8
    runtime.Interpreter.from_bytes(content, arena_size=arena)
    with pytest.raises(RuntimeError, match="failed to allocate"):
        runtime.Interpreter.from_bytes(content, arena_size=arena - 16)


def test_the_note_says_what_was_compared(written):
    (note,) = written[1]["opinions"]
    assert f"{written[1]['arena_bytes']:,} bytes of arena" in note
    assert note.endswith("of 16 pictures")


@pytest.mark.parametrize(
    ("compiler", "language"),
    [("cc", ["-std=c99", "-xc"]), ("c++", ["-std=c++11", "-xc++"])],
)
def test_the_header_compiles_and_holds_the_file(written, compiler, language, tmp_path):
    path, told = written
    text = path.with_suffix(".h").read_text()
    numbers = re.findall(r"0x([0-9a-f]{2})\b", text)
    assert bytes(int(n, 16) for n in numbers) == path.read_bytes()
    assert f"#define MODEL_3_NETS_V2_ARENA_BYTES {told['arena_bytes']}\n" in text
    if not shutil.which(compiler):
        return
    (tmp_path / "main.c").write_text(
        f'#include "{path.with_suffix(".h")}"\n#include <stdio.h>\n'
        "int main(void) {\n  int k;\n  for (k = 0; k < MODEL_3_NETS_V2_CLASSES; k++)\n"
        '    printf("%s|", model_3_nets_v2_labels[k]);\n'
        '  printf("%d %d %d", (int)((uintptr_t)model_3_nets_v2_tflite % 16),\n'
        "    (int)(256 * MODEL_3_NETS_V2_OUTPUT_SCALE), MODEL_3_NETS_V2_INPUT_ZERO_POINT);\n"
        "  return 0; }\n"
    )
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    program = str(tmp_path / "main")
    subprocess.run(
        [compiler, *language, *strict, "main.c", "-o", program], cwd=tmp_path, check=True
    )
    shown = subprocess.run([program], capture_output=True, check=True).stdout.decode()
    assert shown == "|".join([*LABELS, "0 1 -128"])


def test_the_resolver_has_the_ops_of_the_file(written, tmp_path):
    text = written[0].with_name("3-nets.v2_ops.h").read_text()
    ops = set(flatbuffer.ops(written[0].read_bytes()))
    assert f"MicroMutableOpResolver<{len(ops)}>" in text
    assert set(re.findall(r"\.Add(\w+)\(\)", text)) == {micro.method(op) for op in ops}
    declarations.check('#include "3-nets.v2_ops.h"\n', tmp_path, written[0].parent)


def test_every_op_has_the_name_of_its_method_upstream():
    assert {micro.method(op) for op in TFLM_OPS} == set(declarations.METHODS.split())


def test_learned_ranges_give_int8_ends_too(tmp_path):
    twin = Twin(networks.everything())
    twin.observe(networks.pictures(16).astype("float32"))
    model, ranges = twin.finalize()
    path = micro.write(model, tmp_path / "net.tflite", ranges=ranges)
    runner = tflite.interpreter(path)
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()
    assert (i["dtype"], o["dtype"]) == (np.int8, np.int8)
    assert (i["quantization"], o["quantization"]) == ((1.0, -128), (1 / 256, -128))


def test_repeated_rows_and_columns_stay_exact(tmp_path):
    image = keras.Input((9, 7, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="first")(image)
    x = keras.layers.UpSampling2D((5, 3), name="up")(x)
    model = keras.Model(image, keras.layers.Flatten(name="flat")(x))
    pixels = networks.pictures(4, (9, 7, 3))
    plain = tflite.write(model, tmp_path / "plain.tflite")
    small = micro.write(model, tmp_path / "small.tflite", calibration=pixels)
    for path, y in ((plain, tflite.run(plain, pixels)), (small, micro.interpret(small, pixels)[0])):
        assert flatbuffer.ops(path.read_bytes()) == [
            "CONV_2D",
            "RESIZE_NEAREST_NEIGHBOR",
            "RESHAPE",
        ]
        rows = y.reshape(-1, *x.shape[1:])
        np.testing.assert_array_equal(rows, rows[:, ::5, ::3].repeat(5, 1).repeat(3, 2))
    np.testing.assert_allclose(tflite.run(plain, pixels), model(pixels), rtol=1e-5, atol=1e-3)


def test_what_tflite_micro_cannot_run_is_refused(tmp_path):
    path = tflite.write(
        networks.everything(),
        tmp_path / "dynamic.tflite",
        variant="dynamic",
    )
    with pytest.raises(UsageError, match=r"TFLite Micro does not run dynamic-range files.*micro"):
        micro.interpret(path, networks.pictures(1))


def test_without_the_interpreter_one_line_says_what_to_install(written, monkeypatch):
    monkeypatch.setattr(micro.importlib.util, "find_spec", lambda _: None)
    assert formats.get("micro").missing()
    with pytest.raises(UsageError, match=r"pip install 'cnnkit\[micro\]'"):
        micro.interpret(written[0], networks.pictures(1))
    with pytest.raises(UsageError, match=r"pip install 'cnnkit\[micro\]'"):
        micro.write(networks.everything(), written[0].with_name("other.tflite"))
