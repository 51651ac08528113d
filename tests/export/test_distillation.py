from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import export
from cnnkit.analysis.logits import logits
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training.fit import fit
from cnnkit.training.keeper import MACRO_F1
from cnnkit.training.recipe import resolve
from export.distillation.distill import Config
from export.distillation.distill import distill
from export.distillation.distill import open_teacher
from export.distillation.distill import taught_by
from export.distillation.losses import logit_regression
from export.distillation.losses import soft_labels
from export.distillation.neurons import select
from export.pipeline import compress
from tests.export import corners
from tests.training.pictures import Pictures
from tests.training.pictures import Unequal

METHODS = ("soft-labels", "logits", "neurons")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pair(n=6, classes=5):
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (2, n, classes))


def gradient(loss, teacher, student):
    import tensorflow as tf

    teacher, student = (tf.constant(z, tf.float32) for z in (teacher, student))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss.compute_loss(teacher, student)
    return np.asarray(tape.gradient(value, student))


def net(width=4, seed=0, dropout=0.0, end=layers.Softmax):
    """Returns a small classifier of the bars of `Pictures`, with batch statistics."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(width, 3, name="conv", kernel_regularizer="l2")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.8, name="bn")(x))
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D((6, 1), name="pool")(x))
    x = layers.Dense(2 * width, activation="relu", name="hidden")(x)
    x = layers.Dropout(dropout, seed=1, name="drop")(x)
    x = end(name="probabilities")(layers.Dense(3, name="logits")(x))
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def teacher():
    model = net(16, seed=1)
    fit(model, Pictures(), epochs=10, batch_size=8, lr=0.01)
    return model


def test_soft_labels_against_numpy():
    z, g = pair()
    for t in (1.0, 2.5, 20.0):
        q, p = softmax(z / t), softmax(g / t)
        expected = t * t * np.mean(np.sum(q * np.log(q / p), -1))
        assert float(soft_labels(t).compute_loss(z, g)) == pytest.approx(expected, rel=1e-4)
        # The gradient of T² times the soft cross-entropy.
        np.testing.assert_allclose(
            gradient(soft_labels(t), z, g), t * (p - q) / len(z), rtol=1e-3, atol=1e-5
        )
    assert float(soft_labels(4.0).compute_loss(z, z)) == pytest.approx(0, abs=1e-5)


def test_temperature_does_not_change_the_size_of_the_gradient():
    """Hinton's eq. 4: for high T it is that of logit regression on centred logits, over N."""
    z, g = (x - x.mean(-1, keepdims=True) for x in pair())
    limit = gradient(logit_regression(), z, g) / z.shape[-1]
    errors = []
    for t in (10, 40, 160):
        error = np.abs(gradient(soft_labels(float(t)), z, g) - limit).max()
        errors.append(error / np.abs(limit).max())
    assert errors[0] < 0.5
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


def test_logit_regression_against_numpy():
    z, g = pair()
    expected = np.sum((g - z) ** 2) / (2 * len(z))
    assert float(logit_regression().compute_loss(z, g)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        gradient(logit_regression(), z, g), (g - z) / len(z), rtol=1e-4, atol=1e-5
    )


def test_a_student_that_is_very_wrong_still_learns():
    z, g = np.array([[60.0, 0.0, 0.0]]), np.array([[0.0, 60.0, 0.0]])
    np.testing.assert_allclose(gradient(soft_labels(1.0), z, g), [[-1, 1, 0]], atol=1e-5)


@pytest.mark.parametrize("method", ["soft-labels", "logits"])
def test_the_whole_loss_against_numpy(method, teacher):
    """Labels, teacher and the student's own regularizer, before anything was learnt."""
    student, data = net(), Pictures(val=0)
    history = distill(
        student, teacher, data, epochs=1, batch_size=60, lr=1e-9, label_smoothing=0.1,
        config=Config(method=method, temperature=3.0, weight=0.3),
    )  # fmt: skip
    x, y = data.arrays("train")
    # Batch statistics are the student's own in training: the teacher's are not.
    g = np.asarray(logits(net())(x.astype("float32"), training=True), float)
    z = np.asarray(logits(teacher)(x.astype("float32"), training=False), float)
    wanted = 0.9 * np.eye(3)[y] + 0.1 / 3
    hard = -np.mean(np.sum(wanted * np.log(softmax(g)), -1))
    p, q = softmax(g / 3), softmax(z / 3)
    soft = 9 * np.mean(np.sum(q * np.log(q / p), -1))
    if method == "logits":
        soft = np.mean(np.sum((g - z) ** 2, -1)) / 2
    own = 0.01 * np.square(net().get_layer("conv").kernel).sum()
    assert history.rows[0]["loss"] == pytest.approx(0.7 * hard + 0.3 * soft + own, rel=1e-4)


def test_weight_0_is_plain_training_bit_for_bit(teacher):
    plain, taught = net(dropout=0.2), net(dropout=0.2)
    options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "weight_decay": 0.1}
    rows = fit(plain, Pictures(), **options).rows
    history = distill(taught, teacher, Pictures(), config=Config(weight=0.0), **options)
    for a, b in zip(plain.get_weights(), taught.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(rows, history.rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.mark.parametrize("method", METHODS)
def test_a_student_comes_to_agree_with_its_teacher(method, teacher):
    """Without any label: the teacher has all the weight, and is wrong about a class on purpose."""
    kernel, bias = teacher.get_layer("logits").get_weights()
    swapped = net(16)
    swapped.set_weights([*teacher.get_weights()[:-2], kernel[:, [1, 0, 2]], bias[[1, 0, 2]]])
    before = swapped.get_weights()
    student, data = net(), Pictures()
    # Neurons say nothing about the logits, so that labels must: here those of the teacher.
    weight = 0.7 if method == "neurons" else 1.0
    if method == "neurons":
        swapped, before = teacher, teacher.get_weights()
    distill(
        student, swapped, data, epochs=12, batch_size=8, lr=0.01, keep_best=False,
        config=Config(method, weight=weight),
    )  # fmt: skip
    x = data.arrays("test")[0].astype("float32")
    answers = [m.predict(x, verbose=0).argmax(1) for m in (student, swapped)]
    assert np.mean(answers[0] == answers[1]) > 0.9
    assert all(map(np.array_equal, swapped.get_weights(), before))
    assert all(layer.trainable for layer in swapped.layers)
    assert not student.compiled
    assert [layer.name for layer in student.layers] == [layer.name for layer in net().layers]


def test_the_best_epoch_is_kept_and_the_run_repeats(teacher, tmp_path):
    def run(folder=None):
        student = net(dropout=0.3)
        history = distill(
            student, teacher, Pictures(), epochs=6, batch_size=8, lr=0.03, seed=5, folder=folder
        )
        return student, history

    student, history = run(tmp_path)
    rank = {r["epoch"]: (r["val_accuracy"], -r["val_loss"]) for r in history.rows}
    assert history.best_epoch == max(rank, key=rank.get)
    saved = load_model(tmp_path / "checkpoints/best.keras")
    again, _ = run()
    for a, b, c in zip(
        student.get_weights(), saved.get_weights(), again.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=1e-5)


def test_a_run_that_diverges_keeps_the_last_good_weights(teacher):
    student = net()
    with pytest.raises(DivergedError):
        distill(student, teacher, Pictures(), epochs=4, lr=1e30, optimizer="sgd")
    assert all(np.isfinite(w).all() for w in student.get_weights())


@pytest.mark.parametrize("method", METHODS)
def test_batch_statistics_move_once_a_step_and_not_in_validation(method, teacher):
    """Keras's own distiller runs the student twice where it reads features."""
    student, data = net(), Pictures()
    shift = np.asarray(student.get_layer("bn").moving_mean)
    x = data.arrays("train")[0].astype("float32")
    maps = np.asarray(keras.Model(student.input, student.get_layer("conv").output)(x))
    distill(student, teacher, data, epochs=1, batch_size=60, lr=1e-9, config=Config(method))
    expected = 0.8 * shift + 0.2 * maps.mean((0, 1, 2))
    np.testing.assert_allclose(student.get_layer("bn").moving_mean, expected, rtol=1e-4)


def test_callbacks_find_the_layers_of_the_student(teacher):
    class Zeros(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.get_layer("conv").bias.assign([0, 0, 0, 0])

    student = net()
    distill(student, teacher, Pictures(), epochs=1, lr=0.1, callbacks=[Zeros()])
    assert not np.any(student.get_layer("conv").bias)


def test_selected_neurons_discriminate_and_do_not_repeat():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    good, other = (y == 0) + rng.normal(0, 0.1, 300), (y == 1) + rng.normal(0, 0.2, 300)
    noise, constant = rng.normal(0, 5, 300), np.full(300, 7.0)
    features = np.stack([noise, constant, good, -2 * good + 1, other], 1)
    assert select(features, y, 2).tolist() in ([2, 4], [3, 4])
    # The copy and the constant are never taken, however many may be.
    assert sorted(select(features, y, 5).tolist())[0] == 0
    assert len(select(features, y, 5)) == 3
    # The worth of the first is the largest part of variance between classes.
    between = [
        sum((y == k).mean() * (f[y == k].mean() - f.mean()) ** 2 for k in range(3)) / f.var()
        for f in features[:, [0, 2, 4]].T
    ]
    assert [0, 2, 4][int(np.argmax(between))] in (2, 3)
    assert select(np.ones((9, 4)), y[:9], 4).size == 0


def test_neurons_need_a_dense_layer_of_logits(teacher):
    x = image = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(x))
    with pytest.raises(UsageError, match="only if a Dense layer makes the logits"):
        distill(
            keras.Model(image, x), teacher, Pictures(), epochs=1, config=Config(method="neurons")
        )


@pytest.mark.parametrize(
    "end",
    [
        layers.Softmax(),
        layers.Activation("softmax"),
        lambda x: layers.Activation("linear")(layers.Softmax()(x)),
        ops.softmax,
        lambda x: layers.Average()([layers.Softmax()(x), ops.softmax(x)]),
        lambda x: keras.Sequential([keras.Input((3,)), layers.Softmax()])(x),
        lambda x: layers.Activation("softmax", dtype="float16")(x),
        lambda x: layers.Activation("linear", dtype="float16")(x),
        layers.Identity(),
    ],
)
def test_logits_come_without_the_softmax(end):
    x = image = keras.Input((3,))
    model = keras.Model(image, end(layers.Dense(3, name="before")(x)))
    before = keras.Model(image, model.get_layer("before").output)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    found = logits(model)(x)
    assert found.dtype == "float32"
    half = any(layer.compute_dtype == "float16" for layer in model.layers)
    expected, found = (np.asarray(m) - np.max(m, -1, keepdims=True) for m in (before(x), found))
    np.testing.assert_allclose(found, expected, atol=2e-2 if half else 1e-5)


def test_a_teacher_is_a_model_a_file_a_run_or_several(subject, run, tmp_path):
    model = subject.model
    path = save_model(model, tmp_path / "teacher.keras")
    x = subject.dataset.arrays("test")[0].astype("float32")
    for source in (model, path, str(path), run, [model, path, run]):
        teacher = open_teacher(source, subject.dataset)
        np.testing.assert_allclose(teacher(x), model(x), atol=1e-6)
    with pytest.raises(UsageError, match="No such model file"):
        open_teacher(tmp_path / "missing.keras", subject.dataset)


def test_a_student_must_fit_its_teacher(teacher):
    other = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(UsageError, match=r"other classes than its teacher.*\(3,\).*\(4,\)"):
        distill(other, teacher, Pictures(), epochs=1)


def test_half_precision_students_can_be_taught(teacher):
    keras.config.set_dtype_policy("mixed_float16")
    student = net()
    distill(student, teacher, Pictures(), epochs=1)
    assert student.get_layer("conv").compute_dtype == "float16"


def recovered(subject, step="prune-filters:ratio=0.5", **options):
    recipe = resolve(compress={"finetune_epochs": 2, "finetune_lr": 1e-3} | options).recipe
    done = compress(replace(subject, recipe=recipe), [step])
    return done.model.get_weights()


def same(a, b):
    return all(map(np.array_equal, a, b))


def test_passes_recover_under_the_original(subject, tmp_path):
    before, plain = subject.model.get_weights(), recovered(subject)
    taught = recovered(subject, teacher="original")
    assert not same(taught, plain)
    assert same(subject.model.get_weights(), before)
    assert all(layer.trainable for layer in subject.model.layers)
    path = save_model(subject.model, tmp_path / "teacher.keras")
    other = recovered(subject, teacher=str(path), temperature=1.0)
    assert not same(other, taught)
    assert not same(other, plain)
    assert same(recovered(subject, teacher="original", teacher_weight=0.0), plain)


@pytest.mark.parametrize("step", ["prune-weights:ratio=0.5", "qat"])
def test_passes_that_train_do_so_under_the_teacher(subject, step):
    taught = recovered(subject, step, teacher="original", finetune_epochs=1)
    assert not same(taught, recovered(subject, step, finetune_epochs=1))
    if step.startswith("prune"):  # And what keeps zeros zero finds its layers.
        assert np.mean(np.concatenate([w.ravel() for w in taught if w.ndim > 1]) == 0) > 0.45


def test_a_missing_teacher_is_refused_before_the_first_pass(subject):
    with pytest.raises(UsageError, match="No such model file"):
        recovered(subject, teacher="missing.keras")


def test_the_public_names_are_the_functions():
    assert export.distill is distill
    assert taught_by(corners.network(), Config(weight=0.0)) is None


@pytest.mark.parametrize("method", ["soft-labels", "logits"])
def test_a_teacher_that_is_asked_once_teaches_the_same(teacher, method):
    data, config = Unequal(6, 20, 20), Config(method=method, temperature=2.0)
    x, found = data.arrays("val")[0], []
    for ask_once in (False, True):
        student = net(4, seed=2)
        history = distill(
            student, teacher, data, epochs=3, batch_size=8, config=config, ask_once=ask_once
        )
        found.append((student(x.astype("float32")), history))
    (want, plain), (got, once) = found
    np.testing.assert_allclose(want, got, atol=1e-3)
    for a, b in zip(plain.rows, once.rows, strict=True):
        np.testing.assert_allclose(a["val_loss"], b["val_loss"], rtol=1e-2)
        np.testing.assert_allclose(a["accuracy"], b["accuracy"], atol=0.03)
        np.testing.assert_allclose(a[MACRO_F1], b[MACRO_F1], atol=0.05)


def test_neurons_cannot_be_asked_once(teacher):
    neurons = Config(method="neurons")
    with pytest.raises(UsageError, match="remembered"):
        distill(net(), teacher, Pictures(), epochs=1, config=neurons, ask_once=True)
