"""Prints by how many bytes running a file raises the memory of a process at its highest.

python timing_probe.py FILE SHAPE-AS-JSON
"""

import json
import sys
from pathlib import Path

import numpy as np

RUNS = 3


def resident(key: str) -> int:
    """Returns a value of Linux' `/proc/self/status` in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main(path: str, shape: str) -> None:
    """Opens and runs the file, after the libraries of its runtime, which are not counted."""
    from export import timing

    kinds = {".tflite": "tflite", ".onnx": "onnx", ".keras": "keras"}
    kind = kinds.get(Path(path).suffix, "saved_model")
    if kind == "tflite":
        import ai_edge_litert.interpreter  # noqa: F401
    elif kind == "onnx":
        import onnxruntime  # noqa: F401
    else:
        import keras  # noqa: F401
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest begins anew
    before = resident("VmRSS")
    predict = timing.in_process(kind, Path(path), 1)
    for _ in range(RUNS):
        predict(np.zeros((1, *json.loads(shape)), np.uint8))
    sys.stdout.write(f"{max(0, resident('VmHWM') - before)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
