import inspect
import json

import keras
import numpy as np

from tests.contracts.parts import batch
from tests.contracts.parts import shared_model
from tests.specs import each


@each(
    "layer",
    "loss",
    "regularizer",
    "constraint",
    "initializer",
    "schedule",
    "callback",
    "augmentation",
)
def test_config_round_trip(spec):
    part = spec.make()
    config = json.loads(json.dumps(part.get_config()))
    again = type(part).from_config(config)
    assert json.dumps(again.get_config(), sort_keys=True) == json.dumps(
        part.get_config(), sort_keys=True
    )
    revived = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(part)))
    )
    assert type(revived) is type(part)
    assert set(vars(revived)) == set(vars(part))


@each("layer", "loss", "regularizer", "constraint", "initializer", "schedule", "augmentation")
def test_every_init_argument_is_in_the_config(spec):
    part = spec.make()
    wanted = {
        p
        for p in inspect.signature(type(part).__init__).parameters
        if p not in ("self", "kwargs", "args")
    }
    assert wanted <= set(part.get_config())


@each("layer", "activation", "block", "model")
def test_save_and_load(spec, tmp_path):
    model = shared_model(spec)
    x = batch(spec)
    before = np.asarray(model(x, training=False))
    model.save(tmp_path / "m.keras")
    after = np.asarray(keras.models.load_model(tmp_path / "m.keras")(x, training=False))
    np.testing.assert_array_equal(before, after)
