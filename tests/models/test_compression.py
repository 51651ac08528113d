"""Every family can be pruned and trained for int8."""

import numpy as np
import pytest

from cnnkit import models
from export.graph import Graph
from export.pipeline import compress
from export.quantization.plan import plan
from export.quantization.twin import Twin
from tests.contracts.parts import perturb
from tests.export.networks import sqnr_db

# Model, picture size, width, options.
FAMILIES = [
    ("alexnet_grouped", 67, 1 / 16, {}),
    ("all_cnn_c", 12, 0.1, {}),
    ("compact_dnn", 32, 1 / 8, {}),
    ("highway10", 8, 0.5, {}),
    ("nin", 9, 0.1, {}),
    ("plain18", 32, 1 / 16, {}),
    ("resnet8", 9, 0.5, {}),
    ("resnet8", 9, 0.5, {"shortcut": "A"}),
    ("resnet50", 32, 1 / 16, {}),
    ("squeezenet1_0", 35, 1 / 8, {"bypass": True}),
    ("vgg11", 32, 1 / 16, {}),
    ("vgg11_bn", 32, 1 / 16, {}),
]
each_family = pytest.mark.parametrize(
    ("name", "size", "width", "options"),
    [pytest.param(*row, id="-".join([row[0], *map(str, row[3].values())])) for row in FAMILIES],
)


def build(name, size, width, options):
    return perturb(models.build(name, (size, size, 3), 5, width=width, **options))


def pictures(model, n=2):
    return np.random.default_rng(0).uniform(0, 2, (n, *model.input_shape[1:])).astype("float32")


def kill(graph, units):
    """Makes the weights zero that make the channels of `units`, and those that read them."""
    for site in graph.sites.values():
        for variable in getattr(site.layer, "weights", ()):
            value = np.array(variable)
            for axis, ids in site.slices.get(id(variable), {}).items():
                dead = np.isin(graph.unit[ids], units)
                value[(slice(None),) * axis + (dead,)] = 0
            variable.assign(value)


@each_family
def test_removing_dead_channels_is_exact(name, size, width, options):
    model = build(name, size, width, options)
    graph = Graph(model)
    firsts = [int(group.units[0]) for group in graph.groups]
    units = [unit for unit in firsts if not graph.disturbed([unit])]
    kill(graph, units)
    small = graph.rebuild(units)
    x = pictures(model)
    want = np.asarray(model(x, training=False))
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small(x, training=False), want, rtol=1e-4, atol=1e-5)
    assert np.ptp(want) > 0


# What an int8 runtime leaves in float, besides.
FLOATS = {
    "alexnet_grouped": {"LocalResponseNormalization"},
}


@each_family
def test_is_pruned_and_trained_for_int8(name, size, width, options):
    model = build(name, size, width, options)
    small = compress(model, ["prune-filters:ratio=0.3"]).model
    assert small.count_params() < 0.85 * model.count_params()
    floats = {reason.rsplit(" ", 1)[-1] for reason in plan(small).floats.values()}
    assert floats == FLOATS.get(name, set())
    twin = Twin(small, pixels=False)
    x = pictures(small, 8)
    twin.observe(x)
    plain, ranges = twin.finalize()
    want = np.asarray(small(x, training=False))
    # Its weights are on the grids of int8.
    assert sqnr_db(want, np.asarray(plain(x, training=False))) >= 25.0
    assert all(low < high for low, high in ranges.values())
