import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.analysis.logits import logits
from cnnkit.errors import UsageError
from cnnkit.losses import CenterLoss
from cnnkit.losses import LargeMarginSoftmax
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training.feature_trainer import FeatureTrainer
from cnnkit.training.feature_trainer import classifier
from cnnkit.training.fit import fit
from tests.training.pictures import Pictures


def net(end=None, regularizer=None):
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(4, 3, name="conv", kernel_regularizer=regularizer)(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.5, name="bn")(x))
    x = layers.Dense(6, name="features")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(image, x if end is None else end(x), name="net")


def features(model, x):
    seen = keras.Model(model.inputs[0], model.get_layer("features").output)
    return seen.predict(x.astype("float32"), verbose=0)


def spread(f, y):
    return np.mean([f[y == c].var(0).sum() for c in range(3)])


def test_both_losses_train_the_plain_model_and_leave_nothing_in_it(tmp_path):
    data, model = Pictures(), net(layers.Softmax(name="probabilities"))
    paths = [w.path for w in model.weights]

    def wrap(plain):
        margin, center = LargeMarginSoftmax(3), CenterLoss(3, 6)
        return FeatureTrainer(plain, margin, center, 0.01, steps=40)

    fit(model, data, epochs=10, batch_size=16, lr=0.01, wrap=wrap)
    x, y = data.arrays("test")
    assert np.mean(model.predict(x.astype("float32"), verbose=0).argmax(1) == y) > 0.9
    assert [w.path for w in model.weights] == paths
    assert not model.compiled
    save_model(model, tmp_path / "m.keras")
    again = load_model(tmp_path / "m.keras")
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_centre_loss_draws_the_features_of_a_class_together():
    """9.1.5: spreads fall with the weight of the centre loss."""
    data, found = Pictures(), []
    for weight in (0.0, 0.1, 1.0):
        keras.utils.set_random_seed(0)
        model, center = net(), CenterLoss(3, 6)

        def wrap(plain, center=center, weight=weight):
            return FeatureTrainer(plain, center=center, center_weight=weight)

        fit(model, data, epochs=10, batch_size=16, lr=0.01, keep_best=False, wrap=wrap)
        x, y = data.arrays("train")
        f = features(model, x)
        found.append(spread(f, y))
        means = np.stack([f[y == c].mean(0) for c in range(3)])
        if weight == 1.0:
            np.testing.assert_allclose(center.centers, means, atol=np.ptp(means) / 4)
    assert found[0] > 1.5 * found[1] > 2 * found[2]


def trained_step(trainer, loss=None):
    trainer.compile(
        keras.optimizers.SGD(0.1), loss or keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    x, y = Pictures().arrays("train")
    return trainer, x[:16].astype("float32"), np.eye(3, dtype="float32")[y[:16]]


def test_the_loss_of_a_step_is_that_of_the_parts():
    center = CenterLoss(3, 6)
    center.centers.assign(np.ones((3, 6)))
    trainer, x, y = trained_step(FeatureTrainer(logits(net(regularizer="l2")), None, center, 0.5))
    f, h = (np.asarray(part) for part in trainer.both(x, training=True))
    plain = float(keras.losses.CategoricalCrossentropy(from_logits=True)(y, h))
    want = plain + 0.5 * np.square(f - 1).sum(1).mean() / 2 + float(sum(trainer.losses))
    assert float(trainer.train_on_batch(x, y)) == pytest.approx(want, rel=1e-4)


def test_validation_is_the_plain_loss():
    trainer, x, y = trained_step(
        FeatureTrainer(logits(net()), LargeMarginSoftmax(4), CenterLoss(3, 6), 1.0)
    )
    want = keras.losses.CategoricalCrossentropy(from_logits=True)(y, trainer(x, training=False))
    assert trainer.evaluate(x, y, verbose=0) == pytest.approx(float(want), rel=1e-5)
    assert not np.any(trainer.center.centers)


def test_margin_comes_slowly():
    """The plain cosine fades over the steps, so that the loss grows on the same weights."""
    trainer, x, y = trained_step(FeatureTrainer(logits(net()), LargeMarginSoftmax(4), steps=100))
    plain = float(keras.losses.CategoricalCrossentropy(from_logits=True)(y, trainer(x)))
    found = []
    for step in (0, 20, 50, 100):
        trainer.step.assign(step)
        trainer(x)
        found.append(float(trainer.compute_loss(x, y, trainer(x))))
    assert found[0] == pytest.approx(plain, rel=0.01)
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.5


@pytest.mark.parametrize("end", [None, layers.Softmax(), layers.Identity()])
def test_finds_the_classifier(end):
    model = logits(net(end))
    dense, tensor = classifier(model)
    assert dense.name == "logits"
    assert tensor.shape == (None, 6)


@pytest.mark.parametrize(
    "end", [layers.ReLU(name="last"), layers.Dense(3, activation="softmax", name="last")]
)
def test_refuses_what_has_no_classifier(end):
    with pytest.raises(
        UsageError, match=r"needs a Dense layer that makes the logits\. Received \w+ '"
    ):
        FeatureTrainer(logits(net(end)))
