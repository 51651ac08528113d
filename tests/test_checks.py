import math
import re

import pytest

from cnnkit import checks
from cnnkit.errors import CnnkitError
from cnnkit.errors import DataError


@pytest.mark.parametrize(
    ("closed", "low_is_in", "high_is_in"),
    [
        ("both", True, True),
        ("left", True, False),
        ("right", False, True),
        ("neither", False, False),
    ],
)
def test_the_ends_of_an_interval(closed, low_is_in, high_is_in):
    for value, is_in in ((0, low_is_in), (1, high_is_in), (0.5, True), (-0.1, False), (1.1, False)):
        if is_in:
            found = checks.in_range("Part", "ratio", value, 0.0, 1.0, closed=closed)
            assert (found, type(found)) == (value, float)
        else:
            with pytest.raises(ValueError, match="Received: ratio="):
                checks.in_range("Part", "ratio", value, 0.0, 1.0, closed=closed)


def test_a_number_outside_is_reported_with_its_interval():
    message = "`ratio` of SqueezeExcite must be in (0.0, 1.0]. Received: ratio=1.5"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.in_range("SqueezeExcite", "ratio", 1.5, 0.0, 1.0, closed="right")


def test_nan_is_in_no_interval():
    with pytest.raises(ValueError, match="Received: ratio=nan"):
        checks.in_range("Part", "ratio", math.nan, 0.0, 1.0)


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5]])
def test_no_number(value):
    with pytest.raises(TypeError, match="must be a number in"):
        checks.in_range("Part", "ratio", value, 0.0, 1.0)


def test_integers():
    assert checks.integer("Part", "count", 3, 3) == checks.integer("Part", "count", 3, 0, 3) == 3


@pytest.mark.parametrize(
    ("value", "high", "error", "message"),
    [
        (1, None, ValueError, r"must be an integer >= 2\. Received: count=1$"),
        (9, 8, ValueError, r"must be an integer in \[2, 8\]\. Received: count=9$"),
        (3.0, None, TypeError, r"must be an integer >= 2\. Received: count=3\.0$"),
        (True, None, TypeError, r"Received: count=True$"),
    ],
)
def test_bad_integers(value, high, error, message):
    with pytest.raises(error, match=message):
        checks.integer("Part", "count", value, 2, high)


def test_choices():
    assert checks.one_of("Part", "mode", "max", ("max", "mean")) == "max"
    with pytest.raises(ValueError, match=r"one of \('max', 'mean'\)\. Received: mode='min'$"):
        checks.one_of("Part", "mode", "min", ("max", "mean"))


def test_channels():
    assert checks.known_channels("Part", (None, 8, 8, 3)) == 3
    with pytest.raises(ValueError, match=r"Part needs a known channel count"):
        checks.known_channels("Part", (None, 8, 8, None))


def test_an_error_says_what_where_expected_received_and_what_to_do():
    error = DataError("Bad", where="a.png", expected="a picture", received=0, todo="remove it.")
    assert str(error) == "Bad: a.png. Expected a picture. Received 0. Remove it."
    assert (error.exit_code, str(CnnkitError("Bad"))) == (4, "Bad.")
