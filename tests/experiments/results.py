"""Reconstructs with known random fits and real draws of a small head, for tests of reading results."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np

import flamejax
from experiments.reconstruct.tools import Tools
from fitting import Fit, prepare
from fitting.local_files import load_local_model, write_local_model
from flamejax.types import Observation
from models.mesh_vae import MeshVAEConfig
from models.pretrained import build_mesh_vae, load_mesh_vae, write_mesh_vae
from sampling import complete
from tests.experiments.fakes import HEAD, FakeTools
from tests.fitting.scenes import small_local_model

vertices = jax.jit(flamejax.vertices)


def write_networks(folder: Path) -> tuple[Path, Path]:
    """Write untrained local models and an untrained Mesh-VAE of the small head."""
    folder.mkdir(parents=True, exist_ok=True)
    write_local_model(folder / "local.npz", small_local_model(HEAD))
    config = MeshVAEConfig(strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True)
    write_mesh_vae(folder / "vae.npz", HEAD, build_mesh_vae(HEAD, config, HEAD.v_template, 0.01))
    return folder / "local.npz", folder / "vae.npz"


class KnownTools(FakeTools):
    """Fakes fits by random heads with local models, draws with a real Mesh-VAE, and records both."""

    def __init__(self, local: Path | None = None, vae: Path | None = None):
        super().__init__(seen_beyond=0.05)
        self.model = prepare(HEAD, None if local is None else load_local_model(HEAD, local))
        self.vae = None if vae is None else load_mesh_vae(HEAD, vae)
        self.given: list[Observation] = []
        self.fits: list[Fit] = []
        self.drawn: list = []

    def tools(self, config=None, head=HEAD) -> Tools:
        draw = None
        if config is not None and config.method in ("complete", "diverse"):
            draw = partial(self._draw, config.drawing.num_samples)
        fit = lambda observation: self.fit(head, observation)  # noqa: E731
        return Tools(self.observe, self.mask, self.model, fit, vertices, self.render, draw)

    def mask(self, head, observation: Observation) -> Observation:
        observation = super().mask(head, observation)
        self.given.append(observation)
        return observation

    def fit(self, head, observation: Observation) -> Fit:
        plain = super().fit(head, observation)
        rng, model = np.random.default_rng(len(self.fits)), self.model
        batch = observation.image.shape[:1]
        full = flamejax.HeadParams.zeros(model.head, batch)
        full = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32), full)
        full = dataclasses.replace(full, transl=np.zeros_like(full.transl))
        fit = dataclasses.replace(
            plain,
            params=full,
            vertices=vertices(model.head, full),
            texture=rng.normal(size=plain.texture.shape).astype(np.float32),
            light=rng.normal(size=plain.light.shape).astype(np.float32),
        )
        self.fits.append(jax.tree.map(np.asarray, fit))
        return fit

    def _draw(self, count: int, fit: Fit, observation: Observation, keys):
        hypotheses = complete(self.vae, self.model, fit, keys, num_samples=count)
        self.drawn.append(jax.device_get(hypotheses))
        return hypotheses


def one(tree, index: int = 0):
    """Return one face of a batch."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
