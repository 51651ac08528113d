import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.svm import LinearSVC

from cnnkit.ensembles import Stacking
from cnnkit.ensembles import learners
from cnnkit.ensembles.stacking import side_by_side
from cnnkit.errors import DataError
from cnnkit.errors import UsageError

LEARNERS = {
    "logistic regression": LogisticRegression(),
    "support vectors": LinearSVC(),
    "ridge without bias": RidgeClassifier(fit_intercept=False),
    "small net": MLPClassifier((5,), max_iter=30, tol=1.0, random_state=0),
    "net of tanh": MLPClassifier((4, 3), "tanh", max_iter=30, tol=1.0, random_state=0),
    "scaled": make_pipeline(StandardScaler(), LogisticRegression()),
    "scaled without mean": make_pipeline(StandardScaler(with_mean=False), LinearSVC()),
    "scaled by nothing": make_pipeline(StandardScaler(with_std=False), LinearSVC()),
}


def answers(classes=3, n=90):
    """Returns what two members say, and the truth: the first confuses the first two classes."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    p = rng.dirichlet(np.ones(classes), (2, n)) + 0.7 * np.eye(classes)[y]
    p[0] = p[0][:, [1, 0, *range(2, classes)]]
    return p / p.sum(-1, keepdims=True), y


def test_a_learner_puts_right_what_averaging_cannot():
    p, y = answers()
    stacking = Stacking().fit(p, y)
    found = stacking.predict(p)
    np.testing.assert_allclose(found.sum(-1), 1)
    assert np.mean(found.argmax(-1) == y) > np.mean(p.mean(0).argmax(-1) == y) + 0.1
    assert side_by_side(p).shape == (90, 6)
    np.testing.assert_array_equal(side_by_side(p)[7], np.r_[p[0, 7], p[1, 7]])


def test_out_of_fold_no_picture_is_judged_by_what_it_taught():
    p, y = answers()
    chance = np.random.default_rng(1).permutation(y)
    greedy = RandomForestClassifier(20, random_state=0)
    fitted = Stacking(greedy).fit(p, chance).predict(p)
    honest = Stacking(greedy).out_of_fold(p, chance)
    assert np.mean(fitted.argmax(-1) == chance) > 0.95
    assert np.mean(honest.argmax(-1) == chance) < 0.5


@pytest.mark.parametrize("learner", [SVC(), RandomForestClassifier(5, random_state=0)])
def test_any_learner_will_do(learner):
    p, y = answers()
    stacking = Stacking(learner).fit(p, y)
    found = stacking.predict(p)
    np.testing.assert_allclose(found.sum(-1), 1)
    np.testing.assert_array_equal(found.argmax(-1), stacking.learner.predict(side_by_side(p)))
    assert not hasattr(learner, "classes_")  # it was copied
    with pytest.raises(UsageError, match="not made of dense layers"):
        stacking.layers()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LEARNERS)
def test_dense_layers_compute_what_the_learner_does(name, classes):
    activations = {"linear": lambda z: z, "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}
    p, y = answers(classes)
    stacking = Stacking(LEARNERS[name]).fit(p, y)
    x = side_by_side(p)
    for kernel, bias, activation in stacking.layers():
        x = activations[activation](x @ kernel + bias)
    powers = np.exp(x)
    np.testing.assert_allclose(
        powers / powers.sum(-1, keepdims=True), stacking.predict(p), atol=1e-6
    )


def test_another_scaler_is_no_dense_layer():
    p, y = answers()
    learner = make_pipeline(MinMaxScaler(), LogisticRegression()).fit(side_by_side(p), y)
    with pytest.raises(UsageError, match="StandardScaler before it or not"):
        learners.dense_layers(learner)


def test_every_class_must_be_there():
    p, y = answers()
    with pytest.raises(DataError, match="0 of class 2"):
        Stacking().fit(p[:, y < 2], y[y < 2])
    few = np.r_[np.flatnonzero(y < 2), 2]
    Stacking().fit(p[:, few], y[few])
    with pytest.raises(DataError, match="1 of class 2"):
        Stacking().out_of_fold(p[:, few], y[few])
