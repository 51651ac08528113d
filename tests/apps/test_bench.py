"""`cnnkit bench` on files."""

import json
from pathlib import Path

import pytest

BUNDLE = Path(__file__).parents[2] / "saved_models" / "lenet_8kb"
(FILE,) = (BUNDLE / "tflite").glob("*.tflite")


def test_table_picture_and_limits(cnnkit):
    done = cnnkit("bench", BUNDLE, "--repeat", 3, "--plot", "times.png", "--max-size", "7850")
    assert done.code == 3
    for told in (FILE.name, "p95", "of the peak", "billion operations a second on 1 thread"):
        assert told in done.out.replace("\n", "")
    assert "1 of 3 files do not keep the limits" in done.err
    assert "has 7856 bytes, --max-size is 7850" in done.err
    assert Path("times.png").read_bytes().startswith(b"\x89PNG")


def test_json(cnnkit):
    done = cnnkit("bench", FILE, "--repeat", 2, "--threads", "1,2", "--max-latency", "1s", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert [row["threads"] for row in told["rows"]] == [1, 2]
    assert told["rows"][0]["size_bytes"] == 7856
    assert set(told["peak_gops"]) == {"1", "2"}
    assert told["breaches"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threads", "0"), "Wrong number of threads"),
        (("--threads", "two"), "Wrong number of threads"),
        (("--max-latency", "5"), "Wrong duration"),
        (("--max-size", "big"), "Wrong size"),
        (("--max-drop", "0.1"), "The accuracy of this file is not known"),
        (("--plot", "times.gif"), "Not a picture's name"),
        (("--input", "digits"), "Files or --input, not both"),
    ],
)
def test_wrong_options(cnnkit, options, said):
    done = cnnkit("bench", FILE, "--repeat", 2, *options)
    assert done.code == 2
    assert said in done.err
    assert not list(Path().iterdir())
