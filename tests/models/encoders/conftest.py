"""Tiny encoders, and inputs for them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.encoders import ArcFace, FaRL, IResNetConfig, ViTConfig

GOLDEN = Path(__file__).parent / "golden"
TINY_IRESNET = IResNetConfig(blocks=(1, 2), widths=(8, 8), stem=8, width=24, image_size=16)
TINY_VIT = ViTConfig(image_size=16, patch_size=8, hidden=32, layers=1, heads=2, width=24)


@pytest.fixture
def arcface():
    return ArcFace(TINY_IRESNET, rngs=nnx.Rngs(0))


@pytest.fixture
def farl():
    return FaRL(TINY_VIT, rngs=nnx.Rngs(1))


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture(scope="session")
def face():
    """Landmarks like those of a frontal face in a photo of 96 x 80: (68, 2), pixels."""
    angles = np.linspace(0, np.pi, 17)
    jaw = np.stack([48 - 26 * np.cos(angles), 38 + 32 * np.sin(angles)], -1)
    brows = [(x, 30) for x in np.linspace(28, 42, 5)] + [(x, 30) for x in np.linspace(54, 68, 5)]
    nose = [(48, y) for y in np.linspace(36, 48, 4)] + [(x, 51) for x in np.linspace(43, 53, 5)]
    around = np.arange(6) * np.pi / 3
    eyes = [np.stack([x + 4 * np.cos(around), 37 + 2 * np.sin(around)], -1) for x in (36, 60)]
    turned = np.arange(12) * np.pi / 6
    lips = np.stack([48 - 10 * np.cos(turned), 59 - 3 * np.sin(turned)], -1)
    inner = np.stack([48 - 8 * np.cos(turned[::2]), 59 - np.sin(turned[::2])], -1)
    inner = np.concatenate([inner, [[46, 60], [50, 60]]])
    return jnp.asarray(np.concatenate([jaw, brows, nose, *eyes, lips, inner]), jnp.float32)


@pytest.fixture
def inputs(face):
    """A function that makes photos, landmarks and visibility with given batch axes."""

    def make(*batch):
        key = jax.random.key(7)
        photo = jax.random.uniform(key, (*batch, 80, 96, 3))
        landmarks = jnp.broadcast_to(face, (*batch, 68, 2)) + jax.random.normal(key, (*batch, 68, 2))
        return photo, landmarks, jnp.ones((*batch, 68)).at[..., :10].set(0)

    return make
