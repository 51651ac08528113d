"""Pass `prune-filters`: removes whole channels, so that the model really shrinks."""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnnkit.errors import UsageError
from export.pruning import group_lasso
from export.pruning import importance
from export.pruning.recalibration import recalibrate
from export.result import Result
from export.result import change

if TYPE_CHECKING:
    import keras

    from export.graph import Graph
    from export.pipeline import PassData

# Key in the summary -> what it counts.
_COUNTED = {"channels": "channels", "params": "parameters", "macs": "MACs"}
# Steps of the search for a target: the ratio is then known to 1/1024.
_HALVINGS = 10


@dataclass(frozen=True)
class Config:
    """What to remove.

    Args:
        ratio: Fraction that goes.
        of: What `ratio` is a fraction of. "channels": the parameters and MACs of a convolution
            between two pruned ones then shrink by more, 1 - (1 - ratio)². "params" and "macs":
            of the whole model; as few channels go as meet it.
        criterion: What makes a channel important, one of `importance.CRITERIA`. "group-lasso"
            first trains the model with a penalty that makes unimportant channels small.
        scope: "layer" takes `ratio` of every group of channels; "global" takes `ratio` of all
            that may go, the least important first, each group's importances divided by their mean.
        round_to: Widths become multiples of it, rounded up.
        min_width: No group gets narrower.
        steps: The cut is made in so many equal parts, with recovery in between, after which the
            importances are measured anew.
        strength: Of the penalty of criterion "group-lasso"; see `cnnkit.regularizers.GroupLasso`.
        widths: How many channels some layers keep, such as "conv1:4+fc1:10". This takes the place
            of `ratio`, `of`, `scope`, `round_to` and `min_width`: the other layers stay.
        recalibrate: Whether batch normalizations get the statistics that the data have in the
            smaller model. Without it, fine-tuning starts from those of the larger one.
    """

    ratio: Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")] = 0.3
    of: Annotated[
        Literal["channels", "params", "macs"], Field(description="channels, params or macs")
    ] = "channels"
    criterion: Annotated[
        Literal["l1", "l2", "bn-gamma", "apoz", "taylor", "obd", "group-lasso", "random"],
        Field(description="l1, l2, bn-gamma, apoz, taylor, obd, group-lasso or random"),
    ] = "l1"
    scope: Annotated[Literal["layer", "global"], Field(description="layer or global")] = "layer"
    round_to: Annotated[int, Field(ge=1, description="an integer >= 1")] = 1
    min_width: Annotated[int, Field(ge=1, description="an integer >= 1")] = 1
    steps: Annotated[int, Field(ge=1, description="an integer >= 1")] = 1
    strength: Annotated[float, Field(gt=0, description="a number > 0")] = 1e-4
    widths: Annotated[
        str,
        Field(pattern=r"^([^+:]+:[1-9]\d*(\+[^+:]+:[1-9]\d*)*)?$", description="LAYER:WIDTH+…"),
    ] = ""
    recalibrate: Annotated[bool, Field(description="true or false")] = True


def apply(model: keras.Model, config: Config, data: PassData | None = None) -> Result:
    """Removes the least important channels of every group that may be cut.

    Args:
        model: Functional or sequential model. It is not changed.
        config: What to remove.
        data: Pictures for recalibration, "apoz" and "obd", their labels for "taylor", and what
            trains a model for "group-lasso" or recovers it if there are several steps. Without
            those it may be None.

    Raises:
        UsageError: If `model` has no layer graph or cannot be rebuilt from its config, or the
            criterion or the steps lack data.
    """
    from export.graph import Graph

    if data is None and config.steps > 1:
        raise UsageError("Pruning in several steps recovers in between, which needs data")
    graph, small = Graph(model), model
    choose = _narrowed if config.widths else _chosen if config.of == "channels" else _enough
    share = replace(config, ratio=1 - (1 - config.ratio) ** (1 / config.steps))
    kept: dict[str, list[int]] = {}
    disturbed: set[str] = set()
    for step in range(config.steps):
        if config.criterion == "group-lasso":
            small = group_lasso.trained(small, data, config.strength)
        elif step and data is not None:
            small = data.recover(small)
        now = graph if small is model else Graph(small)
        score = importance.CRITERIA[config.criterion](now, data)
        removed = choose(now, score, replace(share, steps=config.steps - step))
        small = now.rebuild(removed)
        if removed and config.recalibrate and data is not None and data.x is not None:
            recalibrate(small, data.x)
        for path, numbers in now.kept(removed).items():
            kept[path] = [kept[path][i] for i in numbers] if path in kept else numbers
        disturbed.update(now.disturbed(removed))
    result = _result(graph, small, kept, disturbed)
    reached = result.summary[f"{config.of}_ratio"]
    if config.widths or config.of == "channels" or reached >= config.ratio - 1e-6:
        return result
    return replace(
        result,
        missed=f"{config.ratio:.1%} of the {_COUNTED[config.of]} should go, {reached:.1%} could, "
        f"with min_width={config.min_width} and round_to={config.round_to}",
    )


def remove(model: keras.Model, channels: Mapping[str, Iterable[int]]) -> Result:
    """Removes the given output channels of the given layers, and all that go with them.

    Args:
        model: Functional or sequential model. It is not changed.
        channels: By path of a layer (`outer/inner` in a nested model), numbers of its channels.

    Raises:
        UsageError: If a channel does not exist or must stay, or a layer would lose all.
    """
    from export.graph import Graph

    graph = Graph(model)
    chosen = [graph.units(path, numbers) for path, numbers in channels.items()]
    units = {int(unit) for some in chosen for unit in some}
    return _result(graph, graph.rebuild(units), graph.kept(units), graph.disturbed(units))


def _chosen(graph: Graph, score: np.ndarray, config: Config) -> list[int]:
    """Returns the units that go, the least important of each group."""
    ranked = [group.units[np.argsort(score[group.units], kind="stable")] for group in graph.groups]
    wanted = _wanted(graph, score, ranked, config)
    return [
        int(unit)
        for units, count in zip(ranked, wanted, strict=True)
        for unit in units[: _allowed(len(units), count, config)]
    ]


def _enough(graph: Graph, score: np.ndarray, config: Config) -> list[int]:
    """Returns the fewest units without which the parameters or MACs meet the target."""
    limit = (1 - config.ratio) * _count(graph.model, config.of)
    low, high = 0.0, 1.0
    best = _chosen(graph, score, replace(config, ratio=0.9999)) if config.ratio else []
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        units = _chosen(graph, score, replace(config, ratio=middle))
        if _count(graph.rebuild(units), config.of) > limit:
            low = middle
        else:
            high, best = middle, units
    return best


def _narrowed(graph: Graph, score: np.ndarray, config: Config) -> list[int]:
    """Returns the units that go in the first of `config.steps` steps towards the widths."""
    made = {filters.path: len(filters.ids) for filters in graph.filters}
    groups = {path: group.units for group in graph.groups for path in group.layers}
    removed: list[int] = []
    for pair in config.widths.split("+"):
        path, _, text = pair.partition(":")
        width, now = int(text), made.get(path, 0)
        if width == now:
            continue
        units = groups.get(path, np.zeros(0, int))
        if len(units) != now or width > now:
            raise UsageError(
                "This layer cannot have that width",
                where=path,
                expected=f"at most {now} channels" if now else f"one of {', '.join(made)}",
                received=text,
                todo=graph.protected.get(path, ""),
            )
        left = round(now * (width / now) ** (1 / config.steps))
        removed += units[np.argsort(score[units], kind="stable")][: now - left].tolist()
    return removed


def _count(model: keras.Model, what: str) -> int:
    from cnnkit.analysis import macs

    return macs.total(model) if what == "macs" else macs.params(model)


def _wanted(graph: Graph, score: np.ndarray, ranked: list[np.ndarray], config: Config) -> list[int]:
    """Returns how many units of each group should go, the groups' limits not yet regarded."""
    if config.scope == "layer" or not ranked:
        return [int(config.ratio * len(units) + 0.5) for units in ranked]
    owner = np.repeat(np.arange(len(ranked)), [len(units) for units in ranked])
    relative = [score[units] / (score[units].mean() or 1.0) for units in ranked]
    for values in relative:
        values[-config.min_width :] = np.inf  # These stay.
    # Equal importances are taken from all groups alike, not from the first one.
    turn = [np.arange(len(units)) / len(units) for units in ranked]
    order = np.lexsort((np.concatenate(turn), np.concatenate(relative)))
    filters = np.cumsum(graph.size[np.concatenate(ranked)[order]])
    gone = owner[order[filters <= config.ratio * filters[-1]]]
    return np.bincount(gone, minlength=len(ranked)).tolist()


def _allowed(width: int, wanted: int, config: Config) -> int:
    left = max(width - wanted, config.min_width)
    left = math.ceil(left / config.round_to) * config.round_to
    return max(width - left, 0) if wanted else 0


def _result(
    graph: Graph, model: keras.Model, kept: dict[str, list[int]], disturbed: Collection[str]
) -> Result:
    widths = {filters.path: len(filters.ids) for filters in graph.filters}
    lost = {path: widths[path] - len(numbers) for path, numbers in kept.items()}
    summary: dict[str, Any] = {
        **change("channels", sum(widths.values()), sum(widths.values()) - sum(lost.values())),
        **change("params", _count(graph.model, "params"), _count(model, "params")),
        **change("macs", _count(graph.model, "macs"), _count(model, "macs")),
        "widths": {path: [widths[path], len(numbers)] for path, numbers in kept.items()},
    }
    notes = [
        f"{kind} removed: {summary[f'{key}_ratio']:.1%} "
        f"({summary[f'{key}_before']:,} to {summary[f'{key}_after']:,})"
        for key, kind in _COUNTED.items()
    ]
    if not graph.groups:
        notes.append("nothing could be pruned: every channel is protected")
    if disturbed:
        notes.append(
            f"{', '.join(sorted(disturbed))} normalize over channels that are now fewer: outputs "
            "change even where the removed channels were zero, so fine-tune"
        )
    return Result(
        model=model,
        summary=summary,
        index_map=kept,
        protected=[f"{path}: {reason}" for path, reason in graph.protected.items()],
        notes=notes,
    )
