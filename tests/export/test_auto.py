"""`auto`: the fastest of the files that pass."""

import re
from dataclasses import replace

import pytest

from cnnkit.errors import UsageError
from export import auto
from export import bundle as bundles
from export import formats
from export import targets
from tests.export import corners

CPUS = ["litert-cpu", "ort-cpu"]


def for_target(subject, target):
    """Returns the subject with a recipe that names a target."""
    export = subject.recipe.export.model_copy(update={"target": target})
    return replace(subject, recipe=subject.recipe.model_copy(update={"export": export}))


def test_every_target_has_candidates_that_it_takes():
    for name, target in targets.TARGETS.items():
        assert auto.candidates(name, True) == list(target.formats)
        for left in auto.candidates(name, False):
            assert not formats.get(left).needs_calibration
    assert auto.candidates("none", True) == auto.candidates("litert-cpu", True)
    with pytest.raises(UsageError, match="Unknown target"):
        auto.candidates("toaster", True)


@pytest.mark.parametrize("target", CPUS)
def test_one_file_is_left_and_it_is_not_slower(subject, tmp_path, target):
    made = bundles.write(for_target(subject, target), ["auto"], out=tmp_path / "auto")
    (chosen,) = made.artifacts
    assert chosen in auto.candidates(target, True)
    (note,) = [n for n in made.manifest["notes"] if n.startswith("auto")]
    assert note.startswith(f"auto chose {chosen} on this machine: ")
    took = {name: float(ms) for name, ms in re.findall(r"([\w-]+) ([\d.]+) ms", note)}
    assert set(took) == set(auto.candidates(target, True))
    assert took[chosen] == min(took.values())
    kept = [p for p in made.folder.rglob("*") if p.suffix in (".tflite", ".onnx")]
    assert kept == [made.folder / formats.get(chosen).path(made.name)]
    assert not made.broken_files()


def test_what_is_named_stays(subject, tmp_path):
    made = bundles.write(
        for_target(subject, "ort-cpu"), ["onnx", "auto", "onnx-int8"], out=tmp_path / "auto"
    )
    assert made.artifacts == ["onnx", "onnx-int8"]


def judged(name, ok=True):
    return auto.Judged(name, str(formats.get(name).path("net")), ok=ok, reason="" if ok else "bad")


@pytest.mark.parametrize(
    ("passing", "times", "best", "left"),
    [
        (["tflite", "tflite-fp16"], {"tflite": 2.0, "tflite-fp16": 1.0}, "tflite-fp16", 2),
        (["tflite", "tflite-fp16"], {"tflite": 1.0, "tflite-fp16": 0.99}, "tflite", 2),
        (["tflite", "tflite-fp16"], {}, "tflite", 2),
        (["tflite-fp16"], {}, "tflite-fp16", 2),
        ([], {}, "", 3),
    ],
)
def test_only_what_passes_is_chosen(tmp_path, passing, times, best, left):
    verdicts = [judged("onnx"), *(judged(f, f in passing) for f in ("tflite", "tflite-fp16"))]
    chosen = auto.pick(tmp_path, verdicts, ["tflite", "tflite-fp16"], times)
    assert chosen.best == best
    kept = chosen.left(verdicts, [])
    assert [v.format for v in kept if v.ok and v.format != "onnx"] == [best] * bool(best)
    assert len(kept) == left
    assert ("is refused (bad)" in chosen.told) == (len(passing) < 2)


def test_without_data_no_int8(npz, tmp_path):
    plain = replace(corners.subject(npz), dataset=None)
    made = bundles.write(plain, ["auto"], out=tmp_path / "auto")
    assert made.artifacts[0] in ("tflite", "tflite-fp16", "tflite-dynamic")
    assert not made.refused
