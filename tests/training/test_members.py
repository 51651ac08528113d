import keras
import numpy as np
import pytest

from cnnkit.ensembles import Snapshots
from cnnkit.ensembles import Subset
from cnnkit.ensembles import balanced_subsets
from cnnkit.training.fit import fit
from cnnkit.training.members import easy_ensemble
from cnnkit.training.members import epoch_fusion
from cnnkit.training.members import snapshot_ensemble
from tests.ensembles.members import member
from tests.training.pictures import Pictures

TEACHING = {"batch_size": 20, "lr": 0.01}


class Seen(keras.callbacks.Callback):
    """Remembers the weights after each step, and the rate of it."""

    def __init__(self, model):
        super().__init__()
        self.net, self.weights, self.rates = model, [], []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations) - 1
        self.weights.append(self.net.get_weights())
        self.rates.append(float(self.model.optimizer._learning_rate(step)))


def same(a, b):
    return all(map(np.array_equal, a, b))


@pytest.mark.parametrize(("epochs", "cycles"), [(6, 3), (5, 3)])
def test_snapshots_are_taken_where_the_cyclic_rate_ends(epochs, cycles):
    model = member(1)
    seen, snapshots = Seen(model), Snapshots(model, keep=cycles, count=cycles)
    fit(
        model,
        Pictures(),
        epochs=epochs,
        schedule=f"cyclic:cycles={cycles}",
        keep_best=False,
        callbacks=[seen, snapshots],
        **TEACHING,
    )
    found = snapshots.models()
    assert len(found) == cycles
    ends = [k for k in range(len(seen.rates) - 1) if seen.rates[k + 1] > seen.rates[k]]
    for snapshot, step in zip(found, [*ends, len(seen.rates) - 1], strict=True):
        assert same(snapshot.get_weights(), seen.weights[step])


def test_a_snapshot_ensemble_is_the_last_of_one_training():
    model = member(1)
    kept = snapshot_ensemble(model, Pictures(), epochs=4, cycles=4, keep=2, **TEACHING)
    assert len(kept) == 2
    assert same(kept[-1].get_weights(), model.get_weights())
    assert not same(kept[0].get_weights(), kept[1].get_weights())


def test_the_rate_begins_where_the_paper_says():
    model = member(1)
    seen = Seen(model)
    snapshot_ensemble(
        model, Pictures(), epochs=2, cycles=2, keep=1, batch_size=20, callbacks=[seen]
    )
    per_cycle = len(seen.rates) // 2
    expected = 0.05 * (np.cos(np.pi * np.arange(per_cycle) / per_cycle) + 1)
    np.testing.assert_allclose(seen.rates, [*expected, *expected], rtol=1e-5)  # equation 13.1


def test_epoch_fusion_keeps_the_last_epochs():
    model = member(1)
    seen = Seen(model)
    kept = epoch_fusion(model, Pictures(), epochs=4, keep=3, callbacks=[seen], **TEACHING)
    steps = len(seen.weights) // 4
    for number, found in enumerate(kept, 2):
        assert same(found.get_weights(), seen.weights[number * steps - 1])


@pytest.mark.parametrize(("keep", "count"), [(0, 3), (4, 3), (1, 0)])
def test_wrong_numbers_of_snapshots(keep, count):
    with pytest.raises(ValueError, match="of Snapshots"):
        Snapshots(member(1), keep, count)


def test_subsets_are_balanced_by_the_rarest_class():
    y = np.array([0] * 50 + [1] * 7 + [2] * 20)
    subsets = balanced_subsets(y, 20, seed=3)
    for chosen in subsets:
        assert np.bincount(y[chosen]).tolist() == [7, 7, 7]
        assert len(np.unique(chosen)) == 21
    assert len(np.unique(np.concatenate(subsets))) > 70  # nearly nothing is thrown away
    assert all(map(np.array_equal, subsets, balanced_subsets(y, 20, seed=3)))
    assert not np.array_equal(subsets[0], subsets[1])
    assert not np.array_equal(subsets[0], balanced_subsets(y, 1, seed=4)[0])


def test_only_the_training_split_is_made_balanced():
    data = Pictures()
    subset = Subset(data, np.array([3, 5]))
    x, y = data.arrays("train")
    np.testing.assert_array_equal(subset.arrays("train")[0], x[[3, 5]])
    np.testing.assert_array_equal(subset.arrays("train")[1], y[[3, 5]])
    assert subset.arrays("val")[0] is data.arrays("val")[0]


def test_an_easy_ensemble_has_a_member_for_each_subset():
    built = []

    def build(seed):
        built.append(member(seed))
        return built[-1]

    members = easy_ensemble(build, Pictures(), epochs=1, count=3, seed=5, **TEACHING)
    assert [m is b for m, b in zip(members, built, strict=True)] == [True] * 3
    assert not same(members[0].get_weights(), members[1].get_weights())
