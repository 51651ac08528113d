import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cnnkit.errors import DataError
from cnnkit.training.evaluate import bootstrap_macro_f1
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


CONFUSION = np.array([[40, 6, 0], [5, 20, 2], [0, 3, 7]])


def test_interval_of_macro_f1_is_that_of_resampled_pictures():
    true, answer = (np.repeat(part, CONFUSION.ravel()) for part in np.indices((3, 3)).reshape(2, 9))
    rng = np.random.default_rng(1)
    drawn = (rng.integers(0, len(true), len(true)) for _ in range(1000))
    found = [f1_score(true[k], answer[k], average="macro") for k in drawn]
    low, high = bootstrap_macro_f1(CONFUSION)
    assert low < f1_score(true, answer, average="macro") < high
    np.testing.assert_allclose((low, high), np.percentile(found, [2.5, 97.5]), atol=0.015)


def test_interval_of_macro_f1_shrinks_with_the_root_of_the_number_of_pictures():
    width, smaller = (np.ptp(bootstrap_macro_f1(k * CONFUSION)) for k in (1, 100))
    assert smaller == pytest.approx(width / 10, rel=0.15)


def test_interval_of_macro_f1_leaves_out_classes_that_do_not_occur():
    absent = np.pad(CONFUSION, ((0, 1), (0, 1)))
    assert bootstrap_macro_f1(absent) == bootstrap_macro_f1(CONFUSION)
    assert bootstrap_macro_f1(np.diag([5, 0, 9])) == (1, 1)
    assert bootstrap_macro_f1(np.eye(2, dtype=int)[::-1] * 4) == (0, 0)


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
    assert scores.macro_f1_interval == bootstrap_macro_f1(np.array(scores.confusion))
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
