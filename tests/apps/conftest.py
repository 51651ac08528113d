import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from apps.cli import main
from cnnkit.data import arrays
from tests.apps import photos

PROGRAM = Path(sys.executable).with_name("cnnkit")
# Few epochs, but enough for what is asked of digits.
ENOUGH = ("--set", "train.epochs=12", "--set", "compress.finetune_epochs=6")


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def errors(self):
        """Lines on standard error, without the warnings."""
        return [line for line in self.err.splitlines() if not line.startswith("warning: ")]


@dataclass(frozen=True)
class Made:
    """What `cnnkit run` left."""

    bundle: Path
    run: Path
    done: Done


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cnnkit(tmp_path, monkeypatch, capfd):
    """Returns a function that runs the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        capfd.readouterr()
        code = main([str(word) for word in argv])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def program():
    """Returns a function that runs the installed command as a process."""

    def call(*argv, cwd, **options):
        done = subprocess.run(
            [PROGRAM, *map(str, argv)], cwd=cwd, capture_output=True, text=True, **options
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory, program):
    """What a newcomer's first command leaves. Read only."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = program("run", "digits", *ENOUGH, cwd=folder)
    assert done.code == 0, done.err
    return Made(folder / "saved_models" / "digits", folder / "runs" / "digits", done)


@pytest.fixture
def own_bundle(digits, tmp_path):
    """A copy of the bundle, to be spoiled."""
    return Path(shutil.copytree(digits.bundle, tmp_path / "own"))


@pytest.fixture(scope="session")
def user_models(tmp_path_factory):
    """`user.keras`, trained on pixels 0-1 and ending in logits, and `lambda.keras`."""
    folder = tmp_path_factory.mktemp("models")
    source = arrays.READERS["digits"]("digits")
    x, y = source.x.astype(np.float32) / 255, np.asarray(source.y)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    user = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(24, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    user.compile("adam", loss, metrics=["accuracy"])
    user.fit(x, y, epochs=8, verbose=0)
    user.save(folder / "user.keras")
    code = layers.Lambda(lambda t: t * 2)
    keras.Sequential([keras.Input((8, 8, 1)), code, layers.Flatten(), layers.Dense(10)]).save(
        folder / "lambda.keras"
    )
    for name, model in refused().items():
        model.save(folder / f"{name}.keras")
    return folder


def refused():
    """Models that no pass can take, by the name of what is wrong with them."""
    layers = keras.layers

    def classifier(shape=(8, 8, 1), end=None):
        x = keras.Input(shape)
        return keras.Model(x, layers.Dense(10, end)(layers.GlobalAveragePooling2D()(x)))

    one, other = classifier(), classifier()
    total = layers.Add()([one.output, other.output])
    return {
        "two_inputs": keras.Model([one.input, other.input], total),
        "two_outputs": keras.Model(one.input, [one.output, layers.ReLU()(one.output)]),
        "sigmoid": classifier(end="sigmoid"),
        "four_channels": classifier((8, 8, 4)),
        "any_size": classifier((None, None, 1)),
        "nine_classes": keras.Model(one.input, layers.Dense(9)(one.output)),
        "maps": keras.Model(one.input, layers.Conv2D(10, 3)(one.input)),
    }


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, user_models):
    """A folder with everything that can be wrong. Read only."""
    root = tmp_path_factory.mktemp("inputs")
    shutil.copytree(user_models, root, dirs_exist_ok=True)
    (root / "empty").mkdir()
    photos.folder(root / "single", {"cat": 4})
    photos.folder(root / "lonely", {"cat": 4, "dog": 1})
    photos.folder(root / "spoiled", {"cat": 6, "dog": 6})
    (root / "spoiled" / "dog" / "cut.png").write_bytes(photos.truncated())
    for name in ("cat", "dog"):
        (root / "unreadable" / name).mkdir(parents=True)
        (root / "unreadable" / name / "noise.png").write_bytes(b"noise " + name.encode())
    for name in ("text.keras", "text.tflite", "text.onnx", "text.toml"):
        (root / name).write_text("this is a letter, and no model")
    Image.new("L", (8, 8)).save(root / "picture.png")
    for name, marker in (("old_run", "environment.json"), ("old_bundle", "manifest.json")):
        (root / name).mkdir()
        (root / name / marker).write_text("{}")
    (root / "theirs").mkdir()
    (root / "theirs" / "thesis.tex").write_text("years of work")
    return root


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A copy of `inputs`, which is the current folder."""
    folder = Path(shutil.copytree(inputs, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder
