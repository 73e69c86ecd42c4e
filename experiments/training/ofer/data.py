"""What a run learns from: examples drawn online for networks that see landmarks alone, photos for the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from experiments.cache import array_digest
from experiments.training.batches import endless
from experiments.training.devices import batch_sharding
from experiments.training.loop import Endless
from experiments.training.ofer.coefficients import scan_coefficients
from experiments.training.ofer.examples import Examples, Kind, Source, draw_examples, make_source
from experiments.training.ofer.photo_examples import PhotoExamples, photo_examples
from experiments.training.ofer.settings import OferSettings
from flamejax.head import HeadModel
from models.encoders import ArcFace, FaRL

STATISTICS = 4096
"""Examples that coefficients are scaled by."""
SEED = 987_654
"""Of validation examples: no training step draws them."""


class OnlineData:
    """Examples drawn inside the step, without end."""

    online = True

    def __init__(self, training: Source, validation: Source):
        self.training, self.validation = training, validation
        self.batches: Any = Endless()

    def feed(self, batch: None, mesh: Mesh) -> Source:
        """What the step takes."""
        return self.training

    def held_out(self, count: int) -> Examples:
        """Validation examples, always the same."""
        return jax.jit(draw_examples, static_argnums=2)(self.validation, jax.random.key(SEED), count)

    def motions(self) -> np.ndarray:
        """(N, E + 3) of training examples."""
        return np.asarray(jax.jit(draw_examples, static_argnums=2)(self.training, jax.random.key(7), STATISTICS).motion)

    def record(self) -> dict[str, Any]:
        """What of the data a run that goes on must find again, besides the options."""
        source = self.training
        return {"examples": [array_digest(np.asarray(a)) for a in (source.expression, source.jaw, source.noise)]}

    def said(self, settings: OferSettings) -> str:
        """For the line that introduces a run."""
        return f"{settings.steps} steps of {settings.batch_size} examples, drawn afresh"


class PhotoData:
    """Examples of photos, in batches through grain."""

    online = False

    def __init__(self, training: PhotoExamples, validation: PhotoExamples, settings: OferSettings):
        """Raises: ValueError, there are fewer photos than a batch has."""
        if len(training) < settings.batch_size:
            raise ValueError(f"{len(training)} training photos are fewer than a batch: --batch-size {len(training)}.")
        self.training, self.validation = training, validation
        self.batches = endless(training, settings.batch_size, settings.seed)

    def feed(self, batch: Mapping[str, Any], mesh: Mesh) -> Examples:
        """What the step takes: a batch, spread over the devices."""
        return jax.device_put(Examples(**batch), batch_sharding(mesh))

    def held_out(self, count: int) -> Examples:
        """As `OnlineData`; all if there are fewer."""
        return self.validation.some(count)

    def motions(self) -> np.ndarray:
        """As `OnlineData`."""
        return self.training.motion

    def record(self) -> dict[str, Any]:
        """As `OnlineData`."""
        return {"photos_digest": self.training.digest()}

    def said(self, settings: OferSettings) -> str:
        """As `OnlineData`."""
        epochs = settings.steps * settings.batch_size / len(self.training)
        return (
            f"{settings.steps} steps of {settings.batch_size} of {len(self.training)} photos of "
            f"{self.training.num_identities} identities: {epochs:.1f} epochs"
        )


Data = OnlineData | PhotoData


def training_data(
    settings: OferSettings, head: HeadModel, kind: Kind, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> Data:
    """The data of a run.

    Args:
      kind: what is learned. encoders: the image encoders whose features it needs; without any, examples are drawn.

    Raises:
      ValueError: options that do not go together, scans or photos that cannot be used. OSError: disk trouble.
    """
    if encoders:
        return PhotoData(*photo_examples(settings, head, kind, encoders, console), settings)
    if settings.photos is not None or settings.dataset is not None or settings.encoder_files():
        raise ValueError(
            "--photos, --dataset, --arcface and --farl are of networks that look at photos (idgen, expgen, idrank); "
            "this one sees landmarks alone, and its examples are drawn."
        )
    found = [
        scan_coefficients(head, split, settings.scans, settings.unit, settings.every, settings.smoke, console)
        for split in ("train", "validation")
    ]
    return OnlineData(*(make_source(head, scans) for scans in found))
