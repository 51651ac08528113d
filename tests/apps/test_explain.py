import json

import numpy as np
import pytest
from PIL import Image

from apps.commands.explain import METHODS
from tests.apps import photos


@pytest.mark.parametrize("method", METHODS)
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
        (("--method", "occlusion", "--layer", "x"), "Occlusion looks at no layer"),
    ],
)
def test_wrong_arguments(cnnkit, user_models, tmp_path, words, message):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    done = cnnkit("explain", user_models / "user.keras", "a.png", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()
