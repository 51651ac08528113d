"""`tune`: searches recipes with Optuna, for accuracy or for accuracy and size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit import registry
from cnnkit.analysis import macs
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.training.keeper import judged_by
from cnnkit.training.recipe import Resolved
from cnnkit.training.recipe import changed
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import to_dict
from cnnkit.training.recipe import to_toml
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import Run
from cnnkit.training.train import check
from cnnkit.training.train import train

STUDY = "study.db"
# Of a trial in the study: by what its epochs were ranked.
_JUDGED_BY = "judged_by"
BEST = "best.toml"
# What is searched unless the user says it: from..to for numbers on a logarithmic scale, or values.
SPACE = {
    "train.lr": "3e-4..3e-2",
    "train.weight_decay": "1e-3..1e-1",
    "loss.label_smoothing": "0.0,0.1",
    "augment.preset": "none,light,medium",
}
# Name -> how it is had from a finished run, and whether more is better.
OBJECTIVES: dict[str, tuple[Callable[[Run], float], bool]] = {
    "score": (lambda run: run.best[judged_by(run.best)], True),
    "val_accuracy": (lambda run: run.best.get("val_accuracy", run.best["accuracy"]), True),
    "size": (lambda run: 4.0 * macs.params(run.model()), False),
    "macs": (lambda run: float(macs.total(run.model())), False),
    "seconds": (lambda run: sum(row["seconds"] for row in run.metrics), False),
}


@dataclass(frozen=True)
class Trial:
    """One recipe that was tried, none of the others being better in every objective.

    Attributes:
        number: In the study.
        settings: By recipe key, its value.
        values: By objective, what it came to; `score` has the name of what it was.
    """

    number: int
    settings: dict[str, Any]
    values: dict[str, float]


def tune(
    recipe: Resolved,
    out: str | Path,
    *,
    trials: int = 40,
    objectives: Sequence[str] = ("score",),
    space: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> list[Trial]:
    """Trains one recipe after the other, each chosen by what the ones before came to.

    The trials are kept in `study.db`: the same call again goes on where it ended, up to `trials`
    in all. The best recipe is written to `best.toml`; with several objectives, it is the one
    of the Pareto set that is best in the first.

    Args:
        recipe: Every choice that is not searched.
        out: Folder of the study.
        trials: Of the study, at least 1.
        objectives: Of `OBJECTIVES`. `score` is that by which a training chooses its best epoch: of
            uneven classes the macro-F1, else the accuracy; `val_accuracy` is the accuracy of that
            epoch; `size` are the bytes of the weights in float32.
        space: By recipe key, "low..high" on a logarithmic scale, or values with commas between;
            None is `SPACE`.
        reporter: Told about every trial.

    Returns:
        The Pareto set, the best in the first objective first.

    Raises:
        UsageError: If Optuna is not installed, or an objective, a key or a range is wrong.

    Reference:
        Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework",
        https://arxiv.org/abs/1907.10902. Differs: nothing.
    """
    optuna = _optuna()
    out, reporter = Path(out), reporter or Reporter()
    for name in objectives:
        registry.known("objective", name, OBJECTIVES)
    searched = {key: _range(key, text) for key, text in (space or SPACE).items()}
    known = flat(to_dict(recipe.recipe))
    for key in searched:
        registry.known("recipe key", key, known)
    files.require_free(out, STUDY, overwrite=True)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{(out / STUDY).resolve()}",
        study_name="cnnkit",
        directions=["maximize" if OBJECTIVES[name][1] else "minimize" for name in objectives],
        sampler=optuna.samplers.TPESampler(seed=recipe.recipe.train.seed),
        load_if_exists=True,
    )
    manifest = check(recipe.recipe, reporter)

    def objective(trial: Any) -> list[float]:
        settings = {key: suggest(trial) for key, suggest in searched.items()}
        told = ", ".join(f"{key}={_short(value)}" for key, value in settings.items())
        reporter.step(f"trial {trial.number + 1} of {trials}: {told}")
        run = train(manifest, changed(recipe.recipe, settings), out / "run", overwrite=True)
        trial.set_user_attr(_JUDGED_BY, judged_by(run.best))
        values = [OBJECTIVES[name][0](run) for name in objectives]
        told = ", ".join(f"{k} {v:.4g}" for k, v in _named(trial, objectives, values).items())
        reporter.note(told)
        return values

    done = sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(objective, n_trials=max(0, trials - done), catch=(DivergedError,))
    files.remove(out / "run")
    best = [
        Trial(t.number, dict(t.params), _named(t, objectives, t.values)) for t in study.best_trials
    ]
    if not best:
        raise UsageError("Every trial diverged", where=out, todo="search lower rates: train.lr")
    more = OBJECTIVES[objectives[0]][1]
    best.sort(key=lambda trial: next(iter(trial.values.values())), reverse=more)
    files.write_text(out / BEST, to_toml(changed(recipe.recipe, best[0].settings).recipe))
    return best


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "Tuning needs the package optuna", todo="`pip install 'cnnkit[tune]'`"
        ) from None
    return optuna


def _range(key: str, text: str) -> Callable[[Any], Any]:
    """Returns what draws a value of a key for a trial."""
    if between := re.fullmatch(r"([^,]+)\.\.([^,]+)", text.strip()):
        try:
            low, high = map(float, between.groups())
        except ValueError:
            low = high = 0.0
        if not 0 < low < high < float("inf"):
            raise UsageError(
                "Wrong range to search",
                where=key,
                expected="low..high with 0 < low < high, or values with commas between",
                received=text,
            )
        return lambda trial: trial.suggest_float(key, low, high, log=True)
    values = [_value(part.strip()) for part in text.split(",") if part.strip()]
    if len(values) < 2:
        raise UsageError("Nothing to choose from", where=key, expected="low..high, or two values")
    return lambda trial: trial.suggest_categorical(key, values)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _named(trial: Any, objectives: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Returns the values of a trial by what they are."""
    names = [
        trial.user_attrs.get(_JUDGED_BY, name) if name == "score" else name for name in objectives
    ]
    return dict(zip(names, values, strict=True))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
