"""The contracts themselves: a good part fulfils each of them, and a broken one is caught."""

import keras
import numpy as np
import pytest
from keras import ops

from cnnkit import checks
from tests.contracts import test_export as export
from tests.contracts import test_numerics as numerics
from tests.contracts import test_rules as rules
from tests.contracts import test_serialization as serialization
from tests.contracts.parts import least_db
from tests.specs import Spec


@keras.saving.register_keras_serializable(package="tests")
class Scale(keras.layers.Layer):
    """`start * w * x + b`: the least that has an argument, weights and a sublayer."""

    def __init__(self, start=2.0, **kwargs):
        super().__init__(**kwargs)
        self.start = checks.in_range("Scale", "start", start, 0.0, 10.0)

    def build(self, input_shape):
        self.shift = keras.layers.Dense(
            input_shape[-1], kernel_initializer="identity", dtype=self.dtype_policy, name="shift"
        )
        self.shift.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        return self.start * self.shift(x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "start": self.start}


@keras.saving.register_keras_serializable(package="tests")
class ForgetsItsArgument(Scale):
    def get_config(self):
        return keras.layers.Layer.get_config(self)


@keras.saving.register_keras_serializable(package="tests")
class HasANumpyNumberInItsConfig(Scale):
    def get_config(self):
        return {**super().get_config(), "start": np.float32(self.start)}


@keras.saving.register_keras_serializable(package="tests")
class ComputesInFloat32(Scale):
    def call(self, x):
        return self.start * ops.cast(self.shift(x), "float32")


@keras.saving.register_keras_serializable(package="tests")
class HasASublayerOfAnotherPolicy(Scale):
    def build(self, input_shape):
        self.shift = keras.layers.Dense(input_shape[-1], name="shift")
        self.shift.build(input_shape)
        keras.layers.Layer.build(self, input_shape)


@keras.saving.register_keras_serializable(package="tests")
class StatesAnotherShape(Scale):
    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 1)


@keras.saving.register_keras_serializable(package="tests")
class StopsTheGradient(Scale):
    def call(self, x):
        return self.start * self.shift(x) + ops.stop_gradient(x)


@keras.saving.register_keras_serializable(package="tests")
class HasAnUnusedWeight(Scale):
    def build(self, input_shape):
        self.unused = self.add_weight(shape=(1,), name="unused")
        super().build(input_shape)


@keras.saving.register_keras_serializable(package="tests")
class LooksAtTheBatch(Scale):
    def call(self, x):
        return super().call(x - ops.mean(x, 0, keepdims=True))


@keras.saving.register_keras_serializable(package="tests")
class HasASignalBelowAStep(Scale):
    def call(self, x):
        return ops.relu(super().call(x) + 300) - 300


def spec(part):
    return Spec("layer", part.__name__, lambda: part(start=3.0))


def half_precision(spec):
    numerics.test_dtype_policy(spec, "mixed_float16")


BROKEN = [
    (serialization.test_every_init_argument_is_in_the_config, ForgetsItsArgument),
    (serialization.test_config_round_trip, HasANumpyNumberInItsConfig),
    (half_precision, ComputesInFloat32),
    (half_precision, HasASublayerOfAnotherPolicy),
    (numerics.test_static_shape_matches_output, StatesAnotherShape),
    (numerics.test_gradient, StopsTheGradient),
    (numerics.test_one_training_step_reaches_every_weight, HasAnUnusedWeight),
    (numerics.test_batch_of_one_and_of_five_agree, LooksAtTheBatch),
]


@pytest.mark.parametrize("contract", dict(BROKEN), ids=lambda c: c.__name__)
def test_a_good_part_fulfils(contract):
    contract(spec(Scale))


@pytest.mark.parametrize(("contract", "part"), BROKEN)
def test_a_broken_part_is_caught(contract, part):
    with pytest.raises((AssertionError, TypeError)):
        contract(spec(part))


@export.formats
def test_int8_that_loses_the_signal_is_caught(fmt, tmp_path):
    export.test_int8_parity(spec(Scale), fmt, tmp_path)
    with pytest.raises(AssertionError):
        export.test_int8_parity(spec(HasASignalBelowAStep), fmt, tmp_path)


@pytest.mark.parametrize(("layers", "least"), [(1, 25), (16, 25), (32, 22), (160, 15)])
def test_int8_of_deep_networks_may_lose_what_their_layers_do(layers, least):
    chain = [keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(layers))]
    assert least_db(keras.Sequential(chain)) == pytest.approx(least, abs=0.02)


def test_a_loss_fulfils_its_contract():
    loss = Spec(
        "loss",
        "cross_entropy",
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        input_shape=(5,),
    )
    numerics.test_loss_gradient(loss)
    serialization.test_config_round_trip(loss)


@keras.saving.register_keras_serializable(package="tests")
class Halves(keras.constraints.Constraint):
    def __call__(self, w):
        return w / 2


@keras.saving.register_keras_serializable(package="tests")
class DrawsAnew(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.random.normal(shape, dtype=dtype)


@keras.saving.register_keras_serializable(package="tests")
class IgnoresTheDtype(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return ops.zeros(shape)


@keras.saving.register_keras_serializable(package="tests")
class BeginsWithInfinity(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 1 / ops.cast(step, "float32")


def constraint(spec):
    rules.test_constraint_keeps_shape_and_dtype_and_does_nothing_twice(spec, (7, 5))


def initializer(spec):
    rules.test_initializer_gives_shape_dtype_and_the_same_values_for_the_same_seed(spec, (7, 5))


RULES = [
    (constraint, keras.constraints.NonNeg, [Halves]),
    (
        initializer,
        lambda: keras.initializers.HeNormal(seed=1),
        [DrawsAnew, IgnoresTheDtype],
    ),
    (
        rules.test_schedule_is_a_finite_rate_at_every_step,
        lambda: keras.optimizers.schedules.CosineDecay(0.1, 10),
        [BeginsWithInfinity],
    ),
]


@pytest.mark.parametrize(("contract", "good", "broken"), RULES)
def test_rules_tell_good_from_broken(contract, good, broken):
    contract(Spec("", "good", good))
    for part in broken:
        with pytest.raises(AssertionError):
            contract(Spec("", part.__name__, part))
