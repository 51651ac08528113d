import keras
import numpy as np
import pytest

from cnnkit.layers import ToeplitzDense
from export.formats import onnx
from export.formats import tflite
from tests.specs import Spec

SPECS = (Spec("layer", "ToeplitzDense", lambda: ToeplitzDense(7, rank=3), input_shape=(12,)),)


def z(f, n):
    """The f-unit-circulant matrix: ones below the diagonal, f in the corner."""
    matrix = np.eye(n, k=-1)
    matrix[0, -1] = f
    return matrix


def circulant(f, v):
    """The Krylov matrix [v, Z v, Z² v, …]."""
    columns = [v]
    while len(columns) < len(v):
        columns.append(z(f, len(v)) @ columns[-1])
    return np.stack(columns, axis=1)


def vectors(layer):
    g, h = (np.asarray(w)[::-1] for w in (layer.g, layer.h))
    return [(g[:, k, 0], h[:, 0, k]) for k in range(layer.rank)]


def whole(layer):
    return sum(circulant(1, g) @ circulant(-1, h) for g, h in vectors(layer))


def matrix_of(layer, inputs):
    return np.asarray(layer(np.eye(inputs, dtype="float32"))).T


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_is_the_sum_of_products_of_circulant_matrices(rank):
    layer = ToeplitzDense(9, rank, use_bias=False)
    np.testing.assert_allclose(matrix_of(layer, 9), whole(layer), rtol=1e-4, atol=1e-5)
    displacement = z(1, 9) @ whole(layer) - whole(layer) @ z(-1, 9)
    assert np.linalg.matrix_rank(displacement, tol=1e-4) == rank


@pytest.mark.parametrize(("inputs", "units"), [(12, 5), (5, 12), (1, 3), (3, 1)])
def test_other_shapes_are_a_corner(inputs, units):
    layer = ToeplitzDense(units, use_bias=False)
    found = matrix_of(layer, inputs)
    np.testing.assert_allclose(found, whole(layer)[:units, :inputs], rtol=1e-4, atol=1e-5)
    assert layer.count_params() == 2 * 2 * max(inputs, units)


def test_is_the_product_by_fourier_transforms():
    layer = ToeplitzDense(16, use_bias=False)
    x = np.random.default_rng(0).normal(size=(3, 16)).astype("float32")
    turn = np.exp(1j * np.pi * np.arange(16) / 16)  # makes a skew-circulant matrix circulant
    want = 0
    y = np.asarray(layer(x))
    for g, h in vectors(layer):
        inner = np.fft.ifft(np.fft.fft(turn * h) * np.fft.fft(turn * x)) / turn
        want += np.fft.ifft(np.fft.fft(g) * np.fft.fft(inner)).real
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_rank_1_with_unit_vectors_is_the_identity():
    layer = ToeplitzDense(6, rank=1, use_bias=False)
    layer.build((None, 6))
    first = np.eye(6)[:, -1:]  # upside down
    layer.h.assign(first[:, :, None])
    layer.g.assign(first[:, :, None])
    np.testing.assert_allclose(matrix_of(layer, 6), np.eye(6), atol=1e-7)


def test_rank_2_holds_any_toeplitz_matrix():
    """Which the displacement of the matrix gives, by theorem 3.1."""
    n = 6
    rng = np.random.default_rng(0)
    diagonals = rng.normal(size=2 * n - 1)
    toeplitz = np.array([[diagonals[i - j + n - 1] for j in range(n)] for i in range(n)])
    assert np.linalg.matrix_rank(z(1, n) @ toeplitz - toeplitz @ z(-1, n)) == 2
    # W = Σ Z_1(g) Z_-1(h), where `2 g h` is the displacement, h being the last row of Z_-1(h).
    u, s, v = np.linalg.svd(z(1, n) @ toeplitz - toeplitz @ z(-1, n))
    layer = ToeplitzDense(n, 2, use_bias=False)
    layer.build((None, n))
    g, last_rows = u[:, :2] * s[:2], v[:2]
    # Row n of Z_-1(h) is h upside down.
    h = last_rows[:, ::-1].T / 2
    layer.g.assign(g[::-1, :, None])
    layer.h.assign(h[::-1, None, :])
    np.testing.assert_allclose(matrix_of(layer, n), toeplitz, rtol=1e-4, atol=1e-5)


def test_starts_with_the_variance_of_a_dense_layer():
    layer = ToeplitzDense(200, rank=3, use_bias=False)
    found = matrix_of(layer, 300)
    assert found.var() == pytest.approx(2 / 500, rel=0.15)


def test_learns_a_structured_matrix():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    teacher = ToeplitzDense(16, 1, use_bias=False)
    x = rng.normal(size=(256, 16)).astype("float32")
    y = np.asarray(teacher(x))
    model = keras.Sequential([keras.Input((16,)), ToeplitzDense(16, 2)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, y, epochs=60, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.05 * np.square(y).mean()


@pytest.mark.export
@pytest.mark.parametrize("fmt", [tflite, onnx], ids=["tflite", "onnx"])
def test_files_hold_the_vectors_not_the_matrix(fmt, tmp_path):
    image = keras.Input((256,), name="image")
    model = keras.Model(image, ToeplitzDense(256)(image))
    x = np.random.default_rng(0).normal(size=(2, 256)).astype("float32")
    path = fmt.write(model, tmp_path / "part")
    np.testing.assert_allclose(fmt.run(path, x), np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    assert 4 * 5 * 256 < path.stat().st_size < 12_000  # bytes; the matrix alone has 262,144


def test_bad_arguments():
    with pytest.raises(ValueError, match="`rank` of ToeplitzDense must be an integer >= 1"):
        ToeplitzDense(3, 0)
    with pytest.raises(ValueError, match="ToeplitzDense needs inputs of two axes"):
        ToeplitzDense(3)(np.zeros((1, 2, 3)))
