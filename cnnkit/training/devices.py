"""What a training computes on: devices, and the precision of its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from cnnkit.errors import UsageError

# From Volta on, NVIDIA's GPUs have units for float16; from Ampere on, for bfloat16.
_FLOAT16, _BFLOAT16 = 7, 8


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


@contextlib.contextmanager
def devices(strategy: str) -> Iterator[int]:
    """Trains what is made and fitted inside over the devices of `device.strategy`; yields how many.

    Raises:
        UsageError: If the backend cannot.
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
    listed = keras.distribution.list_devices
    # JAX raises if asked for a kind that is not there; unasked, it lists the best kind.
    found = listed() if backend == "jax" else listed("gpu") or listed("cpu")
    if strategy == "one" or (strategy == "auto" and len(found) < 2):
        yield 1
    elif backend == "tensorflow":
        with _mirrored() as number:
            yield number
    elif backend == "jax":
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=found))
        try:
            yield len(found)
        finally:
            keras.distribution.set_distribution(before)
    else:
        yield 1


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
