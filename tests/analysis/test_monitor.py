import re

import keras
import numpy as np
import pytest
from keras import initializers
from keras import layers
from keras import ops

from cnnkit.analysis import monitor
from cnnkit.analysis.monitor import Monitor
from cnnkit.errors import UsageError
from cnnkit.layers import HashedConv2D


def pictures(n=100, shape=(8, 8, 3)):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")


def rows_of(model, *data):
    return {row.name: row for row in monitor.measure(model, *data)}


def deep(activation, start, depth=10, width=50):
    """The experiment of chapter 7: many layers of one activation and one initialization."""
    x = image = keras.Input((width,))
    for layer in range(depth):
        x = layers.Dense(width, activation, kernel_initializer=start, name=f"fc{layer}")(x)
    model = keras.Model(image, layers.Dense(1, kernel_initializer="he_normal", name="last")(x))
    model.compile("sgd", "mse")
    return model


def said(model, shape=(50,)):
    x = pictures(200, shape)
    return monitor.diagnosis(monitor.measure(model, x, np.ones((200, 1), "float32")))


def test_dead_units_are_those_that_are_zero_everywhere():
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    model = keras.Model(image, conv(image))
    kernel, _ = conv.get_weights()
    kernel[..., 3] = 0
    conv.set_weights([kernel, np.array([0.0, -1e3, 1e3, 0.0])])  # alive, dead, alive, dead
    row = rows_of(model, pictures())["conv"]
    assert (row.activation, row.units, row.dead, row.saturated) == ("relu", 4, 0.5, None)
    (text,) = [text for text in monitor.diagnosis([row]) if "dead" in text]
    assert text.startswith("conv: 2 of 4 units are dead, zero everywhere on all pictures: a lower")


def test_a_unit_that_lives_in_one_of_many_batches_is_alive():
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, layers.ReLU(name="relu")(image))
    x = -np.ones((600, 2, 2, 1), "float32")
    assert rows_of(model, x)["relu"].dead == 1
    x[300, 1, 0] = 1
    assert rows_of(model, x)["relu"].dead == 0


@pytest.mark.parametrize(
    ("activation", "edge"), [("sigmoid", 5.0), ("tanh", 2.5)], ids=["sigmoid", "tanh"]
)
def test_saturated_outputs(activation, edge):
    x = np.array([0, 0.5, -0.98, 0.98, 1.02, -1.02, 3, -9], "float32").reshape(2, 4) * edge
    image = keras.Input((4,))
    model = keras.Model(image, layers.Activation(activation, name="squashed")(image))
    row = rows_of(model, x)["squashed"]
    assert (row.activation, row.saturated, row.dead) == (activation, 0.5, None)
    (text,) = monitor.diagnosis([row])
    assert text.startswith(f"squashed: 50% of the outputs of its {activation} are saturated: ")


def test_scales_weights_and_gradients_by_hand():
    image = keras.Input((2,))
    model = keras.Model(image, layers.Dense(1, use_bias=False, name="dense")(image))
    model.compile("sgd", "mse")
    model.set_weights([np.array([[3.0], [4.0]])])
    x = np.array([[1, 0], [0, 1], [1, 1]] * 100, "float32")
    row = rows_of(model, x, np.zeros((300, 1), "float32"))["dense"]
    assert row.scale == pytest.approx(np.sqrt((9 + 16 + 49) / 3))
    assert row.weights == pytest.approx(5)
    # d/dw of the mean of (wx)²: 2/3 (3 + 7, 4 + 7).
    want = 2 / 3 * np.hypot(10, 11)
    assert row.gradient == pytest.approx(want)
    assert row.steepness == pytest.approx(want / 5)
    assert rows_of(model, x)["dense"].gradient is None


def test_small_weights_make_activations_and_gradients_vanish():
    texts = said(deep("tanh", initializers.RandomNormal(stddev=0.01)))
    (text,) = [text for text in texts if text.startswith("activations vanish: ")]
    assert re.search(r"vanish: 0\.\d+ in fc0, \S+e-1\d in fc9: another initialization", text)
    sigmoids = said(deep("sigmoid", initializers.RandomNormal(stddev=0.01)))
    assert any(text.startswith("gradients vanish: ") for text in sigmoids)


def test_large_weights_saturate_or_explode():
    texts = said(deep("tanh", initializers.RandomNormal(stddev=2.0)))
    assert sum("of the outputs of its tanh are saturated" in text for text in texts) >= 9
    texts = said(deep("relu", initializers.RandomNormal(stddev=2.0)))
    assert any(text.startswith("activations explode: ") for text in texts)
    assert any(text.startswith("gradients explode: ") for text in texts)


@pytest.mark.parametrize(
    ("activation", "start"), [("tanh", "glorot_normal"), ("relu", "he_normal")]
)
def test_xavier_and_he_keep_everything_in_place(activation, start):
    assert said(deep(activation, start)) == []


def test_all_zero_breaks_no_symmetry():
    texts = said(deep("relu", "zeros", depth=2))
    assert "fc0: its weights are all zero: its units cannot become different" in texts


def test_what_is_not_finite_explodes():
    model = deep("relu", "he_normal", depth=2)
    model.get_layer("fc1").bias.assign(np.full(50, np.inf))
    assert "activations explode: those of fc1 are not finite" in said(model)


def test_nested_models_operations_and_layers_of_their_own():
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="conv")], name="inner"
    )
    image = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(4, 3, padding="same", name="first")(image))
    x = ops.relu6(layers.BatchNormalization()(x))
    x = layers.LeakyReLU()(layers.ReLU(max_value=3.0, name="cut")(x))
    x = HashedConv2D(4, 3, name="hashed")(x)
    rows = monitor.measure(keras.Model(image, x), pictures())
    assert [(row.name.split("_")[0], row.activation) for row in rows] == [
        ("first", ""),
        ("inner/conv", ""),
        ("relu6", "relu"),
        ("cut", "relu"),
        ("hashed", ""),
    ]


def trained(tell=None, every=1, bias=None):
    """Trains four epochs; `bias` gives the one that the convolution has in each of them."""
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    head = [layers.GlobalAveragePooling2D(), layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((8, 8, 3)), conv, *head])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = pictures(32), np.arange(32) % 2
    look = Monitor(x, y, every=every, tell=tell)

    def start(epoch, logs):
        if bias:
            conv.bias.assign(np.full(4, bias[epoch]))

    starts = keras.callbacks.LambdaCallback(on_epoch_begin=start)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[starts, look])
    return model, look


def test_the_callback_looks_before_and_after_epochs_and_changes_nothing():
    keras.utils.set_random_seed(0)
    model, look = trained(every=2)
    assert [epoch for epoch, _ in look.history] == [0, 2, 4]
    first, last = look.history[0][1], look.history[-1][1]
    assert [row.name for row in first] == ["conv", "logits"]
    assert first[0].weights != last[0].weights
    assert all(row.gradient > 0 for row in last)
    assert last == monitor.measure(model, look.x, look.y)
    keras.utils.set_random_seed(0)
    again, _ = trained(every=4)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_callback_tells_what_is_new_once():
    told = []
    trained(told.append, bias=[-1e3, -1e3, 0, -1e3])
    first, again = told
    assert first == again
    assert first.startswith("conv: 4 of 4 units are dead")


def test_errors():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    with pytest.raises(UsageError, match="Gradients need a loss"):
        monitor.measure(model, np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(UsageError, match="No pictures to look at"):
        monitor.measure(model, np.ones((0, 2)))
    with pytest.raises(UsageError, match=r"Cannot look into this model.*Sequential"):
        monitor.measure(keras.Sequential([layers.Dense(3)]), np.ones((1, 2)))


def test_what_changes_in_numbers_only_is_told_once():
    told = []
    image = keras.Input((4, 4, 1))
    conv = layers.Conv2D(4, 1, activation="relu", name="conv")
    net = keras.Model(image, conv(image))
    look = Monitor(pictures(8, (4, 4, 1)), tell=told.append, net=net, start=False)
    look.on_train_begin()
    for epoch, dead in enumerate((1, 2, 0, 3)):
        conv.bias.assign([-1e3] * dead + [1e3] * (4 - dead))
        look.on_epoch_end(epoch)
    assert [epoch for epoch, _ in look.history] == [1, 2, 3, 4]
    assert [text[:25] for text in told] == [
        "conv: 1 of 4 units are de",
        "conv: 3 of 4 units are de",
    ]
