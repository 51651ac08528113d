import tomllib

from cnnkit.training import resolve
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import commented
from cnnkit.training.recipe import to_dict


def test_writes_every_key_with_what_it_means(cnnkit, tmp_path):
    done = cnnkit("init", "digits", "--preset", "mcu", "--set", "train.epochs=7", "-o", "a.toml")
    assert done.code == 0
    text = (tmp_path / "a.toml").read_text()
    recipe = resolve(tmp_path / "a.toml").recipe
    assert recipe == resolve(preset="mcu", sets=["data.path=digits", "train.epochs=7"]).recipe
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for name, table in to_dict(recipe).items():
        if isinstance(table, dict):
            assert f"[{name}]" in lines
            for key in table:
                place = next(k for k, line in enumerate(lines) if line.startswith(f"{key} ="))
                assert lines[place - 1].startswith("# "), key


def test_a_file_is_not_lost(cnnkit, tmp_path):
    (tmp_path / "cnnkit.toml").write_text("mine")
    done = cnnkit("init", "digits")
    assert done.code == 2
    assert "There is something already: cnnkit.toml" in done.err
    assert (tmp_path / "cnnkit.toml").read_text() == "mine"
    assert cnnkit("init", "digits", "--overwrite").code == 0


def test_comments_change_nothing():
    assert tomllib.loads(commented(Recipe())) == to_dict(Recipe())
