"""The recipe: every choice of a run, typed, from TOML, presets and `--set`."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from typing import Any
from typing import Literal
from typing import TypeAlias

import pydantic
import tomli_w
from pydantic import Field

from cnnkit import models
from cnnkit import registry
from cnnkit.errors import UsageError
from cnnkit.training import schedules
from cnnkit.training import unfreezing

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def _bytes(value: Any) -> Any:
    """Returns the bytes that a text such as "2MB" or "64KiB" means; None for "none"."""
    if not isinstance(value, str):
        return value
    if value == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    if not match or match[2] not in _UNITS:
        raise ValueError('bytes, or a text such as "64KiB", "2MB" or "none"')
    return round(float(match[1]) * _UNITS[match[2]])


def _model(name: str) -> str:
    if name.startswith(models.APPLICATIONS):  # Keras knows which there are.
        return name
    return registry.known("model", name, ["auto", *models.NAMES])


def _schedule(text: str) -> str:
    schedules.parse(text)
    return text


def _plan(text: str) -> str:
    if text != unfreezing.AUTO:
        unfreezing.parse(text)
    return text


# Keys whose value is a table, to which `--set KEY.NAME=value` adds.
_TABLES = ("train.layer_lr",)


# TOML has no null: what is None here is written as a word there.
def _word(word: str) -> pydantic.PlainSerializer:
    return pydantic.PlainSerializer(lambda value: word if value is None else value)


def _none(value: Any) -> Any:
    return None if value == "none" else value


def _seconds(value: Any) -> Any:
    """Returns the seconds that a text such as "90s", "30m" or "2h" means; None for "none"."""
    if not isinstance(value, str):
        return value
    if value == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", value.strip().lower())
    if not match:
        raise ValueError('seconds, or a text such as "90s", "30m", "2h" or "none"')
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


_AUTO = (pydantic.BeforeValidator(lambda v: None if v == "auto" else v), _word("auto"))
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
ImageSize: TypeAlias = Annotated[
    Annotated[list[Positive], Field(min_length=2, max_length=2)] | None, *_AUTO
]
Channels: TypeAlias = Annotated[Literal[1, 3] | None, *_AUTO]
Switch: TypeAlias = Literal["auto", "on", "off"]
Strength: TypeAlias = Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, *_AUTO]
Init: TypeAlias = Literal[
    "default",
    "xavier-normal",
    "xavier-uniform",
    "glorot-normal",
    "glorot-uniform",
    "he-normal",
    "he-uniform",
    "zeros",
    "data",
    "data-pca",
    "data-kmeans",
]
Seconds: TypeAlias = Annotated[Rate | None, pydantic.BeforeValidator(_seconds), _word("none")]
SizeBytes: TypeAlias = Annotated[Positive | None, pydantic.BeforeValidator(_bytes), _word("none")]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True
    )


class Data(_Section):
    """Where the pictures are and how they become arrays.

    Args:
        path: A folder of class folders, a `.npz`, a folder of IDX files, a pattern of TFRecord
            files, or `digits`.
        split: Fractions of train, val and test, unless the source brings its own splits.
        seed: Of the split, which is not that of the training: runs of several seeds can be compared
            and put together.
        on_bad_image: `skip` leaves unreadable pictures out; `fail` refuses the data.
        group_by: Finds the name of a picture's group in its path: a regular expression, or
            `folder`; a group is in one split. "" makes no groups.
        near_dups: Whether near copies are looked for, which are a group too.
        image_size: Height and width in pixels; None chooses them from the data.
        channels: 1 or 3; None chooses from the data.
        resize: How a picture becomes `image_size`.
        pixel_range: Of the pixels that somebody's own `.keras` file was trained on: "0-255", "0-1"
            or "-1-1"; None measures it, or takes "0-255" without data. Models that are trained
            here, and all run folders and bundles, take 0-255.
        in_memory: Bytes of decoded pixels of a split that lie in memory at most; larger ones are
            read from a file. None is any number.
        cache: Folder where such files stay for the next time; "" is one that is removed.
    """

    path: str = ""
    split: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.7, 0.15, 0.15]
    seed: Count = 0
    on_bad_image: Literal["skip", "fail"] = "skip"
    group_by: str = ""
    near_dups: bool = False
    image_size: ImageSize = None
    channels: Channels = None
    resize: Literal["squash", "crop", "letterbox"] = "letterbox"
    pixel_range: Annotated[Literal["0-255", "0-1", "-1-1"] | None, *_AUTO] = None
    in_memory: SizeBytes = 2**30
    cache: str = ""


class Model(_Section):
    """Which network.

    Args:
        name: One of `cnnkit.models.NAMES`; `auto` chooses by the size of the pictures; or such as
            `keras.applications.MobileNetV2`, with random weights, a new head, and its own way to
            normalize pixels.
        width: Multiplies its numbers of channels, positive.
        init: Of the weights: `default` is what each layer chooses; `xavier` and `he` by a normal
            or uniform distribution; `data` looks at the pictures, from random numbers,
            principal components (`data-pca`) or clusters (`data-kmeans`).
        pretrained: A `.keras`, `.weights.h5` or `.h5` file or a run folder, whose weights are taken
            over where name and shape agree; `imagenet`, for a network of `keras.applications`,
            fetches the published ones; "none" takes none.
    """

    name: Annotated[str, pydantic.AfterValidator(_model)] = "auto"
    width: Rate = 1.0
    init: Init = "default"
    pretrained: Annotated[str, Field(min_length=1)] = "none"


class Train(_Section):
    """How it is trained.

    Args:
        epochs: Passes over the training split, at most.
        batch_size: Pictures a step; None takes 32 to 128, the more, the more there are. If they do
            not fit the memory, half as many are tried.
        optimizer: `adamw`, `adam`, `sgd` with Nesterov momentum 0.9, `momentum` 0.9 without,
            `momentum-ramp` from 0.5 to 0.9, `plain-sgd`, `adagrad`, `adadelta` or `rmsprop`.
        lr: Learning rate at its highest; None takes what suits the optimizer.
        schedule: Such as `cosine`, which falls to zero over the epochs, `constant`, or
            `step:every=5,factor=0.5`; all are in `cnnkit.training.schedules.SCHEDULES`.
        warmup_epochs: Epochs in which the rate rises from zero.
        weight_decay: Fraction of each kernel taken away a step, times the rate.
        ema: Momentum of a running average of the weights, which is validated and kept; 0 takes the
            weights themselves.
        clip_norm: Largest norm of all gradients together; None leaves them.
        layer_lr: Table of what the rate is multiplied by for weights whose path a regular
            expression matches as a whole, such as `"conv_1/.*" = 0.1`; 0 freezes them. No weight
            may match two.
        unfreeze: Which layers are trained: `all`, `head`, which is the last one, `deep`, which is
            the second half; or the last one first: `head_then_all:epochs=3`,
            `stages:head=3,deep=6`, and then all. Frozen batch normalization is as in inference.
            `auto`, with `model.pretrained`, chooses by how many pictures there are, and by how
            much better its last features tell their classes apart than its first ones; the run
            says which and why.
        seed: Of weights, order and augmentation.
        deterministic: Only operations that give the same bits each time: slower.
    """

    epochs: Positive = 30
    batch_size: Annotated[Positive | None, *_AUTO] = None
    optimizer: Literal[
        "adadelta",
        "adagrad",
        "adam",
        "adamw",
        "momentum",
        "momentum-ramp",
        "plain-sgd",
        "rmsprop",
        "sgd",
    ] = "adamw"
    lr: Annotated[Rate | None, *_AUTO] = None
    schedule: Annotated[str, pydantic.AfterValidator(_schedule)] = "cosine"
    warmup_epochs: Count = 1
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-2
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[Rate | None, pydantic.BeforeValidator(_none), _word("none")] = None
    layer_lr: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    unfreeze: Annotated[str, pydantic.AfterValidator(_plan)] = "all"
    seed: Count = 0
    deterministic: bool = False


class Device(_Section):
    """What it is trained on.

    Args:
        strategy: `one` device; `mirrored` over all of this machine's devices, with TensorFlow;
            `jax-mesh` over all devices, with JAX; `auto` takes all that the backend can use.
        mixed_precision: Computes in `float16` or `bfloat16`, with the logits and all weights in
            float32; `auto` does so on a GPU that has the units for it, else `off`. The finished
            model computes in float32.
    """

    strategy: Literal["auto", "one", "mirrored", "jax-mesh"] = "auto"
    mixed_precision: Literal["auto", "off", "float16", "bfloat16"] = "auto"


class Loss(_Section):
    """What is minimised.

    Args:
        name: `cross_entropy`; `crammer_singer` or `weston_watkins`, which are hinge losses;
            `ramp`, for wrong labels; `large_margin` softmax; `label_distribution`, for classes in
            an order.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        cut: Of `ramp`: by how much an example may be wrong before it is given up, below 1. A fresh
            network finds nothing to improve where it gives up most examples, as near 0.
        margin: Of `large_margin`: the larger, the more, and the more epochs it takes.
        sigma: Of `label_distribution`: deviation in classes by which each label is spread.
        center_weight: Of the centre loss on the features before the logits, which is added.
        joint: A run folder, of whose training pictures those most like these are learned too, by a
            head of their own, in the training but not in later fine-tuning; with few pictures and
            `model.pretrained`. "none" leaves it out.
        joint_neighbours: How many of them for each picture.
        cost: What mistakes cost, which is added: "none"; "counts" for the more, the rarer the
            class; or a run folder, whose validation mistakes say it.
    """

    name: Literal[
        "cross_entropy",
        "crammer_singer",
        "weston_watkins",
        "ramp",
        "large_margin",
        "label_distribution",
    ] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cut: Annotated[float, Field(lt=1, allow_inf_nan=False)] = -2.0
    margin: Annotated[int, Field(ge=1, le=4)] = 2
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    center_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    joint: Annotated[str, Field(min_length=1)] = "none"
    joint_neighbours: Positive = 10
    cost: Annotated[str, Field(min_length=1)] = "none"


class Augment(_Section):
    """How training pictures are changed, anew each time that they are seen.

    Args:
        preset: "none"; "light" for crops; "medium" for turns and colours too; "strong" for more of
            these, scales, something in front, and two pictures in one. Flips belong to all three.
            "auto", which the presets of recipes have, is "none" for pictures of up to 8 pixels a
            side, "light" for grey ones of up to 32, and "medium" for all others; the run says which
            and why.
        horizontal_flip: "on" or "off"; "auto" is on in a preset if pictures have colours: grey
            ones are often characters, which have a side.
        vertical_flip: "on" or "off"; "auto" is off.
        mixup: Alpha of `MixUp`; 0 leaves it out, None asks the preset.
        cutmix: Alpha of `CutMix`; 0 leaves it out, None asks the preset.
        fancy_pca: Strength of `FancyPCA`; 0 leaves it out, None asks the preset.
        cam_crop: A run folder or a `.keras` file, whose heat maps say where pictures are cropped;
            "none" leaves it out.
        off_last_epochs: Epochs at the end without `mixup` and `cutmix`; the first one has them in
            any case.
    """

    preset: Literal["auto", "none", "light", "medium", "strong"] = "none"
    horizontal_flip: Switch = "auto"
    vertical_flip: Switch = "auto"
    mixup: Strength = None
    cutmix: Strength = None
    fancy_pca: Strength = None
    cam_crop: Annotated[str, Field(min_length=1)] = "none"
    off_last_epochs: Count = 5


class Imbalance(_Section):
    """What is done about classes with few pictures.

    Args:
        method: "none"; `over`, `under`, `class_balanced` or `label_shuffling` choose what is seen
            how often; `weights`, by inverse numbers, or `effective_number` weigh the loss;
            `cost_matrix` adds what mistakes cost. "auto" chooses by how unequal classes are, and
            leaves those alone that are much the same.
        beta: Of `effective_number`: the smaller, the less classes differ.
    """

    method: Literal[
        "auto",
        "none",
        "over",
        "under",
        "class_balanced",
        "label_shuffling",
        "weights",
        "effective_number",
        "cost_matrix",
    ] = "auto"
    beta: Fraction = 0.999


class Guard(_Section):
    """When to stop.

    Args:
        patience: Epochs without a better one after which training ends.
        on_nan: `rollback` goes back to the last finite epoch and on at half the rate; `stop` ends.
        max_rollbacks: How often, before the training ends.
        time_limit: Seconds, or a text such as "30m", after which training ends with its epoch.
        dry_run: Whether all that a run does is tried in two epochs of two batches, with few
            pictures of each split; no file is then refused for its answers.
    """

    patience: Positive = 15
    on_nan: Literal["rollback", "stop"] = "rollback"
    max_rollbacks: Count = 3
    time_limit: Seconds = None
    dry_run: bool = False


class Compress(_Section):
    """How the trained network is made smaller.

    Args:
        passes: In order, each as `name:key=value,key=value`.
        finetune_epochs: After each pass, with `imbalance` and `augment` as in the training; 0
            leaves it out, None takes as many as the training.
        finetune_lr: Learning rate of these epochs at its highest; None takes the training's.
        teacher: Whose answers these epochs also learn: "original" is the model before the first
            pass; else a `.keras` file or a run folder; "none" leaves them out.
        temperature: Of the teacher's soft labels, positive.
        teacher_weight: Of the teacher in the loss, in [0, 1]; the labels have the rest.
    """

    passes: list[str] = ["prune-filters:ratio=0.3"]
    finetune_epochs: Annotated[Count | None, *_AUTO] = None
    finetune_lr: Annotated[Rate | None, *_AUTO] = None
    teacher: Annotated[str, Field(min_length=1)] = "none"
    temperature: Rate = 4.0
    teacher_weight: Fraction = 0.9


class Export(_Section):
    """What is written, and what it must keep to.

    Args:
        formats: Names of formats; none means all but those that are written only when asked for.
        calibration: Training pictures for the ranges of int8.
        max_drop: Accuracy that a file may lose against the Keras model, a fraction.
        max_size: Bytes that a file may have.
        target: Where it is to run, with the room on the board: such as `ethos-u55`, or
            `tflm:flash=256KB,ram=64KB`; all are in `export.targets`. Whether the network fits is
            told before it is trained. "none" asks nothing.
    """

    formats: list[str] = []
    calibration: Positive = 200
    max_drop: Fraction = 0.01
    max_size: SizeBytes = None
    target: Annotated[str, Field(min_length=1)] = "none"


class Recipe(_Section):
    """All sections. Equal recipes, data and versions give equal runs."""

    version: Literal[1] = Field(default=1, alias="schema")
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    device: Device = Device()
    loss: Loss = Loss()
    augment: Augment = Augment()
    imbalance: Imbalance = Imbalance()
    guard: Guard = Guard()
    compress: Compress = Compress()
    export: Export = Export()


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "phone": {
        "augment": {"preset": "auto"},
        "export": {"formats": ["tflite", "tflite-fp16", "tflite-int8", "tflite-mediapipe"]},
    },
    "mcu": {
        "model": {"width": 0.5},
        "train": {"epochs": 60},
        "augment": {"preset": "auto"},
        "export": {"formats": ["tflite-int8"], "max_size": "256KiB", "max_drop": 0.02},
    },
    "serving": {
        "augment": {"preset": "auto"},
        "compress": {"passes": []},
        "export": {"formats": ["savedmodel", "onnx", "onnx-int8"]},
    },
    "accuracy": {
        "model": {"name": "resnet20"},
        "train": {"epochs": 80},
        "loss": {"label_smoothing": 0.1},
        "augment": {"preset": "auto"},
        "guard": {"patience": 30},
        "compress": {"passes": []},
        "export": {"max_drop": 0.005},
    },
}


@dataclass(frozen=True)
class Resolved:
    """A recipe, and where each of its values is from.

    Attributes:
        recipe: The values.
        origin: Dotted key -> "default", "preset NAME", "file" or "--set".
    """

    recipe: Recipe
    origin: dict[str, str]

    @classmethod
    def of(cls, recipe: Recipe) -> Resolved:
        """Returns a recipe that was made in Python, its values being as good as `--set`."""
        default = flat(to_dict(Recipe()))
        values = flat(to_dict(recipe))
        return cls(
            recipe, {k: "default" if v == default[k] else "--set" for k, v in values.items()}
        )

    def updated(self, source: str, **sections: dict[str, Any]) -> Resolved:
        """Returns the recipe with other values; `source` is the origin of those that differ."""
        before, after = flat(to_dict(self.recipe)), flat(sections)
        differ = [key for key, value in after.items() if before[key] != value]
        recipe = self.recipe.model_copy(
            update={
                name: getattr(self.recipe, name).model_copy(update=values)
                for name, values in sections.items()
            }
        )
        return Resolved(recipe, {**self.origin, **dict.fromkeys(differ, source)})


def resolve(
    path: str | Path | None = None,
    preset: str | None = None,
    sets: Iterable[str] = (),
    **sections: Mapping[str, Any],
) -> Resolved:
    """Returns the recipe: defaults, then the preset, then the file, then `--set`.

    Args:
        path: A TOML file.
        preset: One of `PRESETS`.
        sets: Such as `train.epochs=3`; values are TOML, and text needs no quotes. What follows
            `train.layer_lr.` is a pattern as it is, up to the first "=".
        **sections: The same as tables, such as `train={"epochs": 3}`; they count as `--set`.

    Raises:
        UsageError: If a key is unknown, a value is wrong, or the file is no TOML.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if preset is not None:
        name = registry.known("preset", preset, PRESETS)
        layers.append((f"preset {name}", flat(PRESETS[name])))
    if path is not None:
        layers.append(("file", flat(_read(Path(path)))))
    layers += [("--set", flat(sections)), ("--set", dict(map(_assignment, sets)))]

    values = flat(to_dict(Recipe()))
    origin = dict.fromkeys(values, "default")
    for source, layer in layers:
        for key, value in layer.items():
            table = next((t for t in _TABLES if key.startswith(f"{t}.")), None)
            if table and isinstance(values[table], Mapping):
                key, value = table, {**values[table], key.removeprefix(f"{table}."): value}
            origin[registry.known("recipe key", key, values)] = source
            values[key] = value
    try:
        return Resolved(Recipe.model_validate(_nested(values)), origin)
    except pydantic.ValidationError as error:
        raise _explained(error, origin) from None


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Resolved:
    """Returns the recipe with other values of some dotted keys, checked as those of `--set`."""
    values = {**flat(to_dict(recipe)), **settings}
    return resolve(sets=[f"{k}={json.dumps(v)}" for k, v in values.items() if k != "schema"])


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Returns the sections as plain tables."""
    return recipe.model_dump(by_alias=True)


def to_toml(recipe: Recipe) -> str:
    """Returns the recipe as a file that `resolve` reads."""
    return tomli_w.dumps(to_dict(recipe))


def commented(recipe: Recipe) -> str:
    """Returns the recipe as a file in which a comment says what each key means."""
    lines = [
        "# A recipe of cnnkit: `cnnkit run -c FILE`. Keys that are left out have their default."
    ]
    for name, table in to_dict(recipe).items():
        if not isinstance(table, dict):
            lines += ["", *tomli_w.dumps({name: table}).splitlines()]
            continue
        section = getattr(recipe, name)
        first, meanings = _described(type(section))
        lines += ["", f"# {first}", f"[{name}]"]
        for key, value in table.items():
            lines += textwrap.wrap(meanings[key], 96, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{key} = {_inline(value)}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """Returns a value as TOML on one line; JSON's strings, numbers, truths and lists are TOML's."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"


def _described(section: type) -> tuple[str, dict[str, str]]:
    """Returns the first line of a section's docstring, and what it says of each key."""
    text = inspect.cleandoc(section.__doc__ or "")
    meanings: dict[str, str] = {}
    key = ""
    for line in text.partition("Args:\n")[2].splitlines():
        begun = re.match(r"    (\w+): (.*)", line)
        if begun:
            key = begun[1]
        meanings[key] = f"{meanings.get(key, '')} {begun[2] if begun else line.strip()}".strip()
    return text.splitlines()[0], meanings


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted key -> value."""
    values = {}
    for name, table in tables.items():
        if isinstance(table, Mapping):
            values.update({f"{name}.{key}": value for key, value in table.items()})
        else:
            values[name] = table
    return values


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for dotted, value in values.items():
        section, _, key = dotted.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[key] = value
    return tables


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("Cannot read the recipe", where=path, received=error.strerror) from None
    except ValueError as error:  # TOML, or not even text
        raise UsageError("The recipe is not TOML", where=path, received=error) from None


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals:
        raise UsageError("Not an assignment", where=text, expected="key=value")
    return key.strip(), _value(raw.strip())


def _value(raw: str) -> Any:
    """Returns `raw` read as TOML where it is a number, truth, text, list or table, else as text."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    value = parsed.get("value")
    plain = isinstance(value, str | int | float | list | dict) and len(parsed) == 1
    return value if plain else raw


def _explained(error: pydantic.ValidationError, origin: Mapping[str, str]) -> UsageError:
    first = error.errors()[0]
    section, *rest = first["loc"]
    key = ".".join(map(str, [section, *rest[:1]]))
    message = re.sub("^(Value error, |Input should be |List should have )", "", first["msg"])
    return UsageError(
        "Wrong value in the recipe",
        where=f"{key} (from {origin.get(key, 'file')})",
        expected=message,
        received=repr(first["input"]),
    )
