import subprocess
import sys

import pytest

from cnnkit.errors import UsageError
from cnnkit.training.recipe import PRESETS
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import Resolved
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import resolve
from cnnkit.training.recipe import to_dict
from cnnkit.training.recipe import to_toml


def test_later_layers_win_and_origins_are_kept(tmp_path):
    file = tmp_path / "cnnkit.toml"
    file.write_text('[train]\nepochs = 7\nlr = 0.5\n[model]\nname = "lenet5"\n')
    resolved = resolve(file, "accuracy", ["train.lr=0.25"])
    recipe, origin = resolved.recipe, resolved.origin
    assert (recipe.loss.label_smoothing, origin["loss.label_smoothing"]) == (0.1, "preset accuracy")
    assert (recipe.model.name, origin["model.name"]) == ("lenet5", "file")
    assert (recipe.train.epochs, origin["train.epochs"]) == (7, "file")
    assert (recipe.train.lr, origin["train.lr"]) == (0.25, "--set")
    assert origin["train.seed"] == "default"
    assert origin.keys() == flat(to_dict(Recipe())).keys()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("data.path=my photos", "path", "my photos"),
        ("data.path=2024-05-01", "path", "2024-05-01"),
        ('data.path="123"', "path", "123"),
        ("data.image_size=[24, 32]", "image_size", [24, 32]),
        ("data.image_size=auto", "image_size", None),
        ("data.pixel_range=-1-1", "pixel_range", "-1-1"),
        ("data.pixel_range=auto", "pixel_range", None),
        ("data.split=[0.8, 0.1, 0.1]", "split", [0.8, 0.1, 0.1]),
    ],
)
def test_set_reads_toml_and_bare_text(text, key, value):
    assert getattr(resolve(sets=[text]).recipe.data, key) == value


@pytest.mark.parametrize(
    ("text", "size"), [("2MB", 2_000_000), ("64 KiB", 65536), ("12", 12), ("none", None)]
)
def test_sizes_have_units(text, size):
    assert resolve(sets=[f"export.max_size={text}"]).recipe.export.max_size == size


def test_a_table_within_a_section(tmp_path):
    file = tmp_path / "cnnkit.toml"
    file.write_text('[train.layer_lr]\n"conv.*" = 0.1\n')
    resolved = resolve(file, sets=["train.layer_lr.logits/.*=3", "train.layer_lr.bn=0.5"])
    assert resolved.recipe.train.layer_lr == {"conv.*": 0.1, "logits/.*": 3.0, "bn": 0.5}
    assert resolved.origin["train.layer_lr"] == "--set"
    file.write_text(to_toml(resolved.recipe))
    assert resolve(file).recipe == resolved.recipe
    assert resolve(sets=['train.layer_lr={"a/b" = 2}']).recipe.train.layer_lr == {"a/b": 2}
    with pytest.raises(UsageError, match=r"train\.layer_lr.*greater than or equal to 0"):
        resolve(sets=["train.layer_lr.conv=-1"])
    with pytest.raises(UsageError, match="Unknown plan of unfreezing"):
        resolve(sets=["train.unfreeze=tail"])


def test_unknown_key_names_the_three_closest():
    with pytest.raises(UsageError, match=r"'train\.epoch'.*train\.epochs, train\.\w+, \w+\.\w+"):
        resolve(sets=["train.epoch=3"])
    with pytest.raises(UsageError, match=r"Closest: train\.epochs"):
        resolve(train={"epocs": 3})
    with pytest.raises(UsageError, match=r"'phon'.*phone"):
        resolve(preset="phon")


@pytest.mark.parametrize(
    "text",
    [
        "train.epochs=0",
        "train.epochs=2.5",
        "train.epochs=true",
        "train.lr=nan",
        "train.lr=inf",
        "train.optimizer=sdg",
        "data.split=[0.5, 0.5]",
        "data.channels=2",
        "data.image_size=0",
        "export.max_drop=2",
        "export.max_size=7 parsec",
        "schema=2",
    ],
)
def test_wrong_value_names_key_expected_and_received(text):
    key, value = text.split("=")
    with pytest.raises(
        UsageError, match=rf"{key} \(from --set\)\. Expected .+\. Received"
    ) as caught:
        resolve(sets=[text])
    assert value[:1] in str(caught.value).split("Received")[1].lower()


def test_unknown_model_names_the_closest():
    with pytest.raises(UsageError, match="resnet8"):
        resolve(sets=["model.name=resnet88"])


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read the recipe: .*no\.toml"):
        resolve(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(UsageError, match="not TOML"):
        resolve(tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="key=value"):
        resolve(sets=["train.epochs"])


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_toml_round_trip(tmp_path, preset):
    recipe = resolve(preset=preset, sets=["data.path=a\\b \u00e9\U0001f600"]).recipe
    (tmp_path / "r.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert resolve(tmp_path / "r.toml").recipe == recipe
    assert preset is None or Resolved.of(recipe).origin["data.path"] == "--set"


def test_every_preset_changes_something():
    default = resolve().recipe
    assert all(resolve(preset=name).recipe != default for name in PRESETS)


def test_recipes_and_errors_need_no_tensorflow():
    code = (
        "import sys, cnnkit.training, cnnkit.training.reporter\n"
        "from cnnkit.training import recipe, Reporter, resolve\n"
        "resolve(preset='phone')\n"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
