"""Trainings that leave several networks, to be combined by `cnnkit.ensembles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import cast

from cnnkit.ensembles import Snapshots
from cnnkit.ensembles import Subset
from cnnkit.ensembles import balanced_subsets
from cnnkit.training.fit import fit

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset


def snapshot_ensemble(
    model: keras.Model,
    dataset: Dataset,
    *,
    epochs: int,
    cycles: int = 5,
    keep: int = 3,
    **options: Any,
) -> list[keras.Model]:
    """Returns the last `keep` of `cycles` snapshots of one training, the earliest first.

    The rate falls to zero along half a cosine `cycles` times, and begins again at its highest.

    Args:
        model: Functional classifier of raw pixels, which is trained in place.
        dataset: Its splits `train` and `val` are used.
        epochs: Of all cycles together.
        cycles: M of the paper.
        keep: m of the paper.
        **options: As `fit` takes them; the rate begins at 0.1, of Nesterov's SGD, unless they say
            otherwise. Schedule, warm-up and running average of the weights are not theirs to say.

    Raises:
        ValueError: If more are to be kept than there are cycles.
        DivergedError: As `fit` raises it.

    Reference:
        Huang et al. 2017, "Snapshot Ensembles: Train 1, get M for free", section 3, and Wei 2017,
        eq. 13.1, https://arxiv.org/abs/1704.00109. Differs: nothing.
    """
    # A running average would mix the cycles.
    cyclic = {"schedule": f"cyclic:cycles={cycles}", "warmup_epochs": 0, "ema": 0.0}
    settings = {"epochs": epochs, "optimizer": "sgd", "lr": 0.1, **options, **cyclic}
    return _fit(model, dataset, Snapshots(model, keep, cycles), settings)


def epoch_fusion(
    model: keras.Model, dataset: Dataset, *, epochs: int, keep: int = 3, **options: Any
) -> list[keras.Model]:
    """Returns the networks of the last `keep` epochs of one training, the earliest first.

    Args:
        model: Functional classifier of raw pixels, which is trained in place.
        dataset: Its splits `train` and `val` are used.
        epochs: Of the training.
        keep: How many members there are, at most.
        **options: As `fit` takes them.

    Raises:
        DivergedError: As `fit` raises it.

    Reference:
        Zhang et al. 2016, "Deep Bimodal Regression for Apparent Personality Analysis", and Wei
        2017, section 13.2.2. Differs: nothing.
    """
    return _fit(model, dataset, Snapshots(model, keep), {"epochs": epochs, **options})


def easy_ensemble(
    build: Callable[[int], keras.Model],
    dataset: Dataset,
    *,
    epochs: int,
    count: int = 5,
    seed: int = 0,
    **options: Any,
) -> list[keras.Model]:
    """Returns `count` networks, each trained on a balanced subset of unbalanced pictures.

    Args:
        build: From a seed to a fresh functional classifier of raw pixels.
        dataset: Its splits `train` and `val` are used; only the first is made balanced.
        epochs: Of each training.
        count: T of the paper.
        seed: Of the subsets; the networks have this one and those that follow.
        **options: As `fit` takes them.

    Raises:
        DivergedError: As `fit` raises it.

    Reference:
        Liu, Wu, Zhou 2009, "Exploratory Undersampling for Class-Imbalance Learning", and Wei
        2017, section 13.1.2, https://doi.org/10.1109/TSMCB.2008.2007853. Differs: as
        `cnnkit.ensembles.balanced_subsets` tells.
    """
    members = []
    subsets = balanced_subsets(dataset.arrays("train")[1], count, seed)
    for number, chosen in enumerate(subsets, seed):
        model = build(number)
        subset = cast("Dataset", Subset(dataset, chosen))
        fit(model, subset, epochs=epochs, seed=number, **options)
        members.append(model)
    return members


def _fit(
    model: keras.Model, dataset: Dataset, snapshots: Snapshots, settings: dict[str, Any]
) -> list[keras.Model]:
    """Trains to the last epoch, and returns what was kept on the way."""
    callbacks = [*settings.pop("callbacks", ()), snapshots]
    fit(model, dataset, callbacks=callbacks, keep_best=False, **settings)
    return snapshots.models()
