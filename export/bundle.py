"""The layout of `saved_models/NAME/`: every file of a model, verified, hashed and explained."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import ClassVar

import numpy as np
from PIL import Image

from cnnkit import files
from cnnkit.data import RESIZE_RULES
from cnnkit.data import Manifest
from cnnkit.data import golden_pictures
from cnnkit.data import sample
from cnnkit.errors import GateError
from cnnkit.errors import UsageError
from export import auto
from export import fit
from export import formats
from export import ledger
from export import seal
from export import targets
from export import vela
from export.convert import convert
from export.formats import metadata
from export.formats import micro
from export.formats import serving
from export.judging import Judged
from export.judging import Pictures
from export.judging import compared
from export.judging import judge
from export.judging import simulate
from export.ledger import Row
from export.limits import Gates
from export.pipeline import read_ledger
from export.quantization import ranges
from export.quantization.calibration import check

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject

# Of `manifest.json`; a larger one is of a newer cnnkit.
SCHEMA = 1
GOLDEN = 16
PACKAGES = (
    "cnnkit",
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "tflite-micro",
)
# Called with the hidden folder and the manifest before the files are hashed.
Extra = Callable[[Path, dict[str, Any]], None]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: Its folder.
        manifest: The content of `manifest.json`.
    """

    folder: Path
    manifest: dict[str, Any]

    MANIFEST: ClassVar[str] = seal.MANIFEST
    KERAS: ClassVar[str] = "keras/model.keras"
    DATA: ClassVar[str] = "data.manifest.json"
    CONFIG: ClassVar[str] = "config.toml"

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Reads the manifest of a bundle.

        Raises:
            UsageError: If the folder is not a bundle, or its manifest is damaged.
            GateError: If a newer cnnkit wrote it, in a form that this one does not know.
        """
        path = folder / cls.MANIFEST
        if not path.is_file():
            raise UsageError("Not a bundle", where=folder, expected=f"{cls.MANIFEST} in it")
        try:
            bundle = cls(folder, json.loads(path.read_text(encoding="utf-8")))
            schema = int(bundle.manifest["schema"])
            if schema > SCHEMA:
                raise GateError(
                    "A newer cnnkit wrote this bundle",
                    where=path,
                    expected=f"schema {SCHEMA}",
                    received=f"schema {schema}, of cnnkit {bundle.manifest['versions']['cnnkit']}",
                    todo="`pip install -U cnnkit`",
                )
            _ = bundle.name, bundle.labels, bundle.resize, bundle.gates, bundle.artifacts
            dict(bundle.manifest["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                "The manifest of this bundle is damaged", where=path, received=repr(error)
            ) from error
        return bundle

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def labels(self) -> tuple[str, ...] | None:
        labels = self.manifest["labels"]
        return None if labels is None else tuple(labels)

    @property
    def resize(self) -> str:
        return str(self.manifest["resize"])

    @property
    def gates(self) -> Gates:
        return Gates(**self.manifest["gates"])

    @property
    def artifacts(self) -> list[str]:
        """The formats whose files are here."""
        return [row["format"] for row in self.manifest["verdicts"] if row["ok"]]

    @property
    def refused(self) -> dict[str, str]:
        """The formats that were asked for and are not here, with the reason."""
        return {r["format"]: r["reason"] for r in self.manifest["verdicts"] if not r["ok"]}

    def model(self) -> keras.Model:
        """Loads the Keras model."""
        from cnnkit.models.saving import load_model

        return load_model(self.folder / self.KERAS)

    def data_manifest(self) -> Manifest | None:
        """Returns which pictures the model was trained and tested on."""
        path = self.folder / self.DATA
        return Manifest.load(path) if path.is_file() else None

    def recipe(self) -> Recipe:
        """Returns the recipe that the model was made with."""
        from cnnkit.training.recipe import Recipe
        from cnnkit.training.recipe import resolve

        path = self.folder / self.CONFIG
        return resolve(path).recipe if path.is_file() else Recipe()

    def golden_pictures(self) -> Pictures:
        """Returns the golden pictures and what the Keras model makes of them now."""
        from cnnkit.training.predict import predict_keras

        golden = json.loads((self.folder / "golden.json").read_text(encoding="utf-8"))
        shape = golden["input"]["shape"]
        rows = [
            np.asarray(Image.open(self.folder / picture["file"])).reshape(shape)
            for picture in golden["pictures"]
        ]
        truth = [picture["label_index"] for picture in golden["pictures"]]
        y = None if None in truth else np.array(truth)
        return Pictures(np.stack(rows), y, predict_keras(self.model(), np.stack(rows)))

    def broken_files(self, key: bytes | None = None) -> dict[str, str]:
        """Returns what is not as it was at the export, with the reason; see `seal.broken`."""
        return seal.broken(self.folder, self.manifest, key)


def write(
    model: keras.Model | str | Path | Subject,
    jobs: Sequence[str],
    data: Dataset | str | Path | None = None,
    out: str | Path = "saved_models",
    *,
    rows: Sequence[Row] = (),
    extra: Extra | None = None,
    reporter: Reporter | None = None,
) -> Bundle:
    """Writes a model in every format of `jobs`, verifies each file, and leaves a bundle at `out`.

    A file that does not keep the limits of its format, or the recipe's gates, is not in the
    bundle: `Bundle.refused` has the reason. The bundle appears at `out` whole or not at all.

    Args:
        model: A Keras classifier of pictures, its file, or a run folder.
        jobs: Names of formats. Those that need calibration need data. `auto` stands for those that
            the recipe's `export.target` takes, LiteRT's if it names none, of which the one stays
            that is fastest on this machine, of those that pass.
        data: Labelled pictures, or where they are; a run folder knows its own.
        out: The bundle's folder; a bundle that stood there is replaced.
        rows: Ledger rows of the compression; a run folder knows its own.
        extra: Writes more files, such as a report, and adds to the manifest.
        reporter: Told about every step.

    Raises:
        UsageError: If a format is unknown, or needs data that are not there, or something else
            than a bundle stands at `out`.
        CnnkitError: If `out` cannot be written.
    """
    from cnnkit.models.saving import save_model
    from cnnkit.training.dry_run import TOLD
    from cnnkit.training.recipe import to_toml
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject
    from export.subject import open_subject

    named = [row.name for row in auto.named(jobs)]  # refuses an unknown one before the work
    files.require_free(Path(out), Bundle.MANIFEST, overwrite=True)
    reporter = reporter or Reporter()
    subject = model if isinstance(model, Subject) else open_subject(model, data)
    options, model, dataset = subject.recipe.export, subject.model, subject.dataset
    calibrated = dataset is not None or subject.ranges is not None
    candidates = auto.candidates(options.target, calibrated) if auto.NAME in jobs else []
    jobs = [row.name for row in formats.select([*named, *candidates])]
    calibration, notes = None, list[str]()
    if dataset is not None:
        calibration, labels = sample(dataset, options.calibration)
        if subject.ranges is None and any(row.needs_calibration for row in formats.select(jobs)):
            found = check(calibration, labels, *dataset.arrays("train"), dataset.classes)
            notes += [f"int8: {problem}" for problem in found]
            for note in notes:
                reporter.warn(note)
    dry = subject.recipe.guard.dry_run
    gates = _gates(subject.recipe)
    pictures = _synthetic(model) if dataset is None else compared(model, dataset)
    with files.replacing(Path(out)) as folder:
        save_model(model, folder / Bundle.KERAS)
        if subject.ranges is not None:
            ranges.save(subject.ranges, (folder / Bundle.KERAS).parent)
        conversions = convert(subject, jobs, folder, calibration=calibration, reporter=reporter)
        verdicts = []
        for done in conversions:
            row = formats.get(done.format)
            if done.error:
                verdict = Judged(row.name, str(row.path(subject.name)), reason=done.error)
            else:
                reporter.step(f"verifying {row.name}")
                simulated = simulate(row, model, subject.ranges, pictures.x)
                verdict = judge(row, folder, subject.name, pictures, gates, simulated, model)
            verdict = replace(verdict, reason=files.final(verdict.reason))
            verdicts.append(verdict)
            if not verdict.ok:
                files.remove(done.path)
                reporter.warn(f"{row.name} is refused: {verdict.reason}")
        if candidates:
            fastest = auto.choose(folder, subject.name, verdicts, candidates, pictures.x[0])
            verdicts = fastest.left(verdicts, named)
            notes.append(fastest.told)
            reporter.note(fastest.told)
        _remove_empty_folders(folder)
        accepted = [verdict.format for verdict in verdicts if verdict.ok]
        golden = _write_golden(folder, subject, accepted)
        target = _write_sources(folder, subject, verdicts, reporter)
        if "savedmodel" in accepted:
            serving.write(folder / "serving", subject.name, golden)
        _write_labels(folder, subject)
        files.write_text(folder / Bundle.CONFIG, to_toml(subject.recipe))
        if dataset is not None:
            dataset.manifest.save(folder / Bundle.DATA)
        manifest = {
            "schema": SCHEMA,
            "name": subject.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "seed": subject.recipe.train.seed,
            "input": {"name": "image", "shape": list(model.input_shape[1:])},
            "output": {"name": "probabilities", "classes": model.output_shape[-1]},
            "labels": subject.labels and list(subject.labels),
            "resize": subject.resize,
            "gates": vars(gates),
            "target": target,
            "verified_on": f"{len(pictures.x)} "
            + ("synthetic pictures, for want of data" if dataset is None else "pictures"),
            "notes": [*([TOLD] if dry else []), *subject.notes, *notes],
            "ledger": [
                r.to_dict()
                for r in rows or read_ledger(subject.origin) or [_model_row(subject, pictures)]
            ],
            "verdicts": [verdict.to_dict() for verdict in verdicts],
        }
        if extra:
            extra(folder, manifest)
        manifest["files"] = seal.hashes(folder)
        files.write_json(folder / Bundle.MANIFEST, manifest)
        seal.close(folder)
    return Bundle.open(Path(out))


def _write_labels(folder: Path, subject: Subject) -> None:
    if subject.labels:
        lines = (f"{metadata.line(label)}\n" for label in subject.labels)
        files.write_text(folder / "labels.txt", "".join(lines))


def _gates(recipe: Recipe) -> Gates:
    """Returns what the recipe asks of files, the room on its target's board included."""
    options, target = recipe.export, targets.parse(recipe.export.target)
    rooms = [options.max_size, *([target.flash_bytes] if target else [])]
    size = min((room for room in rooms if room is not None), default=None)
    ram = target.ram_bytes if target else None
    return Gates(options.max_drop, size, recipe.guard.dry_run, ram)


def _write_sources(
    folder: Path, subject: Subject, verdicts: Sequence[Judged], reporter: Reporter
) -> dict[str, Any] | None:
    """Writes what lies beside a micro file, and returns what is known of the recipe's target."""
    target = targets.parse(subject.recipe.export.target)
    known = {}
    if target:
        known = fit.check(subject.model, target, subject.labels, subject.resize).to_dict()
    for verdict in verdicts:
        if verdict.ok and verdict.arena_bytes:
            path = folder / verdict.path
            micro.write_sources(path, subject.labels, verdict.arena_bytes)
            if target and target.name in vela.ACCELERATORS:
                reporter.step(f"compiling for {target.name}")
                try:
                    known["vela"] = vela.write(path, target.name)
                except UsageError as error:
                    reporter.warn(str(error))
                    known["vela"] = {"error": str(error)}
    return known or None


def _remove_empty_folders(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):  # what is inside comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that shape the files."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _model_row(subject: Subject, pictures: Pictures) -> Row:
    right = None if pictures.y is None else ledger.accuracy(pictures.want, pictures.y)
    return ledger.of_model("model", subject.model, right)


def _synthetic(model: keras.Model) -> Pictures:
    """Returns seeded pictures of smooth blobs, for models that come without data."""
    from cnnkit.training.predict import predict_keras

    height, width, channels = model.input_shape[1:]
    coarse = np.random.default_rng(0).integers(0, 256, (64, 4, 4, channels)).astype(np.uint8)
    x = np.stack(
        [
            np.stack(
                [
                    np.asarray(Image.fromarray(c[..., k]).resize((width, height)))
                    for k in range(channels)
                ],
                -1,
            )
            for c in coarse
        ]
    )
    return Pictures(x, None, predict_keras(model, x))


def _write_golden(folder: Path, subject: Subject, accepted: Sequence[str]) -> np.ndarray:
    """Writes pictures with what every file makes of them, and returns the first picture."""
    from cnnkit.training.predict import predict_keras

    labels, resize = subject.labels, subject.resize
    if subject.dataset is None:
        x = _synthetic(subject.model).x[:GOLDEN]
        known: list[tuple[str, int | None]] = [(f"synthetic {i}", None) for i in range(len(x))]
    else:
        chosen = golden_pictures(subject.dataset, GOLDEN)
        x = np.stack([picture for _, picture, _ in chosen])
        known = [(name, int(label)) for name, _, label in chosen]
    expected = {"keras": predict_keras(subject.model, x)}
    for name in accepted:
        row = formats.get(name)
        expected[name] = row.load().run(folder / row.path(subject.name), x)
    pictures = []
    (folder / "golden").mkdir()
    for i, (name, label) in enumerate(known):
        place = f"golden/{i:02d}.png"
        Image.fromarray(x[i].squeeze(-1) if x.shape[-1] == 1 else x[i]).save(folder / place)
        pictures.append(
            {
                "file": place,
                "from": name,
                "label": None if label is None or labels is None else labels[label],
                "label_index": label,
                "expected": {
                    kind: [round(float(p), 6) for p in rows[i]] for kind, rows in expected.items()
                },
            }
        )
    content = {
        "about": "Feed the pixels of each picture to a file and compare with `expected` of its "
        "format: floats to 1e-3, int8 to 0.02 (kernels differ between processors).",
        "input": {
            "name": "image",
            "shape": list(x.shape[1:]),
            "values": "raw pixels 0-255: float32, uint8 in the tflite-int8 file and, as RGB, in "
            "the tflite-mediapipe file, or int8 less 128 in the micro file",
        },
        "output": {"name": "probabilities"},
        "resize": resize,
        "resize_rule": RESIZE_RULES[resize],
        "labels": labels and list(labels),
        "pictures": pictures,
    }
    files.write_json(folder / "golden.json", content)
    return x[0]
