"""Runs the `serving_default` signature of a SavedModel with TensorFlow alone.

python -I savedmodel_probe.py FOLDER x.npy y.npy THREADS

A script of its own, started in a fresh interpreter where Keras and cnnkit cannot be imported:
what it computes, TF Serving computes too.
"""

import gc
import sys

# TensorFlow also imports JAX where that is installed, for half a second.
ABSENT = ("jax", "keras", "tf_keras", "cnnkit", "export", "apps")
_BATCH = 256


def main(folder: str, x_path: str, y_path: str, threads: str) -> None:
    """Writes the outputs for the rows of `x_path` to `y_path`."""
    for name in ABSENT:
        sys.modules[name] = None  # type: ignore[assignment]  # makes `import name` fail

    gc.disable()  # what is imported stays: to look for garbage in it takes a quarter of the time
    import numpy as np
    import tensorflow as tf

    gc.freeze()
    gc.enable()
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(1)
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    (input_name,) = signature.structured_input_signature[1]
    (output_name,) = signature.structured_outputs
    x = np.load(x_path, mmap_mode="r", allow_pickle=False)
    parts = [
        signature(**{input_name: tf.constant(x[k : k + _BATCH], tf.float32)})[output_name].numpy()
        for k in range(0, max(len(x), 1), _BATCH)
    ]
    loaded = [name for name in ABSENT if sys.modules[name] is not None]
    if loaded:
        raise SystemExit(f"loading the SavedModel imported {loaded}")
    np.save(y_path, np.concatenate(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
