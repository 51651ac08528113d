"""The models of `keras.applications`, each measured in a process of its own.

A benchmark has a `Row` of its own, a function that fills it, and a `Table`, whose `main` is its
program. Models have random weights and their smallest input.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit import registry

NAMES = """
    ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge
    DenseNet121 DenseNet169 DenseNet201
    EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3
    EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7
    EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3
    EfficientNetV2S EfficientNetV2M EfficientNetV2L
    InceptionResNetV2 InceptionV3
    MobileNet MobileNetV2 MobileNetV3Large MobileNetV3Small
    NASNetLarge NASNetMobile
    ResNet101 ResNet101V2 ResNet152 ResNet152V2 ResNet50 ResNet50V2
    VGG16 VGG19 Xception
"""
# More than 80 million parameters.
GIANTS = "ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge EfficientNetV2L NASNetLarge"
# Pixels a side that a model asks for at least; 32 where nothing stands here.
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
CLASSES = 10


@dataclass
class Row:
    """What was measured on one model.

    Attributes:
        model: Its name.
        side: Pixels a side of its input.
        params: Its parameters.
        peak_gib: Memory that its process took.
        reason: Why there is no more.
    """

    model: str
    side: int = 0
    params: int = 0
    peak_gib: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        raise NotImplementedError

    def cells(self) -> list[str]:
        """Returns what stands between the parameters and the verdict."""
        raise NotImplementedError

    def __str__(self) -> str:
        cells = [
            self.model,
            f"{self.side}x{self.side}",
            f"{self.params / 1e6:.1f} M",
            *self.cells(),
            "good" if self.good else self.reason or "differs too much",
        ]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Table:
    """A benchmark over the models.

    Attributes:
        path: Of the table.
        program: What is run as `python -m`.
        row: Class of its rows.
        measure: Fills a row, as far as it gets.
        columns: What `Row.cells` returns, in words.
        title: Heading.
        good: What good means, in words.
    """

    path: Path
    program: str
    row: type[Row]
    measure: Callable[[Any], None]
    columns: tuple[str, ...]
    title: str
    good: str

    def main(self, argv: list[str] | None = None) -> int:
        """Runs the models that are named, or all but the giants; 3 if one of them is not good."""
        parser = argparse.ArgumentParser(description=self.title)
        parser.add_argument("names", nargs="*", metavar="NAME")
        parser.add_argument("--all", action="store_true", help="the giants too")
        parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
        args = parser.parse_args(argv)
        if args.child:
            self._child(args.child)
            return 0
        names = [registry.known("model", name, NAMES.split()) for name in args.names]
        giants = () if args.all else GIANTS.split()
        rows: list[Row] = []
        for name in names or [name for name in NAMES.split() if name not in giants]:
            rows.append(self.run(name))
            self.write(rows)
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
        return 0 if all(row.good for row in rows) else 3

    def _child(self, name: str) -> None:
        """Measures one model and prints its row as JSON."""
        row = self.row(name, SMALLEST.get(name, 32))
        try:
            self.measure(row)
        except Exception as error:
            row.reason = f"{type(error).__name__}: {str(error).splitlines()[0]}".replace("|", "/")
        # Linux counts it in KiB.
        row.peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(json.dumps(dataclasses.asdict(row)) + "\n")

    def run(self, name: str) -> Row:
        """Measures one model in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", self.program, "--child", name],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if done.returncode:
            reason = f"its process ended with {done.returncode}"
            return self.row(name, SMALLEST.get(name, 32), reason=reason)
        return self.row(**json.loads(done.stdout.splitlines()[-1]))

    def write(self, rows: list[Row]) -> None:
        """Puts the rows into the table, in alphabetical order; those of other models stay."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        known = {line.split(" | ")[0][2:]: line for line in lines}
        known = {name: line for name, line in known.items() if name in NAMES.split()}
        known |= {row.model: str(row) for row in rows}
        good = sum(line.endswith("| good |") for line in known.values())
        head = ("model", "input", "parameters", *self.columns, "verdict")
        lines = [
            f"# {self.title}",
            "",
            f"{good} of {len(known)} are good, out of {len(NAMES.split())}: {self.good} "
            f"Made by `python -m {self.program}`, whose text says what the columns are.",
            "",
            f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}",
            *(known[name] for name in sorted(known)),
        ]
        files.write_text(self.path, "\n".join(lines) + "\n")


def build(row: Row) -> Any:
    """Returns the model of a row with random weights, which gives logits."""
    import keras

    keras.utils.set_random_seed(0)
    shape = (row.side, row.side, 3)
    model = getattr(keras.applications, row.model)(
        weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None
    )
    row.params = model.count_params()
    return model


def settle(model: Any, x: Any, rng: Any) -> None:
    """Gives biases and scales values of their own, and batch normalizations the data's."""
    from export.pruning.recalibration import recalibrate

    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
    recalibrate(model, x)
