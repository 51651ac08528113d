import pytest

from tests.contracts.elsewhere import Elsewhere


@pytest.fixture(scope="session")
def jax():
    process = Elsewhere("jax")
    yield process
    process.close()


@pytest.fixture(scope="session")
def tensorflow_alone():
    process = Elsewhere("tensorflow")
    yield process
    process.close()
