"""Every artifact of a bundle against its Keras model again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import formats
from export import seal
from export.bundle import Bundle
from export.bundle import versions
from export.judging import Judged
from export.judging import compared
from export.judging import judge
from export.judging import simulate
from export.quantization import ranges
from export.subject import load_dataset
from export.subject import require_classes

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.reporter import Reporter


@dataclass(frozen=True)
class Verdict:
    """The verdict on a bundle.

    Attributes:
        rows: One for each artifact.
        broken: Files that are not as they were at the export, with the reason.
        source: What the artifacts were run on.
        notes: Which versions differ from those of the export, and what was not looked at.
    """

    rows: list[Judged]
    broken: dict[str, str]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.broken and all(row.ok for row in self.rows)


def verify(
    bundle: Bundle | str | Path,
    data: Dataset | str | Path | None = None,
    reporter: Reporter | None = None,
    key: bytes | None = None,
) -> Verdict:
    """Runs every artifact of a bundle against its Keras model again.

    Args:
        bundle: A bundle or its folder.
        data: Labelled pictures: the test part is used. None takes the bundle's golden pictures.
        reporter: Told about every step.
        key: What the bundle must be signed with, see `seal`; None does not ask for a signature.

    Raises:
        UsageError: If the folder is not a bundle.
        GateError: If a newer cnnkit wrote it, in a form that this one does not know.
        DataError: If the data cannot be used.
    """
    from cnnkit.training.reporter import Reporter

    reporter = reporter or Reporter()
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(Path(bundle))
    reporter.step("checking the hashes")
    broken = bundle.broken_files(key)
    notes = (
        *seal.skew(bundle.manifest.get("versions", {}), versions()),
        *seal.notes(bundle.folder, key),
    )
    # What the manifest says is worth no more than its own seals.
    needed = "manifest.", bundle.KERAS, "golden" if data is None else bundle.DATA
    if any(file.startswith(needed) for file in broken) or not bundle.artifacts:
        broken = broken or {bundle.KERAS: "there is no artifact to verify"}
        return Verdict([], broken, "nothing", notes)
    model, dataset = bundle.model(), None
    if data is not None:
        dataset = load_dataset(data, model.input_shape[1:], bundle.resize, bundle.data_manifest())
    if dataset is None:
        pictures, source = bundle.golden_pictures(), "the bundle's golden pictures"
    else:
        require_classes(bundle.labels, dataset, data)
        pictures, source = compared(model, dataset), "the test part of the data"
    learned = ranges.load((bundle.folder / bundle.KERAS).parent)
    rows = []
    for name in bundle.artifacts:
        row = formats.get(name)
        reporter.step(f"verifying {name}")
        place = row.path(bundle.name).as_posix()
        bad = [file for file in broken if file == place or file.startswith(f"{place}/")]
        # A changed file is not run: whoever changed it may have made it hostile.
        rows.append(
            Judged(name, place, reason=f"{bad[0]}: {broken[bad[0]]}")
            if bad
            else judge(
                row,
                bundle.folder,
                bundle.name,
                pictures,
                bundle.gates,
                simulate(row, model, learned, pictures.x),
                model,
            )
        )
    return Verdict(rows, broken, source, notes)
