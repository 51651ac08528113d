import keras
import numpy as np
import pytest

from cnnkit.ensembles import View
from cnnkit.ensembles import views
from cnnkit.ensembles import with_views
from cnnkit.ensembles.views import flips_of
from cnnkit.ensembles.views import seen_by
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from export.formats import onnx
from export.formats import tflite
from tests.ensembles.members import member
from tests.ensembles.members import pictures

X = pictures(12)


def cut(view, x):
    """Returns one view of pictures, as `seen_by` gives it to what predicts."""
    return seen_by(lambda part: part, x.shape[1:], [view])(x)


def test_a_whole_view_is_the_picture_and_a_flip_its_mirror_image():
    np.testing.assert_array_equal(cut(View(), X), X)
    np.testing.assert_array_equal(cut(View(flip=True), X), X[:, :, ::-1])


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [((0.0, 0.0), (0, 4), (0, 4)), ((0.0, 1.0), (0, 4), (4, 8)), ((1.0, 0.5), (4, 8), (2, 6))],
)
def test_a_crop_is_a_part_at_the_size_of_the_whole(place, rows, columns):
    part = X[:, slice(*rows), slice(*columns)]
    expected = keras.ops.image.resize(part, (8, 8), interpolation="bilinear")
    np.testing.assert_allclose(cut(View(0.5, *place), X), expected, atol=1e-3)


def test_from_away_there_is_black_around():
    found = cut(View(2.0), np.full((1, 8, 8, 1), 100.0, "float32"))[0, :, :, 0]
    np.testing.assert_array_equal(found[3:5, 3:5], 100)
    np.testing.assert_array_equal(found[[0, 7]], 0)
    np.testing.assert_array_equal(found[:, [0, 7]], 0)


def test_the_first_views_are_the_picture_and_its_corners():
    plain = views(5, flips=False)
    assert plain[0] == View()
    assert {(v.top, v.left) for v in plain[1:]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert not any(v.flip for v in views(7, flips=False))
    both = views(14, flips=True)
    assert [v.flip for v in both] == [False, True] * 7
    assert len(set(both)) == 14
    assert both[::2] == views(7, flips=False)


def test_grey_pictures_are_not_mirrored_unless_asked():
    assert not flips_of(1)
    assert flips_of(3)


@pytest.mark.parametrize(("count", "flips"), [(8, False), (15, True), (0, True)])
def test_there_are_only_so_many(count, flips):
    with pytest.raises(UsageError, match=f"1 to {14 if flips else 7}"):
        views(count, flips)


@pytest.mark.parametrize("wrong", [{"side": 0.0}, {"side": 2.5}, {"top": 1.1}, {"left": -0.1}])
def test_wrong_views(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` of View"):
        View(**wrong)


@pytest.mark.export
def test_one_graph_gives_the_mean_over_the_views(tmp_path):
    model, seen = member(1), [*views(4, flips=True), View(1.25)]
    parts = [model.predict(cut(view, X), verbose=0) for view in seen]
    expected = np.mean(parts, 0)
    assert np.abs(expected - parts[0]).max() > 1e-3
    outside = seen_by(lambda x: model.predict(x, verbose=0), (8, 8, 1), seen)(X)
    np.testing.assert_allclose(outside, expected, atol=1e-6)
    whole = with_views(model, seen)
    assert whole.count_params() == model.count_params()
    np.testing.assert_allclose(whole.predict(X, verbose=0), expected, atol=1e-6)
    loaded = load_model(save_model(whole, tmp_path / "views.keras"))
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, atol=1e-6)
    for format, name in ((tflite, "views.tflite"), (onnx, "views.onnx")):
        path = format.write(whole, tmp_path / name)
        np.testing.assert_allclose(format.run(path, X), expected, atol=1e-5)
