import json

import numpy as np
import pytest

from cnnkit.errors import DataError
from cnnkit.training.evaluate import calibration_error
from cnnkit.training.evaluate import evaluate
from cnnkit.training.evaluate import wilson
from tests.training.pictures import Pictures


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(right, n, low, high):
    np.testing.assert_allclose(wilson(right, n), (low, high), atol=5e-5)
    np.testing.assert_allclose(wilson(n - right, n), (1 - high, 1 - low), atol=5e-5)


def test_calibration_error_by_hand():
    sure = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False])
    assert calibration_error(sure, right) == pytest.approx(0.05)
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0


def test_scores_by_hand():
    data = Pictures(train=7, test=4, classes=3)  # test labels 0 1 2 0
    p = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.0, 0.9], [0.3, 0.4, 0.3]])
    scores = evaluate(lambda x: p, data)
    assert (scores.pictures, scores.accuracy, scores.majority) == (4, 0.5, 0.5)
    assert scores.confusion == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert [c.support for c in scores.classes] == [2, 1, 1]
    assert [c.precision for c in scores.classes] == [0.5, 0.0, 1.0]
    assert [c.recall for c in scores.classes] == [0.5, 0.0, 1.0]
    assert scores.macro_f1 == pytest.approx(0.5)
    assert scores.nll == pytest.approx(-np.log([0.8, 0.2, 0.9, 0.3]).mean())
    assert [(m.id, m.true, m.predicted, m.probability) for m in scores.mistakes] == [
        ("test/1.png", "bar 1", "bar 0", 0.7),
        ("test/3.png", "bar 0", "bar 1", 0.4),
    ]
    assert json.loads(json.dumps(scores.to_dict()))["classes"][2]["f1"] == 1.0


def test_majority_is_that_of_training():
    data = Pictures(train=4, test=5, classes=3)  # training labels 0 1 2 0
    data.labels("test")[:] = [1, 1, 1, 1, 0]
    assert evaluate(lambda x: np.eye(3)[[1] * 5], data).majority == pytest.approx(0.2)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="split test"):
        evaluate(lambda x: x, Pictures(test=0))
