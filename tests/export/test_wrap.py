import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import data
from cnnkit.errors import UsageError
from export.wrap import as_classifier
from tests.export import corners


@pytest.fixture(scope="module")
def dataset(npz):
    return corners.dataset(npz)


def predict(model, x):
    return np.asarray(model(np.asarray(x, "float32"), training=False))


def softmax(scores):
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("end", ["softmax", "dense", "logits"])
@pytest.mark.parametrize("name", corners.SCALES)
def test_range_and_softmax_are_found_out(dataset, name, end):
    model = corners.network(name, end)
    before = model.get_config(), model.get_weights()
    wrapped, notes = as_classifier(model, dataset)
    x, _ = corners.pictures(20, seed=5)
    scale, offset = corners.SCALES[name]
    want = predict(model, x * scale + offset)
    want = softmax(want) if end == "logits" else want
    np.testing.assert_allclose(predict(wrapped, x), want, atol=1e-5)
    assert (wrapped.inputs[0].name, wrapped.layers[-1].name) == ("image", "probabilities")
    assert ("the model ends in logits: a softmax is added" in notes) == (end == "logits")
    assert notes[-1].startswith(f"pixel range {name} measured: accuracy ")
    # What came in is as it was, and shares no layer with what goes out.
    assert model.get_config() == before[0]
    assert all(map(np.array_equal, model.get_weights(), before[1]))
    assert not set(map(id, model.layers)) & set(map(id, wrapped.layers))


def test_a_given_range_is_not_measured(dataset):
    model = corners.network("0-1")
    wrapped, notes = as_classifier(model, dataset, "-1-1")
    x, _ = corners.pictures(4)
    np.testing.assert_allclose(predict(wrapped, x), predict(model, x / 127.5 - 1), atol=1e-5)
    assert notes == []
    with pytest.raises(UsageError, match=r"Unknown pixel range. Expected 0-255 or .* Received 0-9"):
        as_classifier(model, dataset, "0-9")


def test_without_data_the_range_is_assumed_and_said():
    _, notes = as_classifier(corners.network())
    assert notes == ["pixel range 0-255 assumed: without data it cannot be measured"]


def test_a_model_that_guesses_is_not_trusted(dataset):
    model = corners.network(end="logits")
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([0 * kernel, bias])
    _, notes = as_classifier(model, dataset)
    assert "none beats the majority class (0.3" in notes[-1]


def test_wrapping_again_changes_nothing(dataset):
    ours = corners.network(end="deployable")
    assert as_classifier(ours, dataset) == (ours, [])
    once, _ = as_classifier(corners.network("0-1", "logits"), dataset)
    assert as_classifier(once, dataset) == (once, [])


def foreign(last):
    """A model of a user who chose our names, but trained on pixels of 0-1."""
    net = corners.network("0-1", "logits")
    copy = keras.models.clone_model(net)
    copy.set_weights(net.get_weights())
    image = keras.Input(corners.SHAPE, name="image")
    return keras.Model(image, last(copy(image)), name="theirs")


def test_names_alone_do_not_make_a_model_ours(dataset):
    last = layers.Dense(3, activation="softmax", name="probabilities")
    model = foreign(last)
    last.set_weights([np.eye(3), np.zeros(3)])
    wrapped, notes = as_classifier(model, dataset)
    assert notes[0].startswith("pixel range 0-1 measured")
    assert as_classifier(wrapped, dataset) == (wrapped, [])


def test_layers_named_as_the_new_ones(dataset):
    net = corners.network("0-1", "logits")
    x = layers.Activation("linear", name="pixels")(net.output)
    model = keras.Model(net.input, layers.Activation("linear", name="probabilities")(x))
    wrapped, _ = as_classifier(model, dataset)
    names = [layer.name for layer in wrapped.layers]
    assert {"pixels", "pixels_1", "probabilities", "probabilities_1"} <= set(names)
    assert as_classifier(wrapped, dataset) == (wrapped, [])


def test_an_inner_layer_named_image(dataset):
    x = keras.Input(corners.SHAPE, name="pixels")
    y = layers.Conv2D(2, 3, name="image")(x)
    y = layers.Conv2D(2, 3, name="image_1")(keras.ops.relu(y))
    model = keras.Model(x, layers.Dense(3, name="scores")(layers.Flatten(name="flat")(y)))
    wrapped, _ = as_classifier(model, dataset, "0-255")
    names = [layer.name for layer in wrapped.layers]
    assert {"image", "image_1", "image_2"} <= set(names)
    pictures, _ = corners.pictures(8)
    want = softmax(predict(model, pictures))
    np.testing.assert_allclose(predict(wrapped, pictures), want, atol=1e-5)
    assert as_classifier(wrapped, dataset) == (wrapped, [])


def test_nested_shared_and_sequential_models_stay_sound(dataset):
    backbone = keras.Sequential(
        [layers.Conv2D(1, 3, padding="same", name="c"), layers.BatchNormalization(name="bn")],
        name="backbone",
    )
    x = keras.Input(corners.SHAPE, name="in")
    y = layers.Add(name="sum")([backbone(x), backbone(backbone(x))])
    nested = keras.Model(x, layers.Dense(3, name="scores")(layers.Flatten(name="flat")(y)))
    plain = keras.Sequential([keras.Input(corners.SHAPE), layers.Flatten(), layers.Dense(3)])
    pictures, _ = corners.pictures(8)
    for model in (nested, plain):
        wrapped, _ = as_classifier(model, dataset, "0-1")
        np.testing.assert_allclose(
            predict(wrapped, pictures), softmax(predict(model, pictures / 255)), atol=1e-5
        )
        again = keras.Model.from_config(wrapped.get_config())
        again.set_weights(wrapped.get_weights())
        np.testing.assert_array_equal(predict(again, pictures), predict(wrapped, pictures))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 64)))


def classifier(shape=corners.SHAPE, outputs=3):
    x = keras.Input(shape)
    return keras.Model(x, layers.Dense(outputs)(layers.GlobalAveragePooling2D()(x)))


def two_inputs():
    a, b = keras.Input(corners.SHAPE), keras.Input(corners.SHAPE)
    return keras.Model([a, b], layers.Dense(3)(layers.Flatten()(layers.Add()([a, b]))))


def image_to_image():
    x = keras.Input(corners.SHAPE)
    return keras.Model(x, layers.Conv2D(3, 3)(x))


def vector():
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(3)(x))


def independent(end):
    net = classifier()
    return keras.Model(net.input, end(net.output), name="many")


SIGMOID = (
    r"independent of each other: many\. .* Received a sigmoid at the end\. Leave the sigmoid out"
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: independent(keras.ops.sigmoid), SIGMOID),
        (lambda: independent(layers.Activation("sigmoid", dtype="float32")), SIGMOID),
        (lambda: independent(layers.Dense(3, activation="sigmoid")), SIGMOID),
        (Subclassed, r"no layer graph: .* Received Subclassed"),
        (lambda: keras.Sequential([layers.Dense(3)]), r"no layer graph.*Sequential, not built"),
        (two_inputs, "one input and one output are supported.*2 inputs and 1 outputs"),
        (image_to_image, "output is not one score for each class"),
        (vector, r"not a picture of a fixed size.*Received \(5,\)"),
        (lambda: classifier((None, None, 3)), r"fixed size.*Received \(None, None, 3\)"),
        (lambda: classifier((8, 8, 4)), r"fixed size.*\(height, width, 1 or 3\)"),
        (lambda: classifier(outputs=1), r"at least 2 classes.*Received \(1,\)"),
    ],
)
def test_other_models_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        as_classifier(make())


def test_data_that_do_not_fit_are_refused(dataset, npz):
    with pytest.raises(UsageError, match=r"Expected 4 classes.*Received 3 classes: <b>"):
        as_classifier(classifier(outputs=4), dataset)
    large = data.load(dataset.manifest, image_size=(16, 16))
    with pytest.raises(UsageError, match=r"another size.*\(8, 8, 1\).*\(16, 16, 1\)"):
        as_classifier(classifier(), large)
