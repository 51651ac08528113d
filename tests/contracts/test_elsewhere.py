"""The same outputs on JAX, and in TF Serving's world."""

import json

import keras
import numpy as np
import pytest

from export.formats import saved_model
from tests.contracts.parts import batch
from tests.contracts.parts import predictions
from tests.contracts.parts import shared_model
from tests.specs import each

pytestmark = pytest.mark.export


@each("layer", "activation", "block", "model")
def test_same_outputs_on_jax(spec, jax, tmp_path):
    model = shared_model(spec)
    x = batch(spec, n=3)
    model.save(tmp_path / "part.keras")
    want = np.asarray(model(x, training=False))
    np.testing.assert_allclose(jax.run(tmp_path / "part.keras", x), want, rtol=1e-4, atol=1e-5)


@each("loss")
def test_same_loss_on_jax(spec, jax, tmp_path):
    part, y = spec.make(), predictions(spec)
    config = keras.saving.serialize_keras_object(part)
    (tmp_path / "loss.json").write_text(json.dumps(config))
    want = np.asarray(part(spec.targets, y))
    got = jax.loss(tmp_path / "loss.json", spec.targets, y)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@each("layer", "activation", "block", "model")
def test_saved_model_without_cnnkit(spec, tensorflow_alone, tmp_path):
    model = shared_model(spec)
    x = batch(spec, n=3)
    path = saved_model.write(model, tmp_path / "part")
    want = np.asarray(model(x, training=False))
    np.testing.assert_allclose(tensorflow_alone.run(path, x), want, rtol=1e-4, atol=1e-5)
