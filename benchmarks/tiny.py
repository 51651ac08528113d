"""The smallest LeNets that read MNIST: LeNet-5-Caffe without nearly all of its filters, in int8.

    CNNKIT_DATA=mnist ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.tiny        # two hours of a core
    CNNKIT_DATA=mnist ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.tiny --bundles saved_models

`CNNKIT_DATA` is a folder with the four IDX files. oneDNN's kernels for AVX2 are right for networks
without strides, and faster than those for AVX. What was trained before is not trained again
(`--work` says where it is kept).

The teacher is LeNet-5-Caffe, trained on ten copies of the training digits, each warped in its own
way. It is asked once what it sees in every copy, and in the digits as they are. Each record is
`prune-filters` of the teacher to the widths, fine-tuning on the ten copies with the teacher's
softened answers in the place of labels, and `qat` on the digits as they are, with answers less
soft, or on one of the copies. The student's own logits are not divided by the temperature: what it
gives are softened probabilities, with the same digit on top. For comparison, the same small network
is trained from fresh weights on the same pictures as long, before `qat`.

The widths of lenet_150kflop were chosen on the validation digits, 10,589 of the 60,000 that nothing
is trained on: 114 wrong after one pass, 228 with 3, 6 and 16. Those of the other records are about
as large as the files allow. How fast they learn was chosen on the validation digits too, and so are
best epochs. They learn so long because shorter trainings, of which the errors on the test digits
were seen, were not enough. Errors are counted on the 10,000 test digits. The rows go into
`benchmarks/tiny.md`.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.report import write_report
from benchmarks.sparsity import least_us
from cnnkit import data
from cnnkit import files
from cnnkit import models
from cnnkit.analysis import macs
from cnnkit.analysis.logits import logits
from cnnkit.data import Dataset
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training.fit import fit
from cnnkit.training.predict import predict_keras
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import resolve
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import deployable
from export import bundle
from export.bundle import Bundle
from export.formats import tflite
from export.pipeline import Compressed
from export.pipeline import compress

TABLE = Path(__file__).with_suffix(".md")
COPIES = 10
# The largest turn of a digit, in radians, its change of size, and its shift, in pixels.
TURN, SIZE, SHIFT = 0.17, 0.1, 2.0
TEACHING: dict[str, Any] = {"epochs": 1, "batch_size": 128, "lr": 1.5e-3}
# Of the answers on the warped digits, and on those as they are.
TEMPERATURE, COOLER = 3.0, 1.5
WEIGHT = 0.9
LEARNING: dict[str, Any] = {"batch_size": 256, "lr": 6e-3, "weight_decay": 0.0}
FORMATS = ("tflite-int8", "onnx-int8")
FRESH = "_fresh"
SECONDS = "seconds.json"
COMMAND = "CNNKIT_DATA=mnist ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.tiny --records {}"
HEAD = """# LeNets of a few thousand parameters on MNIST

Made by `python -m benchmarks.tiny`, whose text says how. Widths are those of conv1, conv2 and fc1;
MACs are of one picture. Wrong are, of the 10,589 validation digits by the Keras model, of the
10,000 test digits by the Keras model and by the int8 `.tflite`. Times are the least of 500 in
LiteRT on one thread, against the unpruned teacher's int8 file, in turns. Rows `_fresh`, if any,
are the same networks trained from fresh weights on the same pictures and answers as long. Seconds
are those of the epochs, on one core that had other work to do.

| network | widths | parameters | MACs | int8 .tflite | validation | test | test, int8 | asked \
| LiteRT time | seconds |
|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Record:
    """A small network, and what it is to reach.

    Attributes:
        widths: Of conv1, conv2 and fc1.
        passes: Over the ten copies.
        epochs: Of `qat`, over the digits as they are, or over one copy.
        wrong: Of the 10,000 test digits, at most.
        size: Bytes of the int8 file, at most, or None.
        macs: For one picture, at most, or None.
        warped: Whether `qat` sees the first copy in the place of the digits as they are.
        lr: Of `qat`.
    """

    widths: tuple[int, int, int]
    passes: int
    epochs: int
    wrong: int
    size: int | None = None
    macs: int | None = None
    warped: bool = False
    lr: float = 3e-3


RECORDS = {
    "lenet_6kb": Record((5, 10, 11), 12, 16, 100, size=6000),
    "lenet_8kb": Record((6, 14, 12), 14, 16, 80, size=8000),
    "lenet_150kflop": Record((2, 12, 36), 10, 3, 90, macs=75_000, warped=True, lr=1e-3),
}


class Log(Reporter):
    """Writes a line for each epoch and step, and adds up the seconds of the epochs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def epoch(self, row: dict[str, Any]) -> None:
        self.seconds += row["seconds"]
        self.step(json.dumps(row))

    def step(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class Digits:
    """MNIST with other pictures or other answers in the place of its training split.

    Attributes:
        plain: The digits as they are.
    """

    def __init__(self, plain: Dataset, x: np.ndarray, y: np.ndarray) -> None:
        self.plain, self.x, self.y = plain, x, y
        self.classes, self.image_shape, self.manifest = (
            plain.classes,
            plain.image_shape,
            plain.manifest,
        )

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        return (self.x, self.y) if split == "train" else self.plain.arrays(split)

    def labels(self, split: str) -> np.ndarray:
        return self.plain.labels(split)  # Of each digit once: every copy has as many of a class.

    def taught(self, teacher: keras.Model, temperature: float, path: Path) -> "Digits":
        """Returns the digits with a teacher's softened answers in the place of labels.

        Args:
            teacher: A classifier.
            temperature: By which its logits are divided.
            path: Where these are kept, or come from if it is there.
        """
        if not path.is_file():
            net, parts = logits(teacher), np.array_split(self.x, 500)
            np.save(path, np.concatenate([net(part.astype(np.float32)) for part in parts]))
        scores = np.load(path) / temperature
        soft = np.exp(scores - scores.max(1, keepdims=True))
        soft /= soft.sum(1, keepdims=True)
        hard = np.eye(len(self.classes), dtype=np.float32)[self.y]
        y = (WEIGHT * soft + (1 - WEIGHT) * hard).astype(np.float32)
        return Digits(self.plain, self.x, y)

    def first(self) -> "Digits":
        """Returns the first of the copies."""
        n = len(self.x) // COPIES
        return Digits(self.plain, self.x[:n], self.y[:n])


def copies(plain: Dataset, path: Path) -> Digits:
    """Returns the digits with many warped copies of the training split, from `path` if there."""
    x, y = plain.arrays("train")
    if not path.is_file():
        rng = np.random.default_rng(0)
        np.save(path, np.concatenate([_warped_in_parts(x, rng) for _ in range(COPIES)]))
    return Digits(plain, np.load(path), np.tile(y, COPIES))


def warped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the pictures, each turned, resized and shifted by its own draw; zeros move in."""
    n, height, width = x.shape[:3]
    turn, size = rng.uniform(-TURN, TURN, n), 1 + rng.uniform(-SIZE, SIZE, n)
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    matrix = np.stack([cos, -sin, sin, cos], 1).reshape(n, 2, 2).astype(np.float32)
    middle = np.array([height - 1, width - 1], np.float32)[:, None] / 2
    grid = np.indices((height, width), np.float32).reshape(2, -1) - middle
    shift = rng.uniform(-SHIFT, SHIFT, (n, 2, 1)).astype(np.float32)
    # A border of zeros, where every place outside of the picture is taken to.
    padded = np.pad(x[..., 0], ((0, 0), (1, 2), (1, 2)))
    row, column = np.moveaxis(matrix @ grid + middle + shift, 1, 0) + 1
    row, column = np.clip(row, 0, height + 1), np.clip(column, 0, width + 1)
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, right = row - top, column - left
    flat, start = padded.reshape(n, -1), top * (width + 3) + left
    upper = _between(flat, start, right)
    lower = _between(flat, start + width + 3, right)
    return np.rint(upper + down * (lower - upper)).astype(np.uint8).reshape(x.shape)


def _between(flat: np.ndarray, start: np.ndarray, right: np.ndarray) -> np.ndarray:
    here, there = (np.take_along_axis(flat, start + i, 1).astype(np.float32) for i in (0, 1))
    return here + right * (there - here)


def _warped_in_parts(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([warped(part, rng) for part in np.array_split(x, 100)])


def teacher_on(digits: Digits, path: Path) -> keras.Model:
    """Returns the teacher, from `path` if it is there."""
    if not path.is_file():
        keras.utils.set_random_seed(0)
        net = models.build("lenet5_caffe", digits.image_shape, len(digits.classes))
        model = deployable(net, *digits.plain.statistics())
        fit(model, digits, **TEACHING, reporter=Log())
        save_model(model, path)
    return load_model(path)


def recipe_of(record: Record) -> Recipe:
    """Returns the recipe of a record, which its bundle has."""
    widths = zip(("conv1", "conv2", "fc1"), record.widths, strict=True)
    pruning = "+".join(f"{layer}:{width}" for layer, width in widths)
    return resolve(
        data={"path": "mnist"},
        model={"name": "lenet5_caffe"},
        train=LEARNING,
        compress={
            "passes": [
                f"prune-filters:widths={pruning}",
                f"qat:epochs={record.epochs},lr={record.lr}",
            ],
            "finetune_epochs": record.passes,
        },
    ).recipe


def small(
    name: str, teacher: keras.Model, lessons: tuple[Digits, Digits], work: Path
) -> Compressed:
    """Returns the network of a record, from `work` if it was made before."""
    record = RECORDS[name.removesuffix(FRESH)]
    recipe, place = recipe_of(record), work / name
    pruning, tuning = recipe.compress.passes
    if name.endswith(FRESH):
        plan = recipe.model_copy(
            update={"compress": recipe.compress.model_copy(update={"finetune_epochs": 0})}
        )
        untrained = compress(teacher, [pruning], lessons[0], recipe=plan).model
        keras.utils.set_random_seed(0)
        teacher, pruning = keras.models.clone_model(untrained), "prune-filters:ratio=0"
    log = Log()
    given: dict[str, Any] = {"recipe": recipe, "reporter": log}
    warps, plain = lessons
    last = warps.first() if record.warped else plain
    pruned = compress(teacher, [pruning], warps, checkpoint=place / "pruned", **given)
    ready = replace(pruned.subject, dataset=last)
    tuned = compress(ready, [tuning], checkpoint=place / "tuned", **given)
    if log.seconds:
        files.write_json(place / SECONDS, round(log.seconds))
    subject = replace(tuned.subject, name=name, dataset=plain.plain, recipe=recipe)
    return replace(tuned, subject=subject, ledger=[*pruned.ledger, *tuned.ledger[1:]])


def bundled(name: str, done: Compressed, out: Path, seconds: int) -> Bundle:
    """Writes the bundle of a record with its card, and returns it."""

    def extra(folder: Path, manifest: dict[str, Any]) -> None:
        # Which digit is in which split follows from the seed; the list would be half the bundle.
        files.remove(folder / Bundle.DATA)
        manifest["command"] = COMMAND.format(name)
        write_report(folder, manifest, done.subject)
        row, last = manifest["verdicts"][0], manifest["ledger"][-1]
        files.write_json(
            folder / "card.json",
            {
                "model": "lenet5_caffe, 431,080 parameters, without most of its filters, int8",
                "data": "MNIST",
                "params": last["params"],
                "macs": last["macs"],
                "file": row["path"],
                "size_bytes": row["size_bytes"],
                "sha256": files.sha256(folder / row["path"]),
                "wrong_of_10000": _wrong(row),
                "command": manifest["command"],
                "seconds": seconds,
            },
        )

    return bundle.write(done.subject, FORMATS, out=out / name, rows=done.ledger, extra=extra)


def row_of(name: str, done: Compressed, out: Path, dense: Path, seconds: int) -> dict[str, Any]:
    """Returns what a record came to, after writing its bundle."""
    plain, last = done.subject.dataset, done.ledger[-1]
    x, y = plain.arrays("val")
    row = {
        "name": name,
        "widths": "-".join(map(str, RECORDS[name.removesuffix(FRESH)].widths)),
        "params": last.params,
        "macs": last.macs,
        "val": int((predict_keras(done.model, x).argmax(1) != y).sum()),
        "float": _wrong(asdict(last)),
        "seconds": seconds,
    }
    if name.endswith(FRESH):
        return row
    made = bundled(name, done, out, seconds)
    told = made.manifest["verdicts"][0]
    mine, other = least_us([made.folder / told["path"], dense], plain.arrays("test")[0][:1])
    return {**row, "wrong": _wrong(told), "size": told["size_bytes"], "us": [mine, other]}


def _wrong(row: dict[str, Any]) -> int:
    return round(10_000 * (1 - row["accuracy"]))


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the table."""
    lines = [HEAD]
    for row in rows:
        record = RECORDS.get(row["name"].removesuffix(FRESH))
        asked = [] if record is None or row["name"].endswith(FRESH) else [f"{record.wrong} wrong"]
        if asked and record:
            asked += [f"{record.size:,} B"] if record.size else [f"{record.macs:,} MACs"]
        times = row.get("us")
        cells = [
            row["name"],
            row["widths"],
            f"{row['params']:,}",
            f"{row['macs']:,}",
            f"{row['size']:,} B" if "size" in row else "-",
            str(row["val"]),
            str(row["float"]),
            str(row.get("wrong", "-")),
            ", ".join(asked) or "-",
            f"{times[0]:.1f} of {times[1]:.1f} us" if times else "-",
            f"{row['seconds']:,}" if "seconds" in row else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    files.write_text(TABLE, "\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Makes what is missing and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*RECORDS, *(name + FRESH for name in RECORDS)]
    parser.add_argument("--records", nargs="+", default=names, choices=names)
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), help="kept there")
    parser.add_argument("--bundles", type=Path, help="where they go [default: below --work]")
    options = parser.parse_args(argv)
    place = os.environ.get("CNNKIT_DATA")
    if not place:
        raise UsageError("No data", todo="set CNNKIT_DATA to the folder of MNIST's IDX files")
    work, known = options.work, options.work / "rows.json"
    work.mkdir(parents=True, exist_ok=True)
    plain = data.load(data.check(place))
    # A bundle names its data, not the folder in which they lay here.
    plain.manifest = plain.manifest.model_copy(update={"path": "mnist"})
    digits = copies(plain, work / "pool.npy")
    teacher = teacher_on(digits, work / "teacher.keras")
    lessons = (
        digits.taught(teacher, TEMPERATURE, work / "scores.npy"),
        Digits(plain, *plain.arrays("train")).taught(teacher, COOLER, work / "plain.npy"),
    )
    dense = work / "dense_int8.tflite"
    tflite.write(teacher, dense, variant="int8", calibration=data.sample(plain, 200)[0])
    rows = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    rows["teacher"] = teacher_row(teacher, plain, dense)
    for name in options.records:
        done = small(name, teacher, lessons, work)
        seconds = json.loads((work / name / SECONDS).read_text(encoding="utf-8"))
        rows[name] = row_of(name, done, options.bundles or work / "bundles", dense, seconds)
        files.write_json(known, rows)
        write([rows[n] for n in ("teacher", *names) if n in rows])
    return 0


def teacher_row(teacher: keras.Model, plain: Dataset, dense: Path) -> dict[str, Any]:
    """Returns the row of the teacher."""
    (val_x, val_y), (x, y) = plain.arrays("val"), plain.arrays("test")
    return {
        "name": "teacher",
        "widths": "20-50-500",
        "params": macs.params(teacher),
        "macs": macs.total(teacher),
        "val": int((predict_keras(teacher, val_x).argmax(1) != val_y).sum()),
        "float": int((predict_keras(teacher, x).argmax(1) != y).sum()),
        "wrong": int((tflite.run(dense, x).argmax(1) != y).sum()),
        "size": dense.stat().st_size,
    }


if __name__ == "__main__":
    sys.exit(main())
