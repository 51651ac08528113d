import importlib
import subprocess
import sys

import pytest

from cnnkit import models
from cnnkit.errors import UsageError
from export import passes
from export.result import Result


@pytest.mark.parametrize(
    "text",
    ["prune-filters", "prune-filters:ratio=0.5", "prune-filters:ratio=0.5,scope=global,round_to=8"],
)
def test_a_pass_is_its_text(text):
    parsed = passes.parse(text)
    assert str(parsed) == text
    assert passes.parse(str(parsed)) == parsed


def test_defaults_are_left_out():
    assert str(passes.parse("prune-filters:ratio=0.3,criterion=l1")) == "prune-filters"


def test_a_pass_applies():
    result = passes.parse("prune-filters:ratio=0.5").apply(models.build("lenet300", (4, 4, 1), 3))
    assert isinstance(result, Result)
    assert result.model.get_layer("fc1").units == 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-filter", "Unknown pass 'prune-filter'. Closest: prune-filters"),
        ("", "Unknown pass ''. Closest: "),
        (
            "prune-filters:ration=0.5",
            "Unknown option of pass 'prune-filters' 'ration'. Closest: ratio,",
        ),
        (
            "prune-filters:ratio=2",
            "Wrong value of `ratio` of pass 'prune-filters'. "
            "Expected a number in [0, 1), default 0.3. Received 2.",
        ),
        ("prune-filters:ratio=much", "Expected a number in [0, 1), default 0.3. Received much."),
        ("prune-filters:ratio=nan", "Expected a number in [0, 1), default 0.3. Received nan."),
        ("prune-filters:scope=all", "Expected layer or global, default layer. Received all."),
        ("prune-filters:round_to=1.5", "Expected an integer >= 1, default 1. Received 1.5."),
        (
            "prune-filters:ratio",
            "Expected key=value, each key once. The keys are: ratio, of, criterion",
        ),
        ("prune-filters:ratio=0.1,ratio=0.2", "Expected key=value, each key once."),
    ],
)
def test_errors_say_what_is_right(text, message):
    with pytest.raises(UsageError) as error:
        passes.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize("name", passes.PASSES)
def test_every_pass_has_its_parts(name):
    module = importlib.import_module(passes.PASSES[name])
    assert callable(module.apply)
    assert str(passes.Pass(name, module.Config())) == name
    assert all(field.description for field in module.Config.__pydantic_fields__.values())


def test_parsing_does_not_import_tensorflow():
    texts = [f"passes.parse({name!r})" for name in passes.PASSES]
    code = f"import sys; from export import passes; {'; '.join(texts)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "sklearn"} & set(run.stdout.split())
