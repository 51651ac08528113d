import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from cnnkit import augmentation
from cnnkit.data import DIGITS
from cnnkit.errors import UsageError
from cnnkit.models.saving import save_model
from cnnkit.training import Reporter
from cnnkit.training import resolve
from cnnkit.training.augment import augmenter
from cnnkit.training.augment import by_epoch
from cnnkit.training.augment import examples
from cnnkit.training.augment import preset
from cnnkit.training.augment import response_boxes
from cnnkit.training.recipe import PRESETS
from cnnkit.training.train import check
from cnnkit.training.train import chosen
from cnnkit.training.train import train
from tests.analysis import corner
from tests.training.pictures import Pictures


class Coloured(Pictures):
    image_shape = (8, 8, 3)

    def arrays(self, split):
        x, y = super().arrays(split)
        return np.concatenate([x, 255 - x, x // 2], -1), y


class Hearing(Reporter):
    def __init__(self):
        self.notes = []
        self.note = self.notes.append


class Corners:
    """The pictures whose evidence is known."""

    image_shape, classes = (16, 16, 1), ["vertical", "horizontal"]

    def arrays(self, split):
        return corner.pictures(), np.array([0, 1])

    def labels(self, split):
        return self.arrays(split)[1]


def made(dataset, *sets):
    return augmenter(resolve(sets=[f"augment.{text}" for text in sets]).recipe, dataset)


def names(dataset, *sets):
    found = made(dataset, *sets)
    return [type(part).__name__ for part in found.stack.parts] if found else []


def test_the_default_changes_nothing():
    assert made(Pictures()) is None
    assert made(Coloured()) is None
    assert made(Coloured(), "horizontal_flip=auto", "mixup=0", "fancy_pca=0.0") is None


def test_presets():
    """5.1"""
    assert names(Coloured(), "preset=light") == ["Flip", "RandomCrop"]
    medium = ["Flip", "RandomCrop", "Rotation", "HSVJitter", "FancyPCA"]
    assert names(Coloured(), "preset=medium") == medium
    strong = names(Coloured(), "preset=strong")
    assert {*medium, "Scale", "Erasing", "OneOf"} == set(strong)


class Sized:
    classes = ["a", "b"]

    def __init__(self, *shape):
        self.image_shape = shape


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((8, 8, 1), "none"),
        ((8, 20, 3), "none"),
        ((9, 9, 1), "light"),
        ((28, 28, 1), "light"),
        ((32, 32, 1), "light"),
        ((32, 33, 1), "medium"),
        ((9, 9, 3), "medium"),
        ((64, 64, 3), "medium"),
    ],
)
def test_auto_is_what_the_pictures_bear(shape, name):
    auto = resolve(sets=["augment.preset=auto"]).recipe
    found, why = preset(auto, shape)
    assert found == name
    assert f"{shape[0]}x{shape[1]} pixels" in why
    assert preset(resolve(sets=["augment.preset=strong"]).recipe, shape)[0] == "strong"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("side", "found"), [(8, "none"), (28, "light")])
def test_presets_of_recipes_choose_from_the_data_and_say_why(name, side, found):
    heard = Hearing()
    resolved = resolve(preset=name, sets=["data.path=digits", f"data.image_size=[{side}, {side}]"])
    assert resolved.origin["augment.preset"] == f"preset {name}"
    resolved = chosen(check(resolved.recipe), resolved, heard)[1]
    assert resolved.recipe.augment.preset == found
    assert resolved.origin["augment.preset"] == "chosen from the data"
    [note] = heard.notes
    assert note.startswith(f"augment.preset={found}: {side}x{side} pixels ")


def test_auto_keeps_the_switches():
    small = type("Small", (Coloured,), {"image_shape": (9, 9, 3)})()
    assert names(small, "preset=auto") == names(small, "preset=medium")
    assert names(Coloured(), "preset=auto") == []  # 8x8: no flips either
    assert names(Coloured(), "preset=auto", "mixup=0.2", "horizontal_flip=on") == ["Flip", "MixUp"]
    assert "Flip" not in names(Sized(9, 9, 1), "preset=auto")


def test_grey_pictures_keep_their_side_and_have_no_colours():
    """5.1: characters must not be turned left to right."""
    assert names(Pictures(), "preset=light") == ["RandomCrop"]
    assert names(Pictures(), "preset=medium") == ["RandomCrop", "Rotation", "RGBJitter"]
    strong = set(names(Pictures(), "preset=strong"))
    assert not strong & {"Flip", "HSVJitter", "FancyPCA"}


def test_switches_win_over_presets():
    flip = made(Pictures(), "horizontal_flip=on").stack.parts
    assert repr(flip) == "[Flip(horizontal=True, vertical=False)]"
    assert names(Coloured(), "preset=light", "horizontal_flip=off") == ["RandomCrop"]
    turned = made(Coloured(), "preset=light", "horizontal_flip=off", "vertical_flip=on")
    assert str(turned).startswith("Flip(horizontal=False, vertical=True), RandomCrop(low=0.8")
    assert "FancyPCA" not in names(Coloured(), "preset=medium", "fancy_pca=0")
    assert names(Coloured(), "mixup=0.3") == ["MixUp"]
    assert names(Coloured(), "cutmix=1.0", "fancy_pca=0.2") == ["FancyPCA", "CutMix"]
    assert "CutMix" in names(Coloured(), "preset=strong", "mixup=0")


def test_fancy_pca_is_of_the_training_pictures():
    """5.2.1"""
    [part] = made(Coloured(), "fancy_pca=0.25").stack.parts
    deviations, vectors = augmentation.principal_colours(Coloured().arrays("train")[0])
    assert (part.deviations, part.vectors, part.strength) == (deviations, vectors, 0.25)
    with pytest.raises(UsageError, match=r"these pictures are grey: augment\.fancy_pca"):
        made(Pictures(), "fancy_pca=0.1")


def test_without_mixing():
    strong = made(Coloured(), "preset=strong")
    kept = [type(part).__name__ for part in strong.without_mixing().stack.parts]
    assert kept == names(Coloured(), "preset=strong", "mixup=0", "cutmix=0")
    assert made(Coloured(), "mixup=0.2").without_mixing() is None
    light = made(Coloured(), "preset=light")
    assert light.without_mixing() is light


@pytest.mark.parametrize(
    ("epochs", "off_last", "mixed"), [(10, 5, 5), (10, 0, 10), (10, 9, 1), (3, 5, 1), (1, 1, 1)]
)
def test_mixing_ends_before_training_but_not_before_it_begins(epochs, off_last, mixed):
    heard, recipe = Hearing(), resolve(sets=[f"augment.off_last_epochs={off_last}"]).recipe
    strong = made(Coloured(), "preset=strong")
    of_epoch = by_epoch(strong, recipe, epochs, heard)
    found = [of_epoch(epoch) for epoch in range(epochs)]
    assert [one is strong for one in found] == [True] * mixed + [False] * (epochs - mixed)
    assert not any("OneOf" in str(one) for one in found[mixed:])
    assert len(heard.notes) == (off_last >= epochs)
    light = made(Coloured(), "preset=light")
    assert by_epoch(light, recipe, epochs, heard)(epochs - 1) is light
    assert by_epoch(None, recipe, epochs, heard) is None
    assert len(heard.notes) == (off_last >= epochs)  # nothing is said where nothing is mixed


@pytest.mark.parametrize("dataset", [Pictures(), Coloured()], ids=["grey", "colours"])
def test_every_preset_runs(dataset):
    x, y = dataset.arrays("train")
    for name in ("light", "medium", "strong"):
        pictures, labels = made(dataset, f"preset={name}")(
            tf.constant(x, tf.float32), tf.one_hot(y, 3), tf.constant([1, 2])
        )
        assert pictures.shape == x.shape
        assert not np.array_equal(pictures, x)
        np.testing.assert_allclose(np.sum(labels, 1), 1, rtol=1e-5)


def test_crops_around_what_a_first_model_looks_at(tmp_path):
    """5.2.2"""
    file = save_model(corner.net(), tmp_path / "first.keras")
    found = made(Corners(), f"cam_crop={file}", "horizontal_flip=on")
    assert [type(part).__name__ for part in found.stack.parts] == ["BoxCrop", "Flip"]
    x, y = Corners().arrays("train")
    np.testing.assert_array_equal(found.boxes, response_boxes(corner.net(), x, y))
    assert (found.boxes[0, 2:] < 0.7).all()  # the vertical line is in the first quarter
    assert found.boxes[1].tolist() == [0, 0, 1, 1]  # and the dark picture has none
    pictures, _ = found(tf.constant(x, tf.float32), y, tf.constant([0, 3]), found.boxes)
    assert pictures.shape == x.shape


def test_boxes_are_those_of_the_true_classes():
    x = np.repeat(corner.pictures()[:1], 300, 0)
    boxes = response_boxes(corner.net(), x, np.arange(300) % 2)
    assert boxes.shape == (300, 4)
    assert (boxes[::2, 2:] < 0.7).all()  # the vertical line, top left
    assert (boxes[1::2, :2] > 0.3).all()  # the horizontal one, bottom right


def test_sheet_of_examples(tmp_path):
    sheet = examples(made(Coloured(), "preset=strong"), Coloured(), rows=4, columns=5)
    assert sheet.size == (5 * 9 - 1, 4 * 9 - 1)
    x, _ = Coloured().arrays("train")
    pixels = np.asarray(sheet)
    assert any(np.array_equal(pixels[:8, :8], picture) for picture in x)  # as it is
    tiles = [pixels[:8, 9 * k : 9 * k + 8].tobytes() for k in range(5)]
    assert len(set(tiles)) == 5
    file = save_model(corner.net(), tmp_path / "first.keras")
    assert examples(made(Corners(), f"cam_crop={file}"), Corners()).size == (8 * 17 - 1, 2 * 17 - 1)


def test_two_stages_by_recipe(tmp_path):
    quick = ["train.epochs=1", "model.name=lenet5", "model.width=0.3", "data.image_size=[28, 28]"]
    quick.append("data.split=[0.1, 0.1, 0.8]")
    first = train(DIGITS, resolve(sets=quick), tmp_path / "first")
    second = augmenter(
        resolve(sets=[*quick, f"augment.cam_crop={first.folder}"]).recipe, first.dataset()
    )
    assert second.boxes.shape == (len(first.dataset().labels("train")), 4)
    with pytest.raises(UsageError, match=r"other pictures or classes: augment\.cam_crop=.*28, 28"):
        made(Pictures(), f"cam_crop={first.folder}")


def test_first_stage_that_is_no_model(tmp_path):
    with pytest.raises(UsageError, match="Not a run folder"):
        made(Pictures(), f"cam_crop={tmp_path}")
    with pytest.raises(UsageError, match="No such model file"):
        made(Pictures(), f"cam_crop={tmp_path / 'no.keras'}")


@pytest.mark.slow
def test_also_on_jax(tmp_path):
    code = (
        "import keras; assert keras.backend.backend() == 'jax'\n"
        "from cnnkit.training import resolve\n"
        "from cnnkit.training.train import train\n"
        "sets = ['train.epochs=1', 'model.name=lenet300', 'data.split=[0.3, 0.1, 0.6]']\n"
        "sets += ['augment.preset=strong', 'augment.off_last_epochs=0', 'train.lr=0.01']\n"
        f"run = train('digits', resolve(sets=sets), {str(tmp_path / 'run')!r})\n"
        "assert run.metrics[-1]['val_accuracy'] > 0.2\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "plots" / "augmented.png").is_file()


@pytest.mark.parametrize(
    "text", ["preset=hard", "mixup=-1", "vertical_flip=true", "off_last_epochs=-1", "cam_crop="]
)
def test_wrong_values(text):
    key = text.split("=")[0]
    with pytest.raises(UsageError, match=rf"augment\.{key} \(from --set\)\. Expected"):
        resolve(sets=[f"augment.{text}"])
