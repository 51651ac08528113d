import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.analysis import heat_maps
from cnnkit.errors import UsageError
from tests.analysis import corner

METHODS = {
    "gradcam": heat_maps.grad_cam,
    "gradcam++": heat_maps.grad_cam_plus_plus,
    "occlusion": heat_maps.occlusion,
}


@pytest.mark.parametrize("end", ["pool", "flatten"])
@pytest.mark.parametrize("method", METHODS)
def test_lights_the_corner_with_the_evidence(method, end):
    """5.2.2"""
    heat = METHODS[method](corner.net(end), corner.pictures(), np.array([0, 0]))
    assert heat.shape == (2, 16, 16)
    assert heat.min() >= 0
    assert heat[0].max() == 1
    assert heat[0, :9, :9].sum() > 0.8 * heat[0].sum()  # ends of the other line answer weakly
    other = METHODS[method](corner.net(end), corner.pictures(), np.array([1, 1]))
    assert other[0, 8:, 8:].sum() > 0.8 * other[0].sum()
    assert not heat[1].any()  # nothing in the dark picture speaks for anything


def trained_like():
    """A network with average pooling and Dense, random weights, some of them negative."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def test_cam_is_grad_cam_where_pooling_and_dense_follow():
    model, x = trained_like(), np.random.default_rng(0).uniform(0, 255, (3, 12, 12, 3))
    cam = heat_maps.class_activation_map(model, x, np.array([0, 1, 3]))
    np.testing.assert_allclose(cam, heat_maps.grad_cam(model, x, np.array([0, 1, 3])), atol=1e-5)
    assert cam.max() == 1
    answers = model.predict(x, verbose=0).argmax(1)
    np.testing.assert_array_equal(
        heat_maps.class_activation_map(model, x), heat_maps.class_activation_map(model, x, answers)
    )


def test_cam_matches_the_formula():
    model, x = trained_like(), np.random.default_rng(0).uniform(0, 255, (1, 12, 12, 3))
    maps = keras.Model(model.inputs[0], model.get_layer("conv").output).predict(x, verbose=0)
    want = np.maximum((maps[0] * model.get_layer("logits").kernel.numpy()[:, 2]).sum(-1), 0)
    want = np.asarray(keras.ops.image.resize(want[..., None], (12, 12)))[..., 0]
    got = heat_maps.class_activation_map(model, x, np.array([2]))
    np.testing.assert_allclose(got[0], want / want.max(), atol=1e-5)


def test_a_named_layer_and_its_errors():
    model, x = corner.net(), corner.pictures()
    np.testing.assert_array_equal(
        heat_maps.grad_cam(model, x, layer="relu"), heat_maps.grad_cam(model, x)
    )
    with pytest.raises(UsageError, match=r"Unknown layer 'rely'.*relu"):
        heat_maps.grad_cam(model, x, layer="rely")
    with pytest.raises(UsageError, match="no maps to look at: logits"):
        heat_maps.grad_cam(model, x, layer="logits")
    with pytest.raises(UsageError, match="need global average pooling"):
        heat_maps.class_activation_map(corner.net("flatten"), x)
    with pytest.raises(ValueError, match="`patch` of occlusion"):
        heat_maps.occlusion(model, x, patch=17)


def test_a_layer_beside_the_only_path_is_refused():
    x = image = keras.Input((8, 8, 1), name="image")
    side = layers.Conv2D(2, 3, padding="same", name="side")(x)
    x = layers.Add(name="add")([side, layers.Conv2D(2, 3, padding="same", name="main")(x)])
    x = layers.Dense(2, name="logits")(layers.Flatten(name="flatten")(x))
    model = keras.Model(image, x)
    picture = np.ones((1, 8, 8, 1))
    assert heat_maps.grad_cam(model, picture).shape == (1, 8, 8)
    with pytest.raises(UsageError, match="rest on more than the maps of this layer: side"):
        heat_maps.grad_cam(model, picture, layer="side")
