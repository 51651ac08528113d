"""Pass `prune-weights`: makes single weights zero, so that files compress better."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from export.result import Invariant
from export.result import Result

if TYPE_CHECKING:
    import keras

    from export.pipeline import PassData
    from export.pruning.kernels import Kernel
    from export.pruning.masks import Pattern

# What is written to see what zeros buy.
_FILES = ("keras", "tflite")
# A ratio that is missed by less, for whole blocks and a weight that each kernel keeps, is met.
_NEAR = 0.01
# How often an epoch weights are chosen anew; saliencies that run the model are slow.
_UPDATES = {"magnitude": 10, "lamp": 10}


@dataclass(frozen=True)
class Config:
    """What becomes zero. Only kernels do: biases and normalizations never.

    Args:
        ratio: Fraction of the weights of all kernels together.
        threshold: Takes the place of `ratio`: weights go that score less than so many times
            the root mean square of their kernel, or with scope "global" of all kernels. With
            saliency "magnitude" and scope "layer" that is about the kernel's standard deviation.
        scope: "layer" takes `ratio` of every kernel; "global" takes it of all, the least
            salient first.
        saliency: What makes a weight matter, one of `saliency.SALIENCIES`. Between layers,
            "magnitude" compares plain absolute weights. "obs" also fits the weights that stay to
            the outputs of their layer, if all go at once.
        pattern: "none"; "N:M" keeps N of each M inputs of an output and takes the place of
            `ratio`; "AxB" takes whole blocks of A inputs and B outputs.
        epochs: Epochs of training over which the weights go, by the cubic schedule; 0 takes them
            at once. Fine-tuning follows in any case, if there are data.
        dense_ends: Whether the first and the last kernel keep all weights.
        measure: Whether files are written to see what the zeros buy.
    """

    ratio: Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")] = 0.8
    threshold: Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | None,
        Field(description="a number >= 0"),
    ] = None
    scope: Annotated[Literal["layer", "global"], Field(description="layer or global")] = "global"
    saliency: Annotated[
        Literal["magnitude", "lamp", "obd", "fisher", "obs"],
        Field(description="magnitude, lamp, obd, fisher or obs"),
    ] = "lamp"
    pattern: Annotated[
        str,
        Field(
            pattern=r"^(none|[1-9]\d{0,3}[:x][1-9]\d{0,3})$",
            description="none, N:M such as 2:4, or blocks of inputs x outputs such as 1x4",
        ),
    ] = "none"
    epochs: Annotated[int, Field(ge=0, description="an integer >= 0")] = 0
    dense_ends: Annotated[bool, Field(description="true or false")] = False
    measure: Annotated[bool, Field(description="true or false")] = True


def apply(model: keras.Model, config: Config, data: PassData | None = None) -> Result:
    """Makes the least salient weights of the kernels zero.

    Args:
        model: Functional or sequential model. It is not changed.
        config: What becomes zero.
        data: Pictures for "obd" and "obs", their labels too for "fisher", and what trains a
            model, for gradual pruning. Without those it may be None.

    Returns:
        A model of the same layers and shapes, and the invariant that zeros stay zero.

    Raises:
        UsageError: If `model` has no layer graph or cannot be rebuilt from its config, or the
            saliency lacks data.

    Reference:
        Han et al. 2015, https://arxiv.org/abs/1506.02626; Zhu & Gupta 2017,
        https://arxiv.org/abs/1710.01878. Differs: by default weights of different layers are
        compared by their LAMP score (Lee et al. 2021).
    """
    from export.pruning import kernels as kernels_of
    from export.pruning import masks
    from export.pruning import surgeon
    from export.pruning.saliency import SALIENCIES

    small = kernels_of.copied(model)
    chosen, protected = kernels_of.kernels(small)
    if config.dense_ends:
        protected += [f"{kernel.path}: an end stays dense" for kernel in _ends(chosen)]
        chosen = chosen[1:-1]
    pattern = masks.pattern(config.pattern)
    if isinstance(pattern, masks.NM) and pattern.n > pattern.m:
        raise UsageError("N of an N:M pattern is more than M", received=config.pattern)

    def scores() -> list[np.ndarray]:
        found = SALIENCIES[config.saliency](small, chosen, data)
        return [k.matrix(s) for k, s in zip(chosen, found, strict=True)]

    def select(scores: list[np.ndarray], fractions: np.ndarray) -> list[np.ndarray]:
        kept = masks.select(scores, fractions, scope=config.scope, pattern=pattern)
        return [k.shaped(m) for k, m in zip(chosen, kept, strict=True)]

    notes = []
    train = data.train if config.epochs and data is not None and data.x is not None else None
    if config.epochs and not train:
        notes.append("without data the weights went at once, not in epochs")
    if chosen:
        first = scores()
        nonzero = [k.matrix((k.value() != 0).astype(np.float32)) for k in chosen]
        begin, end = _fractions(nonzero, first, config, pattern)
        if train:
            gradual = masks.Gradual(
                chosen,
                lambda part: select(scores(), begin + part * (end - begin)),
                _UPDATES.get(config.saliency, 1),
            )
            train(small, epochs=config.epochs, callbacks=[gradual], keep_best=False, patience=None)
        elif config.saliency == "obs" and data is not None and data.x is not None:
            surgeon.compensate(small, chosen, select(first, end), data.x)
        else:
            masks.Masks(chosen, select(first, end)).press()
    else:
        notes.append("nothing could be pruned: no layer has a kernel that may go")
    kept = {kernel.path: kernel.value() != 0 for kernel in chosen}
    size, left = sum(k.size for k in kept.values()), sum(int(k.sum()) for k in kept.values())
    summary: dict[str, Any] = {
        "weights": size,
        "nonzeros": left,
        "ratio": 1 - left / size if size else 0.0,
        "kernels": {path: [k.size, int(k.sum())] for path, k in kept.items()},
    }
    notes.append(f"weights made zero: {summary['ratio']:.1%} ({left:,} of {size:,} are left)")
    if config.measure:
        summary["files"], told = _files(model, small)
        notes += told
    return Result(
        model=small,
        summary=summary,
        protected=protected,
        notes=notes,
        missed=_missed(summary["ratio"], config),
        invariants=invariants(small, config),
    )


def invariants(model: keras.Model, config: Config) -> list[Invariant]:
    """Returns what a model that went through this pass must keep: its zeros."""
    from export.pruning import kernels as kernels_of
    from export.pruning import masks

    chosen = kernels_of.kernels(model)[0]
    if config.dense_ends:
        chosen = chosen[1:-1]
    kept = {kernel.path: kernel.value() != 0 for kernel in chosen}
    return [masks.Zeros(kept, masks.pattern(config.pattern))] if kept else []


def _missed(reached: float, config: Config) -> str:
    """Returns how far from its ratio a model is that has too few weights to part with."""
    if config.threshold is not None or ":" in config.pattern or reached > config.ratio - _NEAR:
        return ""
    return f"{config.ratio:.1%} of the kernels' weights zero: {reached:.1%} at most"


def _ends(chosen: Sequence[Kernel]) -> list[Kernel]:
    return [*chosen[:1], *chosen[1:][-1:]]


def _fractions(
    nonzero: Sequence[np.ndarray], scores: Sequence[np.ndarray], config: Config, pattern: Pattern
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each kernel, the fraction of its units that is gone now, and in the end."""
    units = [pattern.units(np.asarray(s, np.float64)) for s in scores]
    sizes = [u.size for u in units]
    begin = np.array([(pattern.units(m) == 0).mean() for m in nonzero])
    end = np.full(len(units), config.ratio)
    if ":" in config.pattern:
        end = np.array([np.isfinite(u).mean() for u in units])
    elif config.threshold is not None:
        squares = np.array([np.square(u).mean() for u in units])
        if config.scope == "global":
            squares[:] = np.average(squares, weights=sizes)
        limits = config.threshold * np.sqrt(squares)
        end = np.array([(u < limit).mean() for u, limit in zip(units, limits, strict=True)])
    if config.scope == "global":
        begin, end = (np.full(len(units), np.average(f, weights=sizes)) for f in (begin, end))
    return begin, np.maximum(begin, end)


def _files(before: keras.Model, after: keras.Model) -> tuple[dict[str, Any], list[str]]:
    """Returns the bytes of both models' files by format, and what they mean."""
    measured = {}
    notes = []
    news = _sizes(after, _FILES)
    olds = _sizes(before, [kind for kind in _FILES if not isinstance(news[kind], str)])
    for kind, new in news.items():
        old = olds.get(kind, new)
        if isinstance(old, str) or isinstance(new, str):
            notes.append(f"{kind}: not measured: {old}")
            continue
        measured[kind] = {
            "bytes_before": old[0],
            "bytes_after": new[0],
            "zip_bytes_before": old[1],
            "zip_bytes_after": new[1],
        }
        notes.append(
            f"{kind}: {old[1]:,} to {new[1]:,} bytes when zipped; plain {old[0]:,} to {new[0]:,}"
        )
    notes.append(
        "zeros make compressed files smaller (downloads, app packages), and in int8 what Ethos-U "
        "reads; kernels stay dense arrays, so memory and latency on x86 do not change"
    )
    return measured, notes


def _sizes(model: keras.Model, kinds: Sequence[str]) -> dict[str, tuple[int, int] | str]:
    """Returns plain and zipped bytes by format, or why there is no file."""
    from cnnkit.models.saving import save_model
    from cnnkit.training.recipe import Recipe
    from export import ledger
    from export.convert import convert
    from export.subject import Subject

    found: dict[str, tuple[int, int] | str] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for kind in kinds:
            try:
                if kind == "keras":
                    found[kind] = ledger.sizes(save_model(model, folder / "model.keras"))
                else:
                    subject = Subject("model", model, None, Recipe(), None)
                    done = convert(subject, [kind], folder)[0]
                    found[kind] = done.error or ledger.sizes(done.path)
            except CnnkitError as error:
                found[kind] = str(error)
    return found
