from cnnkit import registry
from tests.specs import all_specs


def test_every_registered_part_has_a_spec():
    registered = {(kind, name) for kind in registry.KINDS for name in registry.names(kind)}
    specced = {(s.kind, s.name) for s in all_specs()}
    assert registered - specced == set(), "add SPECS to the part's own test file"
    assert specced - registered == set(), "SPECS names a part that is not registered"
