"""Targets as data: names, limits, and that the tables of ops are those of the tools."""

import re
import subprocess
import sys

import pytest

from cnnkit.errors import UsageError
from export import formats
from export import targets
from export.targets import TARGETS

NAMES = """
litert-cpu android-mediapipe tflm ethos-u55 ethos-u65 ethos-u85 edgetpu ort-cpu tf-serving browser
"""


def test_the_table():
    assert list(TARGETS) == NAMES.split()
    for row in TARGETS.values():
        assert formats.select(row.formats)
        assert row.source.startswith("https://")
        assert all((row.int8, row.zeros, row.clusters, row.dtypes, row.description))
        assert row.fast_ops is None or row.ops is None or row.fast_ops <= row.ops


def test_limits_of_a_board():
    found = targets.parse("tflm:flash=256KB,ram=64KiB")
    assert (found.name, found.flash_bytes, found.ram_bytes) == ("tflm", 256_000, 65_536)
    assert TARGETS["tflm"].flash_bytes is None
    assert targets.parse("none") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tfl", "Closest: tflm"),
        ("tflm:rom=1MB", "Unknown option of target 'tflm' 'rom'"),
        ("tflm:flash=much", r"Wrong flash of target \'tflm\'. Expected bytes, or a text such as"),
        ("tflm:flash", "Expected key=value"),
        ("none:flash=1MB", "Unknown target 'none'"),
    ],
)
def test_what_is_no_target_is_told(text, told):
    with pytest.raises(UsageError, match=told):
        targets.parse(text)


def test_the_ops_of_ethos_are_those_that_vela_reports(tmp_path):
    command = [sys.executable, "-m", "ethosu.vela", "--supported-ops-report"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    report = (tmp_path / "SUPPORTED_OPS.md").read_text()
    for title, ops in (
        ("Ethos-U55 and Ethos-U65", targets.ETHOS_U55_OPS),
        ("Ethos-U85", targets.ETHOS_U85_OPS),
    ):
        table = report.split(f"## {title} TFLite Summary Table")[1].split("\n## ")[0]
        assert set(re.findall(r"^\| ([A-Z0-9_]+) \|", table, re.MULTILINE)) == ops
