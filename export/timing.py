"""How fast files are: in turns, so that what else the machine does meets them alike."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.formats.probe import Probe

Predict = Callable[[np.ndarray], np.ndarray]
_WARMUP = 5
_PROBE = Probe(Path(__file__).with_name("timing_probe.py"), "Cannot run", flags=())
# A square product of this size keeps a core busy without leaving its cache for long.
_SIDE = 512


@dataclass(frozen=True)
class Timing:
    """Milliseconds that one picture took, over all turns.

    Attributes:
        least: The least, which other work on the machine disturbs least.
        p10: A tenth of the turns took no longer.
        p50: Half of them, the median.
        p95: All but a twentieth.
    """

    least: float
    p10: float
    p50: float
    p95: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def interleaved(
    predictors: Mapping[str, Predict], picture: np.ndarray, turns: int
) -> dict[str, Timing]:
    """Returns how long each takes for one picture, measured in turns in one process.

    Args:
        predictors: From raw pixels `(1, height, width, channels)` to outputs, by name.
        picture: Raw pixels `(height, width, channels)`.
        turns: How often each is called, after some calls that are not counted; at least 1.
    """
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    names = list(predictors)
    for turn in range(-_WARMUP, turns):
        first = turn % len(names)  # whoever comes first finds another one's data in the caches
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            predictors[name](picture[None])
            if turn >= 0:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: of(times) for name, times in taken.items()}


def of(times: list[float]) -> Timing:
    """Returns the summary of some measurements."""
    return Timing(min(times), *map(float, np.percentile(times, (10, 50, 95))))


def peak_memory(path: Path, shape: tuple[int, ...]) -> int | None:
    """Returns the bytes by which running a file raises a fresh process' memory at its highest.

    The runtime and its libraries are loaded before, and not counted. None where there is no Linux
    to tell.

    Raises:
        UsageError: If the file cannot be run.
    """
    if sys.platform != "linux":
        return None
    return int(_PROBE.answer(path, json.dumps(shape)).splitlines()[-1])


def peak_gops(threads: int, turns: int = 20) -> dict[str, float]:
    """Returns the billions of operations a second that matrix products reach, by number type.

    A multiply-add is two operations. ONNX Runtime's kernels do the work, float32 and int8 (unsigned
    by signed, with sums in int32), each in its best turn: what a network's arithmetic can be held
    against, on the same machine in the same minute.
    """
    import onnxruntime
    from onnx import TensorProto
    from onnx import helper

    kinds: dict[str, tuple[str, int, int, int]] = {
        "float32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
        "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
    }
    rng, found = np.random.default_rng(0), {}
    for kind, (op, left, right, result) in kinds.items():
        weights = rng.integers(-64, 64, (_SIDE, _SIDE))
        dtype = helper.tensor_dtype_to_np_dtype(right)
        graph = helper.make_graph(
            [helper.make_node(op, ["a", "b"], ["c"])],
            op,
            [helper.make_tensor_value_info("a", left, (_SIDE, _SIDE))],
            [helper.make_tensor_value_info("c", result, (_SIDE, _SIDE))],
            [helper.make_tensor("b", right, (_SIDE, _SIDE), weights.astype(dtype).tobytes(), True)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        a = rng.integers(0, 64, (_SIDE, _SIDE)).astype(helper.tensor_dtype_to_np_dtype(left))
        times = []
        for _ in range(turns):
            start = time.perf_counter()
            session.run(None, {"a": a})
            times.append(time.perf_counter() - start)
        found[kind] = 2 * _SIDE**3 / min(times) / 1e9
    return found


def in_process(kind: str, path: Path, threads: int) -> Predict:
    """Returns a function from pictures to outputs that starts no process of its own.

    Args:
        kind: "keras" or the module of a format, as `Runnable.kind` has it.
        path: The file or folder.
        threads: Of the runtime; TensorFlow takes its own.
    """
    from export import formats
    from export.formats import saved_model

    if kind == "saved_model":
        return saved_model.loaded(path)
    if kind != "keras":
        predict: Predict = formats.module(kind).predictor(path, threads=threads)
        return predict
    import tensorflow as tf

    from cnnkit.models.saving import load_model

    model = tf.function(load_model(path))
    return lambda x: model(tf.constant(x, tf.float32)).numpy()
