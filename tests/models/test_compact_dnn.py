import math

from cnnkit import models
from tests.specs import Spec

SPECS = (
    Spec(
        "model",
        "compact_dnn",
        lambda: models.build("compact_dnn", (32, 32, 3), 5, width=3 / 16),
        input_shape=(32, 32, 3),
    ),
)


def test_parameters_and_maps_of_the_paper(symbolic):
    model = symbolic("compact_dnn", (224, 224, 3), 1000)
    params = sum(math.prod(v.shape) for v in model.weights)
    assert round(params / 1e6, 1) == 4.1
    alexnet = 60_965_224
    assert round(100 * params / alexnet, 1) == 6.7
    maps = [model.get_layer(f"pool{i}").output.shape[1] for i in (1, 2, 3, 4)]
    assert maps == [56, 28, 14, 7]
