import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.onednn import unit_strides
from tests.contracts.parts import as_model
from tests.contracts.parts import batch
from tests.contracts.parts import predictions
from tests.contracts.parts import shared_model
from tests.specs import each


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@each("layer")
def test_dtype_policy(spec, policy):
    part = spec.make()
    layer = type(part).from_config({**part.get_config(), "dtype": policy})
    y = layer(batch(spec))
    want = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(y.dtype) == want.compute_dtype
    for sub in layer._flatten_layers():
        assert (sub.compute_dtype, sub.variable_dtype) == (want.compute_dtype, want.variable_dtype)
    assert np.isfinite(np.asarray(keras.ops.cast(y, "float32"))).all()


@each("layer")
def test_static_shape_matches_output(spec):
    layer = spec.make()
    assert (
        tuple(layer.compute_output_shape((None, *spec.input_shape)))[1:]
        == tuple(layer(batch(spec)).shape)[1:]
    )


@each("layer", "activation", "regularizer")
def test_gradient(spec):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    part = spec.make()
    x = tf.constant(batch(spec, dtype="float64"))
    part(x)
    # A graph, since it is computed twice for each number of `x`.
    total = tf.function(lambda v: tf.reduce_sum(tf.square(part(v))))
    theory, numeric = tf.test.compute_gradient(total, [x], delta=1e-5)
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-5, atol=1e-7)


@each("loss")
def test_loss_gradient(spec):
    keras.config.set_floatx("float64")
    loss = spec.make()
    logits = tf.constant(predictions(spec, "float64"))
    y = tf.constant(spec.targets)
    theory, numeric = tf.test.compute_gradient(lambda v: loss(y, v), [logits], delta=1e-5)
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-5, atol=1e-7)


@each("layer", "activation", "block", "model")
def test_one_training_step_reaches_every_weight(spec):
    model = as_model(spec)
    x = tf.constant(batch(spec))
    with unit_strides(), tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - 0.5))
    grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for v, g in zip(model.trainable_variables, grads, strict=True):
        assert g is not None, v.path
        assert np.isfinite(g).all(), v.path
        assert np.any(g), v.path


@each("layer", "block", "model")
def test_batch_of_one_and_of_five_agree(spec):
    model = shared_model(spec)
    x = batch(spec, n=5)
    alone = np.asarray(model(x[:1], training=False))
    # Sums in another order differ by roundings of their terms, so an output in which large terms
    # cancel is as far off as a large one.
    off = 1e-6 + 1e-5 * np.abs(alone).max()
    np.testing.assert_allclose(model(x, training=False)[:1], alone, rtol=0, atol=off)
