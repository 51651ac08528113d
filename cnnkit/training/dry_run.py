"""A dry run: all that a run does, on so few pictures that it is soon over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnkit.training import unfreezing

if TYPE_CHECKING:
    from cnnkit.data import Manifest
    from cnnkit.training.recipe import Resolved

BATCHES, EPOCHS = 2, 2
TOLD = (
    f"a dry run, {EPOCHS} epochs of {BATCHES} batches: it shows whether everything works, but the "
    "network has learned nothing, and no accuracy here means anything"
)


def shortened(resolved: Resolved) -> Resolved:
    """Returns a recipe of so many epochs, in which no accuracy is asked for.

    Args:
        resolved: In which nothing is left open that depends on how many pictures there are.
    """
    train, finetune = resolved.recipe.train, resolved.recipe.compress.finetune_epochs
    plan = train.unfreeze
    return resolved.updated(
        "dry run",
        train={
            "epochs": min(train.epochs, EPOCHS),
            # Stages may be longer than the training is now.
            "unfreeze": plan if plan == unfreezing.AUTO else unfreezing.final(plan),
        },
        compress={"finetune_epochs": None if finetune is None else min(finetune, EPOCHS)},
        export={"max_drop": 1.0},
    )


def few(manifest: Manifest, batch_size: int) -> Manifest:
    """Returns the manifest with few pictures of each split, of all classes that it has."""
    n = BATCHES * batch_size
    kept = {item.id for split in manifest.counts() for item in manifest.few(split, n)}
    # In their order, by which the manifest of arrays is written.
    items = [item for item in manifest.items if item.id in kept]
    return manifest.model_copy(update={"items": items})
