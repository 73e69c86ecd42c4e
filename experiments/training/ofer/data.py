"""The training data of a run: examples drawn online, for networks that see only landmarks, or stored ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cache import array_digest
from experiments.training.batches import NoBatches, shuffled_batches
from experiments.training.ofer.evaluation import SEED
from experiments.training.ofer.examples import Examples, ExampleSource, draw_examples
from experiments.training.ofer.settings import OferTraining

STATISTICS_EXAMPLES = 4096
"""Number of drawn examples from which the scale of coefficients is computed."""


@dataclass(frozen=True)
class ExampleRows:
    """N stored examples, NumPy; indexing returns one. For photos: those with a face, with features on disk."""

    betas: np.ndarray
    """(N, S)"""
    motion: np.ndarray
    """(N, E + 3) expression and jaw; zeros or (N, 0) if only identities are known."""
    points: np.ndarray
    """(N, 68, 2) pixels."""
    visible: np.ndarray
    """(N, 68), 1 = visible."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Encoder -> (M, F) float16 features of all M photos, including those without a face."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """(N,) index of each example among the M photos."""
    identity: np.ndarray | None = None
    """(N,) labels, if they are known."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Examples:
        columns: Any = {name: np.asarray(part[index], np.float32) for name, part in self.columns().items()}
        features: Any = {name: np.array(part[self.rows[index]]) for name, part in self.features.items()}
        return Examples(**columns, features=features)

    @property
    def num_identities(self) -> int:
        """Number of different people; 0 if identities are unknown."""
        return 0 if self.identity is None else len(np.unique(self.identity))

    def columns(self) -> dict[str, np.ndarray]:
        """Returns the fields of `Examples` other than features."""
        return {name: getattr(self, name) for name in ("betas", "motion", "points", "visible")}

    def subset(self, count: int) -> Examples:
        """Returns `count` examples, always the same ones; all if there are fewer."""
        order = np.sort(np.random.default_rng(SEED).permutation(len(self))[:count])
        features = {name: jnp.asarray(part[self.rows[order]], jnp.float32) for name, part in self.features.items()}
        columns = {name: jnp.asarray(part[order]) for name, part in self.columns().items()}
        return Examples(**columns, features=features)

    def digest(self) -> str:
        """Returns a digest of coefficients and landmarks, which does not depend on the photos' folder."""
        return "-".join(array_digest(part)[:8] for part in self.columns().values())


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run."""

    batches: Any
    """Iterator of `Examples`, or of None if a step draws them from the source."""
    source: ExampleSource | None
    validation: Callable[[int], Examples] | None
    """Returns that many validation examples, always the same ones; fewer if there are fewer."""
    motions: Callable[[], np.ndarray]
    """Returns the motion (N, E + 3) of training examples."""
    fingerprint: Mapping[str, Any]
    """JSON values that identify the data; a run can only be resumed with the same ones."""
    description: str
    """For the message at the start of a run."""


def online_data(training: ExampleSource, validation: ExampleSource, config: OferTraining) -> TrainingData:
    """Returns data whose examples are drawn inside the step."""
    return TrainingData(
        NoBatches(),
        training,
        partial(_draw_examples, validation, jax.random.key(SEED)),
        lambda: np.asarray(_draw_examples(training, jax.random.key(7), STATISTICS_EXAMPLES).motion),
        {"examples": [array_digest(np.asarray(a)) for a in (training.expression, training.jaw, training.noise)]},
        f"{config.steps} steps of {config.batch_size} examples, drawn afresh",
    )


_draw_examples = jax.jit(draw_examples, static_argnums=2)


def stored_data(training: ExampleRows, validation: ExampleRows | None, config: OferTraining) -> TrainingData:
    """Returns data of stored examples, in batches through grain.

    Raises:
      ValueError: there are fewer examples than a batch has.
    """
    count = len(training)
    if count < config.batch_size:
        raise ValueError(f"{count} training photos are fewer than a batch: --batch-size {count}.")
    people = f" of {training.num_identities} identities" if training.num_identities else ""
    return TrainingData(
        shuffled_batches(training, config.batch_size, config.seed),
        None,
        None if validation is None else validation.subset,
        lambda: training.motion,
        {"photos_digest": training.digest()},
        f"{config.steps} steps of {config.batch_size} of {count} photos{people}: "
        f"{config.steps * config.batch_size / count:.1f} epochs",
    )
