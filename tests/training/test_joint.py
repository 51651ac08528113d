import keras
import numpy as np
import pytest

from cnnkit.analysis.logits import logits
from cnnkit.data import DIGITS
from cnnkit.errors import UsageError
from cnnkit.models import build
from cnnkit.training.fit import fit
from cnnkit.training.joint import Histograms
from cnnkit.training.joint import JointTrainer
from cnnkit.training.joint import distances
from cnnkit.training.joint import joint
from cnnkit.training.joint import nearest
from cnnkit.training.recipe import resolve
from cnnkit.training.train import train
from tests.training.pictures import Pictures
from tests.training.test_layer_rates import Notes
from tests.training.test_resume import KilledError
from tests.training.test_resume import Killer


def net():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(3, 3, activation="relu", name="one")(x)
    x = layers.Conv2D(4, 3, name="two")(x)
    x = layers.Dense(3, name="logits")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.Softmax(name="probabilities")(x))


X, Y = Pictures().arrays("train")


def test_bins_are_about_equally_full_of_the_source():
    histograms = Histograms.of(net(), X, bins=4)(X)
    assert [h.shape for h in histograms] == [(60, 3, 4), (60, 4, 4)]
    for h in histograms:
        np.testing.assert_allclose(h.sum(-1), 1)
        assert h.min() > 0
    np.testing.assert_allclose(histograms[1].mean(0), 0.25, atol=0.02)


def test_distance_is_the_sum_of_both_divergences_and_layers_weigh_the_same():
    rng = np.random.default_rng(0)
    a = [rng.dirichlet(np.ones(5), (2, kernels)) for kernels in (3, 8)]
    b = [rng.dirichlet(np.ones(5), (4, kernels)) for kernels in (3, 8)]
    expected = np.zeros((2, 4))
    for i, j in np.ndindex(2, 4):
        for p, q in zip(a, b, strict=True):
            both = p[i] * np.log(p[i] / q[j]) + q[j] * np.log(q[j] / p[i])
            expected[i, j] += both.sum() / len(p[i])
    np.testing.assert_allclose(distances(a, b), expected)
    np.testing.assert_allclose(distances(b, a), expected.T)
    np.testing.assert_allclose(np.diag(distances(a, a)), 0, atol=1e-12)


def test_nearest_of_a_copy_is_itself_and_of_a_darker_world_the_darker():
    found = nearest(net(), X[5:9], X, 3)
    assert found.shape == (4, 3)
    np.testing.assert_array_equal(found[:, 0], [5, 6, 7, 8])
    source = np.concatenate([X[:20], X[20:40] // 8])
    assert (nearest(net(), X[40:50] // 8, source, 5) >= 20).all()
    assert (nearest(net(), X[40:50], source, 5) < 20).all()


def test_a_network_without_convolutions_has_no_shallow_features():
    with pytest.raises(UsageError, match="need a convolution"):
        nearest(build("lenet300", (8, 8, 1), 3), X, X)


def test_both_losses_are_added_and_reach_the_trunk():
    model = net()
    trainer = JointTrainer(logits(model), X[:1], np.array([4]), 5)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    trainer.compile(loss=loss)
    x, y = X[1:3].astype("float32"), np.eye(3, dtype="float32")[Y[1:3]]
    found = trainer.compute_loss(x, y, trainer(x, training=True), training=True)
    below = keras.Model(model.inputs[0], model.get_layer("flatten").output)
    p = keras.ops.softmax(trainer.head(below(X[:1].astype("float32"))))
    first = loss(y, logits(model)(x))
    np.testing.assert_allclose(found, first - np.log(np.array(p)[0, 4]), rtol=1e-5)
    alone = trainer.compute_loss(x, y, trainer(x, training=False), training=False)
    np.testing.assert_allclose(alone, first, rtol=1e-5)
    heads = [w.path for w in trainer.trainable_weights if w.path not in _paths(model)]
    assert heads == ["source/kernel", "source/bias"]


def _paths(model):
    return [w.path for w in model.weights]


def test_the_trained_model_is_plain_and_a_killed_training_goes_on_exactly(tmp_path):
    few, options = Pictures(train=9), {"epochs": 3, "batch_size": 9, "lr": 0.01}
    source = Pictures(classes=4)
    whole, paths = net(), _paths(net())
    wrap, number = joint(whole, few, source, 4)
    assert 4 <= number <= 36
    rows = fit(whole, few, wrap=wrap, **options).rows
    assert _paths(whole) == paths
    assert not whole.compiled
    model = net()
    with pytest.raises(KilledError):
        fit(net(), few, wrap=wrap, folder=tmp_path, reporter=Killer(2), **options)
    again = fit(model, few, wrap=wrap, folder=tmp_path, resume=True, **options).rows
    assert [r["loss"] for r in again] == [r["loss"] for r in rows]
    for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_from_the_recipe(tmp_path):
    sets = ["model.name=lenet5_caffe", "model.width=0.1", "train.epochs=1", "train.batch_size=256"]
    source = train(DIGITS, resolve(sets=sets), tmp_path / "source").folder
    sets += [f"model.pretrained={source}", f"loss.joint={source}", "loss.joint_neighbours=1"]
    notes = Notes()
    run = train(DIGITS, resolve(sets=sets), tmp_path / "run", reporter=notes)
    # The same pictures: each is the nearest of itself.
    told = [note for note in notes.notes if "learned together" in note]
    assert told == [f"learned together with 1259 of the 1259 training pictures of {source}"]
    assert run.model().layers[-1].name == "probabilities"
    sets.append("loss.center_weight=0.1")
    with pytest.raises(UsageError, match=r"no place for another loss.*loss\.center_weight"):
        train(DIGITS, resolve(sets=sets), tmp_path / "other")
