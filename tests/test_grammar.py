import pytest

from cnnkit.errors import UsageError
from cnnkit.grammar import parse

THINGS = {"plain": (), "rich": ("size", "kind")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ("plain", {})),
        ("plain:", ("plain", {})),
        ("rich:size=3", ("rich", {"size": "3"})),
        ("rich:kind=a=b,,size=", ("rich", {"kind": "a=b", "size": ""})),
    ],
)
def test_names_and_options(text, expected):
    assert parse("thing", text, THINGS, THINGS.__getitem__) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rch:size=3", "Unknown thing 'rch'. Closest: rich"),
        ("rich:sise=3", "Unknown option of thing 'rich' 'sise'. Closest: size"),
        ("rich:size", "Wrong option of thing 'rich': size. Expected key=value, each key once."),
        ("rich:size=3,size=3", "each key once. The keys are: size, kind."),
        ("plain:size", "Wrong option of thing 'plain': size. Expected key=value, each key once."),
        ("plain:size", "It has no options."),
    ],
)
def test_errors_say_what_is_right(text, message):
    with pytest.raises(UsageError) as error:
        parse("thing", text, THINGS, THINGS.__getitem__)
    assert message in str(error.value)
