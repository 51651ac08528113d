import importlib
import pkgutil

import cnnkit
from cnnkit import registry
from tests.specs import all_specs


def test_every_registered_part_has_a_spec():
    for module in pkgutil.walk_packages(cnnkit.__path__, "cnnkit."):
        importlib.import_module(module.name)
    registered = {(kind, name) for kind in registry.KINDS for name in registry.names(kind)}
    specced = {(s.kind, s.name) for s in all_specs()}
    assert registered - specced == set(), "add SPECS to the part's own test file"
    assert specced - registered == set(), "SPECS names a part that is not registered"


def test_every_part_has_one_spec():
    specced = [(s.kind, s.name) for s in all_specs()]
    assert len(specced) == len(set(specced))
