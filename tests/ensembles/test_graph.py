import re
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cnnkit.analysis.logits import logits
from cnnkit.analysis.logits import outputs_probabilities
from cnnkit.ensembles import Stacking
from cnnkit.ensembles import averaged
from cnnkit.ensembles import combination
from cnnkit.ensembles import features
from cnnkit.ensembles import features_with
from cnnkit.ensembles import learners
from cnnkit.ensembles import stacked
from cnnkit.ensembles import voting
from cnnkit.errors import UsageError
from cnnkit.models.saving import save_model
from export.formats import onnx
from export.formats import tflite
from export.pipeline import compress
from export.subject import open_subject
from tests.ensembles.members import member
from tests.ensembles.members import pictures
from tests.ensembles.members import softmax

X = pictures()
Y = np.arange(len(X)) % 3
NET = MLPClassifier((6,), max_iter=30, tol=1.0, random_state=0)


def stack(models, p):
    stacking = Stacking(NET).fit(p, Y)
    return stacked(models, stacking.layers()), stacking.predict(p)


def by_features(models, p):
    both = features(models).predict(X, verbose=0)
    assert both.shape == (len(X), 2 * 8 * 3 * 3)
    svm = make_pipeline(StandardScaler(), LinearSVC()).fit(both, Y)
    assert np.mean(svm.predict(both) == Y) > 0.9
    return features_with(models, learners.dense_layers(svm)), learners.probabilities(svm, both)


RULES = {
    "mean": lambda models, p: (averaged(models), combination.mean(p)),
    "weighted": lambda m, p: (averaged(m, [0.3, 0.7]), combination.weighted(p, [0.3, 0.7])),
    "vote": lambda models, p: (voting(models), combination.plurality(p)),
    "stack": stack,
    "features": by_features,
}


@pytest.fixture(scope="module")
def two():
    """Returns two members, of which one ends in logits, and their probabilities."""
    models = [member(1), member(2, end="logits", width=4)]
    p = [m.predict(X, verbose=0) for m in models]
    return models, np.stack([p[0], softmax(p[1])])


@pytest.fixture(scope="module", params=RULES)
def made(request, two):
    return request.param, *RULES[request.param](*two)


def test_the_graph_computes_the_formula(made):
    _, model, expected = made
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)
    # What makes logits of it, such as a distiller, finds the same probabilities.
    np.testing.assert_allclose(softmax(np.asarray(logits(model)(X))), expected, atol=1e-5)
    assert outputs_probabilities(model)
    assert (model.inputs[0].name, model.layers[-1].name) == ("image", "probabilities")
    assert open_subject(model).model is model  # deployable as it is: no second softmax


def test_names_are_unique_and_the_same_in_every_session(made, two):
    rule, model, _ = made
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names)
    assert {"member1_first", "member2_first"} < set(names)
    assert [layer.name for layer in RULES[rule](*two)[0].layers] == names


def test_a_file_holds_plain_layers(made, tmp_path):
    _, model, expected = made
    path = save_model(model, tmp_path / "all.keras")
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    assert set(re.findall(r'"module": "(\w+)', config)) == {"keras"}
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, atol=1e-5)


@pytest.mark.export
@pytest.mark.parametrize("format", [tflite, onnx], ids=["tflite", "onnx"])
def test_files_of_other_runtimes_compute_the_formula(made, format, tmp_path):
    _, model, expected = made
    path = format.write(model, tmp_path / f"all.{format.__name__.split('.')[-1]}")
    np.testing.assert_allclose(format.run(path, X), expected, atol=1e-5)


@pytest.mark.export
@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_int8(two, rule, tmp_path):
    model, expected = RULES[rule](*two)
    path = tflite.write(model, tmp_path / "all.tflite", variant="int8", calibration=X)
    assert np.abs(tflite.run(path, X) - expected).mean() < 0.05


def test_members_are_copies(two):
    models, _ = two
    before = [m.get_weights() for m in models]
    for variable in averaged(models).weights:
        variable.assign(variable * 0)
    for model, weights in zip(models, before, strict=True):
        assert all(map(np.array_equal, model.get_weights(), weights))


def test_passes_see_through():
    whole = averaged([member(1, width=8), member(2, width=8)])
    small = compress(whole, ["prune-filters:ratio=0.5"]).model
    assert small.count_params() < 0.7 * whole.count_params()


def test_an_ensemble_may_be_a_member_and_one_may_be_alone(two):
    models, p = two
    nested = averaged([averaged(models), models[0]])
    expected = (p.mean(0) + p[0]) / 2
    np.testing.assert_allclose(nested.predict(X, verbose=0), expected, atol=1e-6)
    for one in (averaged(models[:1]), averaged(models[:1], [1.0])):
        np.testing.assert_allclose(one.predict(X, verbose=0), p[0], atol=1e-6)


def test_a_sequential_model_may_be_a_member(two):
    net = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]
    model = keras.Sequential(net)
    found = averaged([model, two[0][0]]).predict(X, verbose=0)
    expected = (model.predict(X, verbose=0) + two[1][0]) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_weights_of_a_mean_leave_probabilities(two):
    """What is twice too large is no mean: it would need a softmax."""
    p = two[0][0].outputs[0]
    for scales, mean in (((0.3, 0.7), True), ((1.0, 1.0), False), ((1.5, -0.5), False)):
        total = layers.Add()([layers.Rescaling(scale)(p) for scale in scales])
        assert outputs_probabilities(keras.Model(two[0][0].inputs, total)) is mean


@pytest.mark.parametrize("other", [member(3, shape=(9, 9, 1)), member(3, classes=4), None])
def test_members_must_fit_together(two, other):
    models = [] if other is None else [two[0][0], other]
    for combine in (averaged, voting):
        with pytest.raises(UsageError, match="one input size and with the same classes"):
            combine(models)


def test_wrong_weights(two):
    with pytest.raises(ValueError, match="2 numbers that are not negative and sum to 1"):
        averaged(two[0], [0.5, 0.6])


def test_features_need_a_dense_layer():
    image = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(image))
    with pytest.raises(UsageError, match="Combine the probabilities instead"):
        features([keras.Model(image, x)])
