import keras
import numpy as np

from cnnkit.training import predict
from cnnkit.training.predict import predict_keras


class Pixels:
    """An array of which it is known how much was read at a time."""

    def __init__(self, x):
        self.x, self.shape, self.read = x, x.shape, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        self.read.append(len(self.x[rows]))
        return self.x[rows]


def test_few_pictures_are_float32_at_a_time(monkeypatch):
    monkeypatch.setattr(predict, "_STEP", 8 * 8 * 32)
    monkeypatch.setattr(predict, "_FLOATS", 8 * 8 * 70)
    x = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1)).astype(np.uint8)
    flat = keras.layers.Flatten()
    model = keras.Sequential([keras.Input((8, 8, 1)), flat, keras.layers.Dense(3)])
    pixels = Pixels(x)
    found = predict_keras(model, pixels)
    assert pixels.read == [64, 64, 22]  # whole batches
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model(x.astype(np.float32)), rtol=1e-4, atol=1e-3)
