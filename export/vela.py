"""Arm's compiler for Ethos-U NPUs: what a micro file costs there, as Vela estimates it."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit.errors import UsageError
from export.formats import flatbuffer

# By target, the configuration that Vela compiles for: a middle one of each kind.
ACCELERATORS = {
    "ethos-u55": "ethos-u55-128",
    "ethos-u65": "ethos-u65-256",
    "ethos-u85": "ethos-u85-256",
}
TIMEOUT_S = 600
# Vela is a program of its own; it is not imported here, since it may end its process.
_MODULE = "ethosu.vela"


@dataclass(frozen=True)
class Compiled:
    """What Vela says of a file. Cycles, times and bandwidths are its estimates, not measured.

    Attributes:
        accelerator: Configuration that it was compiled for, such as `ethos-u55-128`.
        version: Of Vela.
        system: Clock, memories and where weights lie, as Vela assumes for that accelerator.
        ops: Ops of the file.
        cpu_ops: Those that stay on the CPU.
        share: Fraction of the ops that run on the NPU.
        cycles: Of the NPU, for one picture.
        inference_ms: For one picture, at `clock_mhz`, without the ops on the CPU.
        clock_mhz: Of the NPU.
        macs: Multiply-accumulates that the NPU does, padding of its blocks included.
        sram_bytes: On-chip memory for activations and what is worked on.
        dram_bytes: External RAM.
        flash_bytes: Flash, on chip or off, for the weights as the NPU reads them.
        weight_bytes: Weights of the file.
        encoded_weight_bytes: The same as Vela codes them without loss: zeros and values that
            come often cost less.
    """

    accelerator: str
    version: str
    system: str
    ops: int
    cpu_ops: tuple[str, ...]
    share: float
    cycles: int
    inference_ms: float
    clock_mhz: float
    macs: int
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    weight_bytes: int
    encoded_weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compile_file(path: Path, target: str) -> Compiled:
    """Compiles a micro file for an Ethos-U, in a process of its own, and returns what it costs.

    Args:
        path: An int8 TFLite file.
        target: One of `ACCELERATORS`.

    Raises:
        UsageError: If Vela is not installed, refuses the file, or does not finish in time.
    """
    if not importlib.util.find_spec("ethosu"):
        raise UsageError(
            "Vela is not installed", where="ethos-u-vela", todo="`pip install 'cnnkit[micro]'`"
        )
    accelerator = ACCELERATORS[target]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--accelerator-config", accelerator, "--output-dir", folder]
        command = [sys.executable, "-m", _MODULE, *options, str(path.resolve())]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                cwd=folder,
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(
                "Vela did not finish in time", where=path, expected=f"{TIMEOUT_S} s"
            ) from error
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode or not summaries:
            told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in told if "error" in line.lower()]
            raise UsageError(
                f"Vela cannot compile this file for {target}",
                where=path,
                received=[*errors, *told, f"exit code {done.returncode}"][0],
            )
        with summaries[0].open(encoding="utf-8", newline="") as text:
            (row,) = csv.DictReader(text)
        left = flatbuffer.ops(Path(folder, f"{path.stem}_vela.tflite").read_bytes())
    return _compiled(row, accelerator, flatbuffer.ops(path.read_bytes()), left)


def write(path: Path, target: str) -> dict[str, Any]:
    """Compiles a micro file, writes what it costs to `vela.json` beside it, and returns that.

    Raises:
        UsageError: As `compile_file`.
    """
    found = compile_file(path, target).to_dict()
    files.write_json(path.with_name("vela.json"), found)
    return found


def _compiled(row: dict[str, str], accelerator: str, ops: list[str], left: list[str]) -> Compiled:
    """Returns the numbers of Vela's summary; its memory is in KiB, its time in seconds."""
    kib = {
        area: round(1024 * float(row[f"{area}_memory_used"]))
        for area in ("sram", "dram", "on_chip_flash", "off_chip_flash")
    }
    cpu = tuple(op for op in left if op != "CUSTOM")
    weights = row["weights_storage_area"]
    return Compiled(
        accelerator=accelerator,
        version=importlib.metadata.version("ethos-u-vela"),
        system=f"{row['system_config']}, {row['memory_mode']}, weights in {weights}",
        ops=len(ops),
        cpu_ops=cpu,
        share=1 - len(cpu) / len(ops),
        cycles=round(float(row["cycles_total"])),
        inference_ms=1000 * float(row["inference_time"]),
        clock_mhz=float(row["core_clock"]) / 1e6,
        macs=round(float(row["nn_macs"])),
        sram_bytes=kib["sram"],
        dram_bytes=kib["dram"],
        flash_bytes=kib["on_chip_flash"] + kib["off_chip_flash"],
        weight_bytes=round(float(row["total_original_weights"])),
        encoded_weight_bytes=round(float(row["total_npu_encoded_weights"])),
    )
