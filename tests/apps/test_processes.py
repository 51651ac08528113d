"""Several processes that train together, with JAX on this machine's loopback."""

import os
import signal
import socket
import subprocess

import numpy as np
import pytest

from cnnkit.models.saving import load_model
from cnnkit.training.keeper import LAST
from tests.apps.test_interruption import PROGRAM

OPTIONS = [
    *("--set", "train.epochs=4", "-m", "lenet300", "--set", "model.width=0.2"),
    *("--set", "train.batch_size=128", "--set", "train.ema=0.5", "--strategy", "jax-mesh"),
]


def start(folder, verb="train", process=0, address=None, devices=1):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if address:
        environment |= {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
        }
    argv = (
        ["resume", folder] if verb == "resume" else ["train", "digits", *OPTIONS, "--out", folder]
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([PROGRAM, *map(str, argv)], env=environment, **pipes)


def together(folder, verb="train"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(folder, verb, process, address) for process in range(2)]


def finish(processes):
    said = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [out for out, _ in said]


def weights(folder):
    return load_model(folder / LAST).get_weights()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with two devices: the same batches, divided in the same way."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish([start(folder, devices=2)])
    return weights(folder)


def test_two_processes_come_to_the_weights_of_one(alone, tmp_path):
    told = finish(together(tmp_path / "run"))
    assert ["test accuracy" in text for text in told] == [True, False]
    for mine, other in zip(weights(tmp_path / "run"), alone, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_all_resume(victim, alone, tmp_path):
    folder = tmp_path / "run"
    processes = together(folder)
    dead, left = processes[victim], processes[1 - victim]
    for line in dead.stdout:
        if "epoch 2" in line:
            dead.send_signal(signal.SIGKILL)
            break
    _, errors = left.communicate(timeout=120)
    dead.communicate()
    assert left.returncode == 1
    assert "Another process of this training has ended" in errors
    assert not (folder / "model.keras").exists()
    finish(together(folder, "resume"))
    for mine, other in zip(weights(folder), alone, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
