"""Pass `low-rank`: dense layers and convolutions become chains of smaller ones."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import Literal
from typing import NamedTuple
from typing import TypeAlias

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnnkit import registry
from cnnkit.errors import UsageError
from export.low_rank.channel import Channel
from export.low_rank.cp import Cp
from export.low_rank.method import Choice
from export.low_rank.method import Factors
from export.low_rank.method import Method
from export.low_rank.method import Ranks
from export.low_rank.spatial import Spatial
from export.low_rank.svd import Svd
from export.low_rank.tucker import Tucker
from export.pruning.recalibration import recalibrate
from export.result import Result
from export.result import change

if TYPE_CHECKING:
    import keras

    from export.graph import Graph
    from export.pipeline import PassData

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Svd, Spatial, Channel, Tucker, Cp)
}
# CP takes minutes on large kernels, and its error is known only after the fit.
_AUTO = ("svd", "spatial", "channel", "tucker")
_HALVINGS = 60


@dataclass(frozen=True)
class Config:
    """How to decompose. At most one of `rank`, `energy` and `macs` is given; else `macs` is 0.5.

    Args:
        method: "svd" for dense layers and 1x1 convolutions, one of the others for larger kernels,
            where "svd" does nothing; with another one, layers of the first kind still get "svd".
            "auto" takes for each layer what serves best of all but "cp".
        rank: The same rank for every layer, at most the layer's own.
        energy: Fraction of the sum of squares of every kernel to keep, at the least cost.
        macs: Fraction of the MACs of the whole model that goes. Ranks are chosen such that the
            product of the energies kept is as large as it can be.
        min_saving: A layer that would not lose this fraction of its MACs is left alone.
    """

    method: Annotated[
        Literal["auto", "svd", "spatial", "channel", "tucker", "cp"],
        Field(description="auto, svd, spatial, channel, tucker or cp"),
    ] = "auto"
    rank: Annotated[int | None, Field(ge=1, description="an integer >= 1")] = None
    energy: Annotated[float | None, Field(gt=0, le=1, description="a number in (0, 1]")] = None
    macs: Annotated[float | None, Field(ge=0, lt=1, description="a number in [0, 1)")] = None
    min_saving: Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")] = 0.1

    def __post_init__(self) -> None:
        given = [key for key in ("rank", "energy", "macs") if getattr(self, key) is not None]
        if len(given) > 1:
            raise UsageError(
                "Several rules for the ranks of pass 'low-rank'",
                expected="one of rank, energy and macs",
                received=" and ".join(given),
            )


def apply(model: keras.Model, config: Config, data: PassData | None = None) -> Result:
    """Decomposes every layer that gets cheaper by it.

    Args:
        model: Functional or sequential model. It is not changed.
        config: How to decompose.
        data: Pictures from which batch normalizations get new statistics. It may be None.

    Raises:
        UsageError: If `model` has no layer graph, a tensor of unknown size, or cannot be rebuilt
            from its config.

    Reference:
        Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and
        Detection", section 2.4 (ranks of a whole model under a target of cost),
        https://arxiv.org/abs/1505.06798. Differs: solved with a Lagrange multiplier, where the
        paper goes greedily.
    """
    from cnnkit.analysis import macs
    from export.graph import Graph

    graph = Graph(model)
    protected: dict[str, str] = {}
    names = _AUTO if config.method == "auto" else ("svd", config.method)
    methods = _methods(graph, names, protected)
    goal = 0.5 if config.macs is None else config.macs
    if config.rank is not None:
        plans = _by_rank(methods, config, protected)
    elif config.energy is not None:
        offers = _offers(methods, config, protected)
        plans = _plans(methods, {path: choices[0] for path, choices in offers.items()})
    else:
        offers = _offers(methods, config, protected)
        plans = _plans(methods, _by_macs(offers, methods, goal * macs.total(model), protected))
    result = _result(graph, plans, protected)
    if plans and data is not None and data.x is not None:
        recalibrate(result.model, data.x)
    reached = result.summary["macs_ratio"]
    if config.rank is not None or config.energy is not None or reached >= goal - 1e-9:
        return result
    return replace(
        result,
        missed=f"{goal:.1%} of the MACs should go, {reached:.1%} could, "
        f"with min_saving={config.min_saving}",
    )


def decompose(model: keras.Model, layers: Mapping[str, tuple[str, Ranks]]) -> Result:
    """Decomposes the given layers, whether they gain or not.

    Args:
        model: Functional or sequential model. It is not changed.
        layers: By path of a layer (`outer/inner` in a nested model), one of `METHODS` and its
            rank: one number, for "tucker" two, of inputs and of outputs.

    Raises:
        UsageError: If a layer does not exist, must stay, or does not suit the method or the ranks.
    """
    from export.graph import Graph

    graph = Graph(model)
    protected: dict[str, str] = {}
    methods = _methods(graph, METHODS, protected)
    plans = {}
    for path, (name, ranks) in layers.items():
        if path not in methods:
            reason = protected.get(path, "there is none of that name, or it has no kernel")
            raise UsageError("The layer cannot be decomposed", where=path, received=reason)
        method = methods[path][registry.known(f"method for layer {path!r}", name, methods[path])]
        if len(ranks) != len(method.full) or not all(
            1 <= rank <= most for rank, most in zip(ranks, method.full, strict=True)
        ):
            raise UsageError(
                f"Wrong ranks of method {name!r}",
                where=path,
                expected=" and ".join(f"1 to {most}" for most in method.full),
                received=ranks,
            )
        plans[path] = _Plan(method, ranks, method.factors(*ranks))
    return _result(graph, plans, protected)


class _Plan(NamedTuple):
    """What one layer becomes."""

    method: Method
    ranks: Ranks
    factors: Factors


_Methods: TypeAlias = Mapping[str, Mapping[str, Method]]
_Offers: TypeAlias = Mapping[str, Sequence[Choice]]


def _methods(
    graph: Graph, names: Iterable[str], protected: dict[str, str]
) -> dict[str, dict[str, Method]]:
    """Returns by path of a layer the methods of `names` that suit it; says why others have none."""
    from cnnkit.analysis import macs

    costs = {row.name: row for row in macs.table(graph.model)}
    calls = Counter(path for path, *_ in graph.outputs)
    found: dict[str, dict[str, Method]] = {}
    for path, site in graph.sites.items():
        # Input layers of nested models are no calls.
        if path not in costs or not costs[path].macs or not getattr(site.layer, "weights", None):
            continue
        if reason := _refusal(site.layer, calls[path]):
            protected[path] = reason
            continue
        pointwise = getattr(site.layer, "kernel_size", (1, 1)) == (1, 1)
        suited = [METHODS[name] for name in names if METHODS[name].pointwise == pointwise]
        if suited:
            found[path] = {kind.name: kind(site.layer, costs[path]) for kind in suited}
        else:
            protected[path] = "its kernel is larger than 1x1, which svd is not for"
    return found


def _refusal(layer: Any, calls: int) -> str:
    import keras

    if calls > 1:
        return "it is shared"
    # A subclass may compute something else.
    if type(layer) not in (keras.layers.Conv2D, keras.layers.Dense):
        return f"a {type(layer).__name__} is left as it is"
    if getattr(layer, "groups", 1) > 1:
        return "it has groups"
    if layer.lora_enabled or layer.quantization_mode:
        return "its weights are quantized or have LoRA factors"
    return ""


def _by_rank(methods: _Methods, config: Config, protected: dict[str, str]) -> dict[str, _Plan]:
    """Returns for each layer the method that has the least error at a rank, of those that gain."""
    plans = {}
    for path, some in methods.items():
        tried = []
        for method in some.values():
            ranks = tuple(min(config.rank or 1, most) for most in method.full)
            if _gains(method.macs(*ranks), method, config):
                tried.append(_Plan(method, ranks, method.factors(*ranks)))
        if tried:
            plans[path] = min(tried, key=lambda plan: plan.method.error(plan.factors))
        else:
            protected[path] = (
                f"rank {config.rank} saves less than {config.min_saving:.0%} of its MACs"
            )
    return plans


def _gains(macs: int, method: Method, config: Config) -> bool:
    return macs < method.cost.macs and macs <= (1 - config.min_saving) * method.cost.macs


def _offers(methods: _Methods, config: Config, protected: dict[str, str]) -> _Offers:
    """Returns for each layer the choices that gain, keep the energy, and no cheaper one beats."""
    least, offers = config.energy or 0.0, {}
    for path, some in methods.items():
        choices = [
            (choice.macs, -choice.kept, choice)
            for method in some.values()
            for choice in method.choices()
            if choice.kept >= least - 1e-9 and _gains(choice.macs, method, config)
        ]
        best: list[Choice] = []
        for *_, choice in sorted(choices, key=lambda c: c[:2]):
            if not best or choice.kept > best[-1].kept:
                best.append(choice)
        if best:
            offers[path] = best
        else:
            energy = f" that keeps {least:.1%} of its energy" if least else ""
            protected[path] = f"no rank{energy} saves {config.min_saving:.0%} of its MACs"
    return offers


def _plans(methods: _Methods, chosen: Mapping[str, Choice]) -> dict[str, _Plan]:
    plans = {}
    for path, choice in chosen.items():
        method = methods[path][choice.method]
        plans[path] = _Plan(method, choice.ranks, method.factors(*choice.ranks))
    return plans


def _by_macs(
    offers: _Offers, methods: _Methods, spared: float, protected: dict[str, str]
) -> dict[str, Choice]:
    """Returns the choices that spare so many MACs and lose the least, or the cheapest ones."""
    costs, losses = [], []
    for path, choices in offers.items():
        before = next(iter(methods[path].values())).cost.macs
        # The last one is to leave the layer alone.
        costs.append(np.array([*(c.macs for c in choices), before], float))
        losses.append(np.array([*(-np.log(max(c.kept, 1e-12)) for c in choices), 0.0]))
    picks = _allot(costs, losses, sum(cost[-1] for cost in costs) - spared)
    chosen = {}
    for (path, choices), pick in zip(offers.items(), picks, strict=True):
        if pick < len(choices):
            chosen[path] = choices[pick]
        else:
            protected[path] = "the target is met without it"
    return chosen


def _allot(costs: list[np.ndarray], losses: list[np.ndarray], budget: float) -> list[int]:
    """Returns one number of each list such that the costs are in the budget, the losses least.

    Args:
        costs: Rising.
        losses: Falling.
        budget: Limit of the sum of the costs; if it cannot be met, the cheapest are taken.
    """

    def pick(exponent: float) -> list[int]:
        price = 10.0**exponent
        return [int(np.argmin(b + price * a)) for a, b in zip(costs, losses, strict=True)]

    def spent(picks: list[int]) -> float:
        return sum(a[i] for a, i in zip(costs, picks, strict=True))

    low, high = -20.0, 5.0  # Loss for one MAC.
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if spent(pick(middle)) > budget:
            low = middle
        else:
            high = middle
    picks = pick(high)
    # One price for all leaves a rest, that goes where it helps most.
    while True:
        rest = budget - spent(picks)
        better = [bisect.bisect(a, a[i] + rest) - 1 for a, i in zip(costs, picks, strict=True)]
        gains = [b[i] - b[max(i, j)] for b, i, j in zip(losses, picks, better, strict=True)]
        if not gains or max(gains) <= 0:
            return picks
        most = int(np.argmax(gains))
        picks[most] = better[most]


def _result(graph: Graph, plans: Mapping[str, _Plan], protected: Mapping[str, str]) -> Result:
    from cnnkit.analysis import macs
    from export.graph import chains

    model, parts = chains.replace(graph, {p: x.method.links(x.factors) for p, x in plans.items()})
    before, after = macs.table(graph.model), macs.table(model)
    new = {row.name: row for row in after}
    layers = {}
    for path, plan in plans.items():
        rows = [new[part] for part in parts[path]]
        cost = plan.method.cost
        layers[path] = {
            "method": plan.method.name,
            "ranks": list(plan.ranks),
            "error": plan.method.error(plan.factors),
            "parts": parts[path],
            **change("macs", cost.macs, sum(row.macs for row in rows)),
            **change("params", cost.params, sum(row.params for row in rows)),
        }
    summary: dict[str, Any] = {
        **change("params", graph.model.count_params(), model.count_params()),
        **change("macs", sum(row.macs for row in before), sum(row.macs for row in after)),
        "layers": layers,
    }
    notes = [
        f"{kind} removed: {summary[f'{key}_ratio']:.1%} "
        f"({summary[f'{key}_before']:,} to {summary[f'{key}_after']:,})"
        for key, kind in (("params", "parameters"), ("macs", "MACs"))
    ]
    notes += [
        f"{path}: {row['method']} of rank {' x '.join(map(str, row['ranks']))}, relative error "
        f"{row['error']:.3f}, {row['macs_ratio']:.1%} of its MACs removed"
        for path, row in layers.items()
    ]
    if not layers:
        notes.append("nothing is decomposed: no layer gains by it")
    return Result(
        model=model,
        summary=summary,
        protected=[f"{path}: {reason}" for path, reason in protected.items()],
        notes=notes,
    )
