import keras
import pytest

from cnnkit import models


@pytest.fixture
def symbolic():
    """Builds models whose weights have shapes and no values: full size costs nothing."""

    def build(*arguments, **options):
        with keras.StatelessScope(initialize_variables=False):
            return models.build(*arguments, **options)

    yield build
    # Keras has a list of such weights, and would give them values at the next occasion.
    keras.utils.clear_session()
