import json

import numpy as np
import pytest
from PIL import Image

from apps.commands.explain import HEAT
from apps.commands.explain import METHODS
from tests.analysis import corner
from tests.apps import photos


@pytest.mark.parametrize("method", HEAT)
def test_draws_a_heat_map_for_each_picture(cnnkit, user_models, tmp_path, method):
    for name, light in (("a", 40), ("b", 200)):
        Image.fromarray(np.full((8, 8), light, np.uint8)).save(tmp_path / f"{name}.png")
    done = cnnkit(
        *("explain", user_models / "user.keras", "a.png", "b.png"),
        *("--method", method, "--out", "maps"),
    )
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "maps" / "explain.json").read_text())
    assert [row["picture"] for row in rows] == ["a.png", "b.png"]
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"a.png", "b.png", "maps/explain.json", "maps/1-a.png", "maps/2-b.png"}
    assert Image.open(tmp_path / rows[0]["heat map"]).size == (448, 224)
    assert rows[0]["class"] in done.out


def test_nothing_is_overwritten_unasked(cnnkit, user_models, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = ("explain", user_models / "user.keras", "a.png", "--out", "maps")
    assert cnnkit(*words).code == 0
    assert cnnkit(*words).code == 2
    assert cnnkit(*words, "--overwrite").code == 0


def test_what_is_no_picture_is_named_after_the_others(cnnkit, user_models, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(photos.truncated())
    done = cnnkit("explain", user_models / "user.keras", ".", "--out", "maps")
    assert done.code == 4
    assert "1 of 2 pictures cannot be read" in done.err
    assert (tmp_path / "maps" / "1-a.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "cam"), "Unknown method 'cam'"),
        (("--layer", "nowhere"), "Unknown layer 'nowhere'"),
        (("--method", "occlusion", "--layer", "x"), "Method 'occlusion' takes no --layer."),
        (("--channel", "1"), "Method 'gradcam' takes no --channel. Expected it with activations,"),
        (
            ("--method", "top", "--channel", "24"),
            "No such channel. Expected --channel from 0 to 23",
        ),
        (("--method", "deconvnet", "--layer", "nowhere"), "Unknown layer 'nowhere'. Closest: "),
        (("--method", "filters"), "The filters are drawn without pictures. Received a.png"),
    ],
)
def test_wrong_arguments(cnnkit, user_models, tmp_path, words, message):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    done = cnnkit("explain", user_models / "user.keras", "a.png", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()


def lines(folder):
    """Makes five pictures: darkness, two vertical lines of more and less light, two horizontal."""
    for name, light, place in (
        ("dark", 0, np.s_[:]),
        ("bright-v", 250, np.s_[:, 3]),
        ("dim-v", 90, np.s_[:, 3]),
        ("bright-h", 250, np.s_[3]),
        ("dim-h", 90, np.s_[3]),
    ):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[place] = light
        Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def drawn(cnnkit, tmp_path):
    """Returns a function that draws the lines, by a network whose channels look for them."""
    lines(tmp_path)
    corner.net().save(tmp_path / "corner.keras")

    def draw(*words):
        pictures = [] if "filters" in words else sorted(p.name for p in tmp_path.glob("*.png"))
        source = [] if "edges" in words else ["corner.keras"]
        done = cnnkit("explain", *source, *pictures, "--method", *words, "--out", "out")
        assert done.code == 0, done.err
        rows = json.loads((tmp_path / "out" / "explain.json").read_text())
        assert {str(p) for p in tmp_path.glob("out/*.png")} == {
            str(tmp_path / row["drawing"]) for row in rows
        }
        for row in rows:
            assert row["drawing"] in done.out
        return rows

    return draw


def pixels(row, tmp_path):
    return np.asarray(Image.open(tmp_path / row["drawing"]), float)


def test_activations_over_each_picture(drawn, tmp_path):
    """3.1.2"""
    rows = {row["picture"]: row for row in drawn("activations")}
    assert rows["bright-v.png"]["channels"] == [0, 1]
    assert rows["bright-h.png"]["channels"] == [1, 0]
    image = pixels(rows["bright-v.png"], tmp_path)
    assert image.shape == (16 * 14, 33 * 14, 3)
    hot = image[..., 0] - image[..., 2]
    assert hot[100, 3 * 14 + 7] == 64  # on the line: half of the darkest red
    assert hot[100, 10 * 14] == -64
    assert len(rows) == 5


def test_activations_of_one_channel_of_a_layer(drawn, tmp_path):
    rows = drawn("activations", "--layer", "conv", "--channel", "1")
    assert [row["channels"] for row in rows] == [[1]] * 5
    assert pixels(rows[0], tmp_path).shape == (224, 224, 3)


def test_projections_of_the_strongest_channel(drawn, tmp_path):
    """3.1.3"""
    rows = {row["picture"]: row for row in drawn("deconvnet")}
    assert [rows[f"bright-{way}.png"]["channel"] for way in "vh"] == [0, 1]
    projected = pixels(rows["bright-v.png"], tmp_path)[:, 17 * 14 :, 0]
    assert projected.max(0).argmax() // 14 == 3  # the line
    again = drawn("deconvnet", "--channel", "1", "--overwrite")
    assert [row["channel"] for row in again] == [1] * 5


def test_top_pictures_of_each_channel(drawn, tmp_path):
    """3.1.2"""
    rows = drawn("top")
    assert [row["channel"] for row in rows] == [0, 1]
    for row, way in zip(rows, "vh", strict=True):
        assert row["pictures"][:2] == [f"bright-{way}.png", f"dim-{way}.png"]
        assert len(row["pictures"]) == 5
    first = pixels(rows[1], tmp_path)
    assert (first[3 * 14 + 7, : 16 * 14] == 250).all()
    (only,) = drawn("top", "--channel", "1", "--overwrite")
    assert only["pictures"] == rows[1]["pictures"]


def test_first_filters(drawn, tmp_path):
    """3.1.3"""
    (row,) = drawn("filters")
    assert (row["filters"], row["size"]) == (2, "3x3x1")
    image = pixels(row, tmp_path)
    assert image.shape[0] >= 224
    side = image.shape[0] // 3
    np.testing.assert_array_equal(image[0, side // 2 : 3 * side : side, 0], [64, 255, 64])


def test_edges_need_no_model(drawn, tmp_path):
    """2.3.2"""
    rows = {row["picture"]: row for row in drawn("edges")}
    assert rows["bright-v.png"]["filters"] == ["edges", "horizontal", "vertical"]
    image = pixels(rows["bright-v.png"], tmp_path)
    half = image.shape[0] // 2
    below, beside = image[half + 20 :, : half - 20], image[half + 20 :, half + 20 :]
    assert not below.any()  # the horizontal filter
    assert beside.max() == 255  # the vertical one


@pytest.mark.parametrize("method", ["activations", "edges", "top"])
def test_drawings_of_what_can_be_read(cnnkit, user_models, tmp_path, method):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(photos.truncated())
    source = [] if method == "edges" else [user_models / "user.keras"]
    done = cnnkit("explain", *source, "a.png", "cut.png", "--method", method, "--out", "o")
    assert done.code == 4
    assert "1 of 2 pictures cannot be read: cut.png" in done.err
    assert (tmp_path / "o" / "explain.json").is_file()


@pytest.mark.parametrize("method", METHODS[:-2])
def test_no_pictures(cnnkit, user_models, method):
    done = cnnkit("explain", user_models / "user.keras", "--method", method)
    assert (done.code, done.errors) == (
        2,
        ["error: No pictures given. Name them behind the model."],
    )


@pytest.mark.parametrize("method", ["activations", "deconvnet", "top", "gradcam"])
def test_a_layer_without_maps(cnnkit, tmp_path, method):
    lines(tmp_path)
    corner.net().save(tmp_path / "corner.keras")
    words = ("corner.keras", "dim-v.png", "--method", method, "--layer", "logits")
    done = cnnkit("explain", *words)
    assert done.code == 2
    assert "There are no maps to look at: logits. Expected a layer whose output is" in done.err
    assert not (tmp_path / "runs").exists()
