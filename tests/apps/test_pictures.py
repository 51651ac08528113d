"""A folder of pictures as people have them, from the first command to the report."""

import json
import re
from html.parser import HTMLParser

import pytest

from apps.cli import main
from tests.apps import photos
from tests.apps.conftest import Done
from tests.apps.conftest import Made

EVIL = "<script>alert(1)-->"
CLASSES = {"café au lait": 35, EVIL: 21, "x & 'y' $z$ [red]": 14}
SKIPPED = ("<b>&.png", "moves.gif")
RECIPE = {
    "train.epochs": 10,
    "train.batch_size": 8,
    "model.width": 0.5,
    "compress.finetune_epochs": 5,
    "export.formats": '["tflite-int8", "onnx"]',
}
VOID = {"meta", "br", "img"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = photos.folder(tmp_path_factory.mktemp("my photos"), CLASSES, photos.MODES)
    (root / "café au lait" / SKIPPED[0]).write_bytes(photos.truncated())
    photos.moving(root / "café au lait" / SKIPPED[1])
    return root


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    sets = [word for key, value in RECIPE.items() for word in ("--set", f"{key}={value}")]
    places = ("--out", f"{out}/bundle", "--run", f"{out}/run")
    return Made(
        out / "bundle", out / "run", Done(main(["run", str(folder), *places, *sets]), "", "")
    )


@pytest.fixture(scope="module")
def page(made):
    return (made.bundle / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.links, self.text = [], set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        self.links += [v for key, v in attrs if key.split(":")[-1] in ("src", "href", "srcset")]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_run_finishes(made, folder):
    assert made.done.code == 0
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    assert manifest["labels"] == sorted(CLASSES)
    assert (made.bundle / "labels.txt").read_text().splitlines() == sorted(CLASSES)
    assert manifest["scores"]["accuracy"] > 0.8
    data = json.loads((made.bundle / "data.manifest.json").read_text())
    assert data["path"] == str(folder)
    assert len(data["items"]) == sum(CLASSES.values())
    assert {item["mode"] for item in data["items"]} == set(photos.MODES)


def test_the_report_is_one_safe_page(page):
    reader = Reader(page)
    assert reader.open == []
    assert "<script" not in page.lower()
    assert not reader.seen & {"script", "link", "iframe", "object", "embed", "base", "form", "i"}
    assert reader.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in reader.links)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", page)


def test_the_report_tells_what_it_is_about(page, made):
    text = "".join(Reader(page).text)
    assert "Always answering the largest class would be right on " in text
    assert "2 pictures were left out" in text
    for name in (*CLASSES, *(f"café au lait/{name}" for name in SKIPPED)):
        assert name in text
    assert "2 frames" in text
    assert "0 groups of pictures were kept in one split each" in text
    assert "CMYK colours, converted to RGB" in text
    assert "&lt;b&gt;&amp;.png" in page
    assert "&lt;script&gt;alert(1)" in page


def test_check_lists_what_is_wrong(cnnkit, folder, tmp_path):
    done = cnnkit("check", folder, "-o", "photos.manifest.json")
    assert (done.code, done.err) == (0, "")
    for name in (*CLASSES, *SKIPPED, "truncated", "animated", "16-bit", "cmyk"):
        assert name in done.out
    assert json.loads((tmp_path / "photos.manifest.json").read_text())["classes"] == sorted(CLASSES)
    assert cnnkit("check", folder, "--strict").code == 4


@pytest.mark.parametrize("place", ["", "tflite/run_int8.tflite", "onnx/run_float32.onnx"])
def test_predict_knows_the_classes(cnnkit, made, folder, place):
    done = cnnkit("predict", made.bundle / place, folder, "--topk", "1", "--format", "json")
    assert done.code == 4  # for the two that are no pictures
    assert all(name in done.err for name in SKIPPED)
    rows = json.loads(done.out)
    assert len(rows) == sum(CLASSES.values())
    right = [row["classes"][0][0] in row["picture"] for row in rows]
    assert sum(right) / len(right) > 0.8
    assert {row["classes"][0][0] for row in rows} == set(CLASSES)


def test_names_are_printed_as_they_are(cnnkit, made, folder):
    picture = next((folder / "x & 'y' $z$ [red]").iterdir())
    done = cnnkit("predict", made.bundle, picture)
    assert done.code == 0
    assert str(picture) in done.out
    assert all(name in done.out for name in CLASSES)
    done = cnnkit("eval", made.bundle)
    assert all(name in done.out for name in CLASSES)
