import json
import os
from pathlib import Path

import keras
import pytest

from tests.specs import each

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(autouse=True)
def _weights_without_values():
    with keras.StatelessScope(initialize_variables=False):
        yield
    # Keras has a list of such weights, and would give them values at the next occasion.
    keras.utils.clear_session()


@each("model")
def test_weight_paths_do_not_depend_on_what_was_built_before(spec):
    assert [w.path for w in spec.make().weights] == [w.path for w in spec.make().weights]


@each("model")
def test_summary_matches_golden(spec):
    model = spec.make()
    got = {
        "input": list(model.input_shape),
        "output": list(model.output_shape),
        "params": model.count_params(),
        "weights": {w.path: list(w.shape) for w in model.weights},
    }
    path = GOLDENS / f"{spec.name}.json"
    if os.environ.get("CNNKIT_ACCEPT") == "1":
        path.write_text(json.dumps(got, indent=1) + "\n")
    if not path.exists():
        pytest.fail(f"no {path.name}; check the numbers, then run with CNNKIT_ACCEPT=1")
    assert got == json.loads(path.read_text())
