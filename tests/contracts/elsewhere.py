"""A process that runs models in a world of its own, one after the other.

Started as a script: `elsewhere.py jax` loads `.keras` files, and losses from `.json` files, with
Keras on JAX; `elsewhere.py tensorflow` runs SavedModels with TensorFlow alone. Both answer every
line `model x.npy y.npy steps` with `ok` or with what went wrong; of a loss, x holds `y_pred`, and
`steps` is a file of `y_true`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PROBE = ROOT / "export" / "formats" / "savedmodel_probe.py"
JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}


class Elsewhere:
    """The process, seen from the tests."""

    def __init__(self, world):
        where = JAX if world == "jax" else {}
        self.process = subprocess.Popen(
            [sys.executable, __file__, world],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **where},
        )

    def run(self, model, x, steps=0):
        """Returns what the model at a path answers to `x`, after some steps towards zeros."""
        return self._answer(model, x, lambda folder: steps)

    def loss(self, config, y_true, y_pred):
        """Returns the loss whose configuration is in the file at a path."""

        def targets(folder):
            np.save(folder / "targets.npy", y_true)
            return str(folder / "targets.npy")

        return self._answer(config, y_pred, targets)

    def _answer(self, model, x, last):
        with tempfile.TemporaryDirectory() as folder:
            x_path, y_path = Path(folder, "x.npy"), Path(folder, "y.npy")
            np.save(x_path, x)
            line = json.dumps([str(model), str(x_path), str(y_path), last(Path(folder))])
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
            if answer != "ok":
                raise AssertionError(answer or f"the process ended: {self.process.wait()}")
            return np.load(y_path)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def on_jax(model, x_path, y_path, steps):
    import importlib
    import pkgutil

    import keras

    import cnnkit

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}")
    for module in pkgutil.walk_packages(cnnkit.__path__, "cnnkit."):
        importlib.import_module(module.name)
    x = np.load(x_path)
    if Path(model).suffix == ".json":
        loss = keras.saving.deserialize_keras_object(json.loads(Path(model).read_text()))
        np.save(y_path, np.asarray(loss(np.load(steps), x)))
        return
    loaded = without_draws(keras.models.load_model, model)
    if steps:
        zeros = np.zeros((len(x), *loaded.output_shape[1:]))
        loaded.fit(x, zeros, batch_size=len(x), epochs=steps, shuffle=False, verbose=0)
    np.save(y_path, np.asarray(loaded(x, training=False)))


def without_draws(load, path):
    """Loads a file, whose values replace all that is drawn: JAX compiles a draw for every shape."""
    import keras
    from keras import initializers as of

    kinds = (of.VarianceScaling, of.RandomNormal, of.RandomUniform, of.TruncatedNormal)
    drawing = {kind: kind.__call__ for kind in kinds}
    for kind in kinds:
        kind.__call__ = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    try:
        return load(path)
    finally:
        for kind, draw in drawing.items():
            kind.__call__ = draw


def on_tensorflow(model, x_path, y_path, _steps):
    sys.path.insert(0, str(PROBE.parent))
    import savedmodel_probe

    savedmodel_probe.main(model, x_path, y_path, "1")


def main(world):
    work = on_jax if world == "jax" else on_tensorflow
    for line in sys.stdin:
        try:
            work(*json.loads(line))
            answer = "ok"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}".replace("\n", " ")
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
