import csv
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.training import checkpoint
from cnnkit.training.fit import fit
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import METRICS
from cnnkit.training.reporter import Reporter
from tests.training.pictures import Pictures
from tests.training.pictures import Unequal

EPOCHS = 4


def net():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Flatten(name="flatten")(layers.ReLU(name="relu")(x))
    x = layers.Dropout(0.3, name="dropout")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


class KilledError(Exception):
    pass


class Killer(Reporter):
    """Ends a training at the end of an epoch, after its state was written."""

    def __init__(self, epoch):
        self.fatal = epoch

    def epoch(self, row):
        if row["epoch"] == self.fatal:
            raise KilledError


def noisy(x, y, seed):
    import tensorflow as tf

    return x + tf.random.stateless_uniform(tf.shape(x), seed, 0, 20), y


OPTIONS = {
    "epochs": EPOCHS,
    "batch_size": 8,
    "lr": 0.02,
    "augment": lambda epoch: noisy if epoch < 3 else None,
    "ema": 0.8,
}


@pytest.mark.parametrize(
    ("optimizer", "data"),
    [("adamw", Pictures()), ("momentum-ramp", Pictures()), ("adamw", Unequal(4, 20, 20))],
    ids=["adamw", "momentum-ramp", "uneven classes"],
)
def test_goes_on_to_the_same_weights(tmp_path, optimizer, data):
    options = {**OPTIONS, "optimizer": optimizer}
    whole = net()
    expected = fit(whole, data, folder=tmp_path / "whole", **options)
    folder = tmp_path / "run"
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            fit(net(), data, folder=folder, resume=True, reporter=Killer(epoch), **options)
    model = net()
    history = fit(model, data, folder=folder, resume=True, **options)
    assert history.best_epoch == expected.best_epoch
    for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for row, same in zip(history.rows, expected.rows, strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}
    kept = []
    for place in ("whole", "run"):
        with (tmp_path / place / METRICS).open() as file:
            kept.append([{**row, "seconds": 0} for row in csv.DictReader(file)])
    assert kept[0] == kept[1]


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = net()
    fit(first, Pictures(), folder=tmp_path, **OPTIONS)
    before = (tmp_path / METRICS).read_bytes()
    again = net()
    fit(again, Pictures(), folder=tmp_path, resume=True, **OPTIONS)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / METRICS).read_bytes() == before


def test_a_better_epoch_whose_state_was_not_written_comes_again(tmp_path):
    with pytest.raises(KilledError):
        fit(net(), Pictures(), folder=tmp_path, reporter=Killer(2), **OPTIONS)
    place = tmp_path / checkpoint.STATE
    told = json.loads(place.read_text())
    told["memory"]["best_sha256"] = "0" * 64
    place.write_text(json.dumps(told))
    history = fit(net(), Pictures(), folder=tmp_path, resume=True, **OPTIONS)
    assert history.best_epoch > 2


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(KilledError):
        fit(net(), Pictures(), folder=tmp_path, reporter=Killer(2), **OPTIONS)
    arrays = next((tmp_path / "checkpoints").glob("state-*.npz"))
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(UsageError, match=r"checkpoint is damaged.*state-00002\.npz"):
        fit(net(), Pictures(), folder=tmp_path, resume=True, **OPTIONS)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with pytest.raises(KilledError):
        fit(net(), Pictures(), folder=tmp_path, reporter=Killer(2), **OPTIONS)
    with pytest.raises(UsageError, match="another network or optimizer"):
        fit(net(), Pictures(), folder=tmp_path, resume=True, **{**OPTIONS, "optimizer": "sgd"})


SCRIPT = """
import sys
from tests.training.pictures import Pictures
from tests.training.test_resume import OPTIONS, net
from cnnkit.training.fit import fit
from pathlib import Path
from cnnkit.training.reporter import Reporter

class Teller(Reporter):
    def epoch(self, row):
        print(row["epoch"], flush=True)

fit(net(), Pictures(), folder=Path(sys.argv[1]), resume=True, deterministic=True,
    reporter=Teller(), **{**OPTIONS, "epochs": 12})
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path):
    def run(folder, fatal=None):
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if fatal is not None and int(line) >= fatal:
                    os.kill(process.pid, signal.SIGKILL)
        return process.returncode

    assert run(tmp_path / "whole") == 0
    folder = tmp_path / "killed"
    assert [run(folder, 3), run(folder, 8)] == [-signal.SIGKILL] * 2
    assert run(folder) == 0
    whole, killed = (load_model(tmp_path / f / BEST).get_weights() for f in ("whole", "killed"))
    assert [w.tobytes() for w in whole] == [w.tobytes() for w in killed]


JAX = """
import sys
from pathlib import Path
import keras
import numpy as np
import pytest
from tests.training.pictures import Unequal
from tests.training.test_resume import OPTIONS, Killer, KilledError, net
from cnnkit.training.fit import fit

assert keras.backend.backend() == "jax"
whole, model, folder, data = net(), net(), Path(sys.argv[1]), Unequal(4, 20, 20)
fit(whole, data, **OPTIONS)
with pytest.raises(KilledError):
    fit(net(), data, folder=folder, reporter=Killer(2), **OPTIONS)
fit(model, data, folder=folder, resume=True, **OPTIONS)
for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
"""


def test_goes_on_to_the_same_weights_with_jax(tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", JAX, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
