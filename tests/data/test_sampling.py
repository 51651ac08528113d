import numpy as np
import pytest

from cnnkit.data import sampling

COUNTS = (50, 10, 7)
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], COUNTS))
MEMBERS = [np.flatnonzero(k == LABELS) for k in (0, 2, 3)]


def seen(indices):
    """Returns how often each class is seen."""
    return np.bincount(LABELS[indices], minlength=4)[[0, 2, 3]].tolist()


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_an_epoch_depends_on_seed_and_epoch_alone(name):
    sampler = sampling.SAMPLERS[name]
    epochs = [sampler(LABELS, 7, epoch) for epoch in range(3)]
    np.testing.assert_array_equal(sampler(LABELS, 7, 1), epochs[1])
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(sampler(LABELS, 8, 1), epochs[1])
    assert {len(epoch) for epoch in epochs} == {len(epochs[0])}
    assert {epoch.dtype for epoch in epochs} == {np.dtype(np.int64)}
    assert all(0 <= epoch.min() <= epoch.max() < len(LABELS) for epoch in epochs)


def test_over_sampling_repeats_evenly():
    """12.1.1"""
    indices = sampling.over_sampled(LABELS, 0, 0)
    assert seen(indices) == [50, 50, 50]
    times = np.bincount(indices, minlength=len(LABELS))
    assert [set(times[m]) for m in MEMBERS] == [{1}, {5}, {7, 8}]
    epochs = np.concatenate([sampling.over_sampled(LABELS, 0, e) for e in range(7)])
    assert set(np.bincount(epochs)[MEMBERS[2]]) == {50}  # the eighth times go around


def test_under_sampling_throws_no_picture_away():
    """12.1.1"""
    epochs = [sampling.under_sampled(LABELS, 0, e) for e in range(8)]
    assert all(seen(indices) == [7, 7, 7] for indices in epochs)
    times = np.bincount(np.concatenate(epochs), minlength=len(LABELS))
    assert [set(times[m]) for m in MEMBERS] == [{1, 2}, {5, 6}, {8}]  # 8 epochs of 7 pictures


@pytest.mark.parametrize("sampler", [sampling.over_sampled, sampling.under_sampled])
def test_every_batch_is_balanced(sampler):
    """12.1.1: inside each batch."""
    indices = sampler(LABELS, 0, 3)
    for batch in np.array_split(indices, len(indices) // 8):
        counts = seen(batch)
        assert max(counts) - min(counts) <= 2  # whole rounds, and two cut ones
    orders = {tuple(LABELS[block]) for block in indices.reshape(-1, 3)}
    assert len(orders) > 3


def test_class_balanced_draws_classes_then_pictures():
    """12.1.2"""
    epochs = [sampling.class_balanced(LABELS, 0, e) for e in range(200)]
    shares = np.array([seen(indices) for indices in epochs]) / len(LABELS)
    np.testing.assert_allclose(shares.mean(0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(shares.std(0), np.sqrt(2 / 9 / len(LABELS)), rtol=0.2)
    for indices in epochs[:20]:
        times = np.bincount(indices, minlength=len(LABELS))
        assert all(np.ptp(times[m]) <= 1 for m in MEMBERS)
    times = np.bincount(np.concatenate(epochs), minlength=len(LABELS))
    expected = [200 * len(LABELS) / 3 / len(m) for m in MEMBERS]
    for m, times_each in zip(MEMBERS, expected, strict=True):
        np.testing.assert_allclose(times[m], times_each, rtol=0.25)


def test_label_shuffling_is_that_of_the_book():
    """12.1.2: every class M times; of each class a permutation of 0 … M - 1 modulo n."""
    for epoch in range(3):
        indices = sampling.label_shuffled(LABELS, 1, epoch)
        assert seen(indices) == [50, 50, 50]
        times = np.bincount(indices, minlength=len(LABELS))
        for pictures in MEMBERS:
            want = np.bincount(np.arange(50) % len(pictures))
            np.testing.assert_array_equal(times[pictures], want)


def test_balanced_data_are_seen_once_by_all_that_balance_exactly():
    labels = np.arange(30) % 3
    for name in ("over", "under", "label_shuffling"):
        assert sorted(sampling.SAMPLERS[name](labels, 0, 2)) == list(range(30))
