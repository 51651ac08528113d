"""What a training computes on: devices, and the precision of its numbers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from cnnkit.errors import LostError
from cnnkit.errors import UsageError

# From Volta on, NVIDIA's GPUs have units for float16; from Ampere on, for bfloat16.
_FLOAT16, _BFLOAT16 = 7, 8
_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
# What JAX says when it cannot reach a process.
_LOST = ("Gloo", "gloo", "UNAVAILABLE", "heartbeat", "Connection", "NCCL")


def policy_of(mixed_precision: str) -> str:
    """Returns Keras' dtype policy for `device.mixed_precision`."""
    if mixed_precision == "auto":
        capability = _gpu_capability()
        kind = "b" if capability >= _BFLOAT16 else ""
        return f"mixed_{kind}float16" if capability >= _FLOAT16 else "float32"
    return "float32" if mixed_precision == "off" else f"mixed_{mixed_precision}"


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Gives new layers this policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether a device or the machine had no memory for what was asked."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return True
    return type(error).__name__ == "XlaRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)


@dataclass(frozen=True)
class Mesh:
    """What a training is spread over.

    Attributes:
        devices: Of all processes together.
        process: Number of this process, from 0.
        processes: How many there are.
    """

    devices: int = 1
    process: int = 0
    processes: int = 1

    @property
    def chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.process == 0


ONE = Mesh()


def chief() -> bool:
    """Returns whether this process is the only one, or the first of those that train together."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return bool(jax.process_index() == 0)


@contextlib.contextmanager
def devices(strategy: str) -> Iterator[Mesh]:
    """Trains what is made and fitted inside over the devices of `device.strategy`.

    With JAX, several processes train together if the environment has Keras' variables
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `..._NUM_PROCESSES` and `..._PROCESS_ID`.

    Raises:
        UsageError: If the backend cannot.
        LostError: If another process of the training has ended.
    """
    backend = keras.backend.backend()
    wanted = {"mirrored": "tensorflow", "jax-mesh": "jax"}.get(strategy, backend)
    if backend != wanted:
        raise UsageError(
            "The backend cannot train so",
            where=f"device.strategy={strategy}",
            expected=f"KERAS_BACKEND={wanted}",
            received=backend,
        )
    if backend == "jax" and strategy != "one" and _PROCESSES in os.environ:
        _join()
    listed = keras.distribution.list_devices
    # JAX raises if asked for a kind that is not there; unasked, it lists the best kind.
    found = listed() if backend == "jax" else listed("gpu") or listed("cpu")
    if strategy == "one" or (strategy == "auto" and len(found) < 2):
        yield Mesh()
    elif backend == "tensorflow":
        with _mirrored() as number:
            yield Mesh(number)
    elif backend == "jax":
        with _sharded(found) as mesh:
            yield mesh
    else:
        yield Mesh()


def _join() -> None:
    """Meets the other processes, once."""
    import jax

    if not jax.distributed.is_initialized():
        keras.distribution.initialize()


@contextlib.contextmanager
def _sharded(found: list[str]) -> Iterator[Mesh]:
    """Has JAX divide each batch among devices, which may be those of several processes."""
    import jax

    before = keras.distribution.distribution()
    # Each process makes its own part of a batch.
    spread = keras.distribution.DataParallel(devices=found, auto_shard_dataset=False)
    keras.distribution.set_distribution(spread)
    mesh = Mesh(len(found), jax.process_index(), jax.process_count())
    try:
        yield mesh
    except Exception as error:
        if mesh.processes > 1 and any(word in str(error) for word in _LOST):
            raise LostError(
                "Another process of this training has ended",
                where=f"process {mesh.process} of {mesh.processes}",
                received=str(error).splitlines()[0],
                todo="see what that one said, and start all of them again with `cnnkit resume RUN`",
            ) from error
        raise
    finally:
        keras.distribution.set_distribution(before)


@contextlib.contextmanager
def _mirrored() -> Iterator[int]:
    import tensorflow as tf

    logical: Any = tf.config.list_logical_devices
    names = [device.name for device in logical("GPU") or logical("CPU")]
    strategy = tf.distribute.MirroredStrategy(names)
    with strategy.scope():
        yield strategy.num_replicas_in_sync


def _gpu_capability() -> int:
    """Returns the major number of the compute capability of the weakest GPU, 0 without one."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    found = [detail.get("compute_capability", (0,))[0] for detail in details]
    return min(found, default=0)
