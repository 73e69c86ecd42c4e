"""Fixtures of one head, one fit and one photo for all tests of samplers."""

import pytest

from tests.sampling.faces import hidden_half, make_fit, observed, small_head, small_model, small_networks, small_vae


@pytest.fixture(scope="session")
def head():
    return small_head()


@pytest.fixture(scope="session")
def model():
    return small_model()


@pytest.fixture(scope="session")
def hidden():
    """The hidden half of the head, (V,) bool."""
    return hidden_half()


@pytest.fixture(scope="session")
def vae():
    return small_vae()


@pytest.fixture(scope="session")
def halves():
    """A Mesh-VAE whose hidden half is independent of the visible one."""
    return small_vae(halves=True)


@pytest.fixture(scope="session")
def fit():
    return make_fit()


@pytest.fixture(scope="session")
def photo(fit):
    return observed(fit)


@pytest.fixture(scope="session")
def networks():
    return small_networks()
