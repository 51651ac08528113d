"""Runs an ONNX file in OpenVINO.

python -I openvino_probe.py FILE x.npy y.npy

A script of its own: cnnkit bounds the processor's features that oneDNN may use in this process,
and OpenVINO's copy of oneDNN obeys that too, gives no rows for some networks, and refuses others.
It prints the version of OpenVINO.
"""

import sys

_BATCH = 32


def main(path: str, x_path: str, y_path: str) -> None:
    """Writes the outputs for the rows of `x_path` to `y_path`."""
    import numpy as np
    import openvino

    # Full precision where a processor would rather compute in bfloat16.
    properties = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(path, "CPU", properties)
    x = np.load(x_path, mmap_mode="r", allow_pickle=False)
    parts = [
        network(x[k : k + _BATCH].astype(np.float32))[0].copy() for k in range(0, len(x), _BATCH)
    ]
    np.save(y_path, np.concatenate(parts))
    sys.stdout.write(openvino.__version__.split("-")[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
