import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.data import DIGITS
from cnnkit.data import check
from cnnkit.data import load
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.training import Reporter
from cnnkit.training import resolve
from cnnkit.training.devices import devices
from cnnkit.training.devices import dtype_policy
from cnnkit.training.devices import out_of_memory
from cnnkit.training.devices import policy_of
from cnnkit.training.keeper import LAST
from cnnkit.training.train import train
from cnnkit.training.trainer import Training


def test_policies():
    assert policy_of("off") == "float32"
    assert policy_of("float16") == "mixed_float16"
    assert policy_of("bfloat16") == "mixed_bfloat16"
    if not keras.distribution.list_devices("gpu"):
        assert policy_of("auto") == "float32"


def test_a_policy_holds_inside_alone():
    before = keras.config.dtype_policy().name
    with dtype_policy("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_leaves_a_float32_model(precision, tmp_path):
    sets = ["train.epochs=2", "model.width=0.5", f"device.mixed_precision={precision}"]
    run = train(DIGITS, resolve(sets=sets), tmp_path / "run")
    model, trained = run.model(), load_model(run.folder / LAST)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    computed = {layer.name: layer.compute_dtype for layer in trained.layers}
    assert computed["pixels"] == computed["logits"] == computed["probabilities"] == "float32"
    assert computed["stem_conv"] == precision
    assert {w.dtype for w in trained.weights} == {"float32"}
    assert run.metrics[-1]["val_accuracy"] > 0.3
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "ConvertToTensor" not in kinds


def test_a_backend_that_cannot_is_named():
    with (
        pytest.raises(UsageError, match=r"jax-mesh.*KERAS_BACKEND=jax.*tensorflow"),
        devices("jax-mesh"),
    ):
        pass


TOO_MANY = 10**14


def test_tensorflow_says_when_it_has_no_memory():
    with pytest.raises(tf.errors.ResourceExhaustedError) as found:
        tf.zeros(TOO_MANY)
    assert out_of_memory(found.value)


class Greedy:
    """Wants more memory than there is for batches of more than eight pictures.

    Of the system, which refuses at once: TensorFlow's own allocator waits ten seconds for memory to
    come back, before each of the batches that are made at the same time fails.
    """

    def __call__(self, x, y, seed):
        nothing = tf.numpy_function(zero, [tf.shape(x)[0]], tf.float32)
        return x + tf.ensure_shape(nothing, ()), y


def zero(pictures):
    return np.zeros(TOO_MANY if pictures > 8 else 1, np.float32)[0]


def test_a_batch_that_does_not_fit_the_memory_is_halved(tmp_path):
    class Hearing(Reporter):
        def warn(self, text):
            heard.append(text)

    heard: list[str] = []
    sets = ["train.epochs=1", "train.batch_size=32", "model.name=lenet300", "model.width=0.25"]
    training = Training(load(check(DIGITS)), resolve(sets=sets).recipe, Hearing())
    training.augment = lambda epoch: Greedy()
    training.run(tmp_path)
    assert [text for text in heard if "memory" in text] == [
        "out of memory with 32 pictures a step: from the start, with half",
        "out of memory with 16 pictures a step: from the start, with half",
    ]
    assert training.recipe.train.batch_size == 8
    assert resolve(tmp_path / "config.toml").recipe.train.batch_size == 8
    assert (tmp_path / "model.keras").is_file()
