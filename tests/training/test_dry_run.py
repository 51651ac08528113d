import numpy as np
import pytest

from cnnkit.data import Manifest
from cnnkit.training import dry_run
from cnnkit.training import imbalance
from cnnkit.training import resolve
from cnnkit.training.train import check
from cnnkit.training.train import chosen
from tests.training.pictures import bars


def opened(tmp_path, counts, *sets):
    path = bars(tmp_path, *counts)
    resolved = resolve(sets=[f"data.path={path}", "guard.dry_run=true", *sets])
    manifest = check(resolved.recipe)
    return manifest, *chosen(manifest, resolved)


def test_few_pictures_of_all_classes(tmp_path):
    manifest, dataset, _ = opened(tmp_path, (6, 200, 200, 4), "train.batch_size=16")
    for split, counts in dataset.manifest.counts().items():
        whole = manifest.counts()[split]
        assert {name for name, n in counts.items() if n} == {name for name, n in whole.items() if n}
        assert 32 <= sum(counts.values()) <= 32 + 2
    saved = Manifest.load(dataset.manifest.save(tmp_path / "few.json"))
    assert set(map(repr, saved.items)) <= set(map(repr, manifest.items))  # with their own labels
    assert dataset.manifest.few("train", 1000) == dataset.manifest.select("train")
    assert [item.label for item in manifest.few("train", 0)] == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["none", "label_shuffling", "over", "weights"])
def test_an_epoch_has_two_batches(tmp_path, method):
    sets = ("train.batch_size=16", f"imbalance.method={method}")
    _, dataset, resolved = opened(tmp_path, (6, 200, 200, 4), *sets)
    choose = imbalance.sampler(resolved.recipe, dataset)
    labels = dataset.labels("train")
    assert [len(choose(epoch)) for epoch in range(2)] == [32, 32]
    assert not np.array_equal(choose(0), choose(1))
    assert set(choose(0)) <= set(range(len(labels)))
    assert imbalance.epoch_length(resolved.recipe, dataset) == 32


def test_what_depends_on_all_pictures_is_as_in_the_run(tmp_path):
    sets = [
        f"data.path={bars(tmp_path, 4000, 4000)}",
        *("train.unfreeze=head_then_all:epochs=5", "train.epochs=20"),
        "compress.finetune_epochs=7",
    ]
    whole, dry = resolve(sets=sets), resolve(sets=[*sets, "guard.dry_run=true"])
    manifest = check(whole.recipe)
    one, other = (chosen(manifest, resolved)[1].recipe for resolved in (whole, dry))
    assert one.train.batch_size == other.train.batch_size == 64
    assert (one.data, one.model, one.augment) == (other.data, other.model, other.augment)
    assert (other.train.epochs, other.train.unfreeze) == (dry_run.EPOCHS, "all")
    assert (other.compress.finetune_epochs, other.export.max_drop) == (dry_run.EPOCHS, 1.0)
    again = dry_run.shortened(resolve(sets=["train.epochs=1", "train.unfreeze=head"])).recipe
    assert (again.train.epochs, again.train.unfreeze) == (1, "head")
    assert again.compress.finetune_epochs is None  # as many as the training
