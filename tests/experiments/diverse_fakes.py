"""Fast fakes of fits and of Algorithm 2, for tests of the tables of hypotheses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import fitting
from experiments.tables import diverse_runs
from experiments.tables.diverse_cases import Case
from experiments.tables.diverse_runs import Runner, Settings
from flamejax.types import Hypotheses
from sampling._complete import eyeball_vertices
from tests.experiments.fakes import FakeTools
from tests.experiments.test_completion import HEAD, tiny_vae

VAE = tiny_vae()
SIDE = 64
COUNT = HEAD.num_vertices
EYES = np.asarray(eyeball_vertices(HEAD))


@dataclass(frozen=True)
class FakeConfig:
    """Replaces DiversifyConfig."""

    k: float = 0.5
    n_sigma: float = 3.0
    iterations: int = 10


class Fakes:
    """Fakes fits and hypotheses, and counts them."""

    def __init__(self, monkeypatch):
        self.fits, self.draws, self.bad = 0, [], None
        monkeypatch.setattr(diverse_runs.fitting, "fit", self.fit)
        monkeypatch.setattr(diverse_runs, "diversify", self.draw)
        monkeypatch.setattr(Runner, "_prepare", lambda runner, fitted: fitting.prepare(HEAD))

    def fit(self, model, observation, config):
        self.fits += 1
        return FakeTools().fit(HEAD, jax.tree.map(np.asarray, observation))

    def draw(self, vae, model, fit, observation, key, *, num_samples, config):
        """Returns heads 1 mm apart at visible vertices and n_sigma mm at hidden ones, times 1 + iterations."""
        self.draws.append((vae is not None, fit, config))
        steps = (
            np.arange(num_samples)[:, None, None] * np.where(fit.vertex_visibility, 1, config.n_sigma)[None, :, None]
        )
        verts = np.asarray(fit.vertices)[None] + 1e-3 * steps * np.array([1.0, 0, 0]) * (1 + config.iterations)
        if self.bad is not None and np.asarray(observation.image).mean() < self.bad:
            verts = np.full_like(verts, np.nan)
        latents = None if vae is None else jax.random.normal(key, (num_samples, *vae.latent_shape))
        return Hypotheses(jnp.asarray(verts, jnp.float32), None, latents, -jnp.arange(num_samples, dtype=jnp.float32))


def case(number: int, occluder: str = "glasses", truth: bool = True) -> Case:
    image = np.full((SIDE, SIDE, 3), 0.2 + 0.05 * number, np.float32)
    (observation,) = FakeTools().observe(image, size=SIDE, all_faces=False)
    shown = np.asarray(HEAD.v_template)[:, 2] > 0.05
    if not truth:
        return Case(f"photo{number}", number, "photo", observation)
    clean = np.asarray(HEAD.v_template)[:, 2] > 0.0
    at_root = np.asarray(HEAD.v_template) - np.asarray(HEAD.joint_template[0])
    return Case(f"subject_{number:04d}-bareteeth", number, occluder, observation, shown, clean, at_root)


def runner(folder, **settings) -> Runner:
    return Runner(HEAD, VAE, Settings(FakeConfig(), **{"num_samples": 3, **settings}), folder)


def run_fit(one: Case):
    return jax.tree.map(lambda leaf: leaf[0], FakeTools().fit(HEAD, jax.tree.map(lambda a: a[None], one.observation)))
