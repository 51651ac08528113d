import keras

from cnnkit import models
from tests.specs import Spec

SPECS = (
    Spec(
        "model",
        "all_cnn_c",
        lambda: models.build("all_cnn_c", (12, 12, 3), 5, width=0.1),
        input_shape=(12, 12, 3),
    ),
)


def test_strides_replace_pooling(symbolic):
    model = symbolic("all_cnn_c", (32, 32, 3), 10)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x for x in model.layers if x.weights] == convolutions
    assert not [x for x in model.layers if "Pooling" in type(x).__name__][:-1]
    assert [x.strides[0] for x in convolutions] == [1, 1, 2, 1, 1, 2, 1, 1, 1]
    # Table 1 of the paper: 32x32, 16x16, 8x8, and 6x6 at the end.
    assert [x.output.shape[1] for x in convolutions] == [32, 32, 16, 16, 16, 8, 6, 6, 6]
