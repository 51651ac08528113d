"""Runs a file in the interpreter of TFLite Micro, with the smallest arena in which it works.

python -I micro_probe.py FILE x.npy y.npy

Writes the raw outputs for the raw inputs in `x.npy`, and prints the bytes of the arena. A script
of its own, since the interpreter ends its process where an arena is far too small.
"""

import sys
from pathlib import Path
from typing import Any

# Of `MicroArenaBufferAlignment()` in TFLite Micro: an arena begins and ends on such a byte.
_ALIGNMENT = 16
# The interpreter's own objects need more than the least; int8 networks for pictures of 224 pixels
# need a tenth of the most.
_LEAST, _MOST = 1024, 64 * 2**20


def main(file: str, x_path: str, y_path: str) -> None:
    """Writes the outputs for the rows of `x_path` to `y_path`."""
    import numpy as np
    from tflite_micro import runtime

    content = Path(file).read_bytes()
    arena = _smallest(runtime, content)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    y = []
    for row in np.load(x_path, mmap_mode="r", allow_pickle=False):
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        y.append(interpreter.get_output(0)[0])
    np.save(y_path, np.array(y))
    sys.stdout.write(f"{arena}\n")


def _smallest(runtime: Any, content: bytes) -> int:
    """Returns the bytes of the smallest arena in which the network can be set up."""
    runtime.Interpreter.from_bytes(content, arena_size=_MOST)  # or says why it cannot be run
    low, high = _LEAST // _ALIGNMENT, _MOST // _ALIGNMENT
    while low < high:
        middle = (low + high) // 2
        try:
            runtime.Interpreter.from_bytes(content, arena_size=middle * _ALIGNMENT)
            high = middle
        except RuntimeError:
            low = middle + 1
    return high * _ALIGNMENT


if __name__ == "__main__":
    main(*sys.argv[1:])
