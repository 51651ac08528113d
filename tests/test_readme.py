"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

from apps.cli import VERBS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/cnnkit run digits",
    ".venv/bin/pip install '.[serve]' && .venv/bin/cnnkit serve saved_models/digits\n"
    "curl -d @saved_models/digits/serving/request_classify.json "
    "localhost:8501/v1/models/digits:classify",
    ".venv/bin/pip install '.[test]' && PATH=.venv/bin:$PATH scripts/test    # pytest -n 2",
)


def test_the_commands_of_a_newcomer():
    assert [text.strip() for _, text in BLOCKS if ".venv/" in text] == list(COMMANDS)


def test_every_verb_exists():
    spans = re.findall(r"`([^`\n]+)`", README) + [text for kind, text in BLOCKS if kind != "python"]
    named = {verb for span in spans for verb in re.findall(r"\bcnnkit (\w[\w-]*)", span)}
    assert named == set(VERBS)


def test_the_example_runs(tmp_path):
    [code] = [text for kind, text in BLOCKS if kind == "python"]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    original, pruned, passed, holds = done.stdout.splitlines()
    assert original.startswith("original ")
    assert int(pruned.split()[-3]) < int(original.split()[-3])
    assert passed == "['tflite-int8', 'onnx'] {}"
    assert holds == "True"
    assert (tmp_path / "small.keras").is_file()
    assert (tmp_path / "saved_models" / "example" / "manifest.json").is_file()
