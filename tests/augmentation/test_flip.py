import numpy as np
import pytest

from cnnkit.augmentation import Flip
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "Flip", lambda: Flip(vertical=True), input_shape=(7, 10, 3)),)
FORMS = {
    (False, False): lambda x: x,
    (True, False): lambda x: x[:, ::-1],
    (False, True): lambda x: x[::-1],
    (True, True): lambda x: x[::-1, ::-1],
}


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_exact_mirror_images_and_only_those_allowed(horizontal, vertical):
    """5.1"""
    x = pictures(64)
    flipped, _ = apply(Flip(horizontal, vertical), x)
    found = []
    for before, after in zip(x, flipped, strict=True):
        [form] = [key for key, turn in FORMS.items() if np.array_equal(turn(before), after)]
        found.append(form)
    assert set(found) == {form for form in FORMS if form[0] <= horizontal and form[1] <= vertical}
    if horizontal:
        assert 20 < sum(form[0] for form in found) < 44  # half of 64
