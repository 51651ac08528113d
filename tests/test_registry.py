import subprocess
import sys

import keras
import pytest

from cnnkit import registry
from cnnkit.errors import UsageError


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(registry, "_PARTS", {kind: {} for kind in registry.KINDS})


def test_a_part_is_found_under_its_own_name_or_the_given_one():
    @registry.register("model")
    def small():
        pass

    registry.register("model", "a_tiny")(small)
    assert registry.get("model", "small") is registry.get("model", "a_tiny") is small
    assert registry.names("model") == ["a_tiny", "small"]
    assert registry.names("layer") == []


def test_parts_that_files_refer_to_are_registered_with_keras():
    @registry.register("loss")
    class HalfError(keras.losses.Loss):
        pass

    name = keras.saving.get_registered_name(HalfError)
    assert (name, keras.saving.get_registered_object(name)) == ("cnnkit>HalfError", HalfError)


def test_a_name_is_given_once():
    registry.register("model")(len)
    with pytest.raises(ValueError, match=r"model 'len' is already registered by builtins\."):
        registry.register("model")(len)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"`kind` must be one of .*Received: kind='modle'"):
        registry.register("modle")


def test_an_unknown_name_gets_the_three_closest():
    for name in ("lenet5", "lenet300", "resnet8", "resnet20", "vgg"):
        registry.register("model", name)(len)
    with pytest.raises(UsageError) as error:
        registry.get("model", "resnet18")
    assert str(error.value) == "Unknown model 'resnet18'. Closest: resnet8, resnet20, lenet5."
    assert error.value.exit_code == 2


def test_the_base_needs_no_keras():
    modules = "cnnkit.registry, cnnkit.checks, cnnkit.errors, cnnkit.files, cnnkit.types"
    code = f"import sys, {modules}; sys.exit(bool({{'keras', 'tensorflow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
