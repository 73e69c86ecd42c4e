"""What a run learns from: examples drawn online for networks that see landmarks alone, or rows of known ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cache import array_digest
from experiments.training.batches import Endless, endless
from experiments.training.ofer.examples import Examples, Source, draw_examples
from experiments.training.ofer.judge import SEED
from experiments.training.ofer.settings import OferTraining

STATISTICS = 4096
"""Examples that coefficients are scaled by."""


@dataclass(frozen=True)
class ExampleRows:
    """N known examples, numpy; of photos the sound ones, their features on disk. Random access gives one."""

    betas: np.ndarray
    """(N, S)"""
    motion: np.ndarray
    """(N, E + 3) expression and jaw; zeros where only identities are known."""
    points: np.ndarray
    """(N, 68, 2) pixels."""
    visible: np.ndarray
    """(N, 68) 1 = visible."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By encoder, (M, F) float16 of all M photos, the unsound ones as well."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """(N,) which of these."""
    identity: np.ndarray | None = None
    """(N,) labels, where they are known."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Examples:
        columns: Any = {name: np.asarray(part[index], np.float32) for name, part in self.columns().items()}
        features: Any = {name: np.array(part[self.rows[index]]) for name, part in self.features.items()}
        return Examples(**columns, features=features)

    @property
    def num_identities(self) -> int:
        """How many people there are, as far as that is known."""
        return 0 if self.identity is None else len(np.unique(self.identity))

    def columns(self) -> dict[str, np.ndarray]:
        """What `Examples` hold besides features."""
        return {name: getattr(self, name) for name in ("betas", "motion", "points", "visible")}

    def some(self, count: int) -> Examples:
        """`count` of them, always the same; all if there are fewer."""
        order = np.sort(np.random.default_rng(SEED).permutation(len(self))[:count])
        features = {name: jnp.asarray(part[self.rows[order]], jnp.float32) for name, part in self.features.items()}
        columns = {name: jnp.asarray(part[order]) for name, part in self.columns().items()}
        return Examples(**columns, features=features)

    def digest(self) -> str:
        """A short name of what is learned of which photos, wherever these lie."""
        return "-".join(array_digest(part)[:8] for part in self.columns().values())


@dataclass(frozen=True)
class Data:
    """The examples of a run."""

    batches: Any
    """Iterator of `Examples`, or of None where a step draws them from the source."""
    source: Source | None
    held_out: Callable[[int], Examples] | None
    """That many validation examples, always the same; fewer if there are no more."""
    motions: Callable[[], np.ndarray]
    """(N, E + 3) of training examples."""
    facts: Mapping[str, Any]
    """What of the data a run that goes on must find again, besides the options."""
    said: str
    """For the line that introduces a run."""


def drawn_data(training: Source, validation: Source, config: OferTraining) -> Data:
    """Examples that are drawn inside the step, without end."""
    return Data(
        Endless(),
        training,
        partial(_drawn, validation, jax.random.key(SEED)),
        lambda: np.asarray(_drawn(training, jax.random.key(7), STATISTICS).motion),
        {"examples": [array_digest(np.asarray(a)) for a in (training.expression, training.jaw, training.noise)]},
        f"{config.steps} steps of {config.batch_size} examples, drawn afresh",
    )


_drawn = jax.jit(draw_examples, static_argnums=2)


def known_data(training: ExampleRows, validation: ExampleRows | None, config: OferTraining) -> Data:
    """Known examples, in batches through grain.

    Raises:
      ValueError: there are fewer than a batch has.
    """
    count = len(training)
    if count < config.batch_size:
        raise ValueError(f"{count} training photos are fewer than a batch: --batch-size {count}.")
    people = f" of {training.num_identities} identities" if training.num_identities else ""
    return Data(
        endless(training, config.batch_size, config.seed),
        None,
        None if validation is None else validation.some,
        lambda: training.motion,
        {"photos_digest": training.digest()},
        f"{config.steps} steps of {config.batch_size} of {count} photos{people}: "
        f"{config.steps * config.batch_size / count:.1f} epochs",
    )
