"""Training of every network and model from arrays; the commands of `experiments.train` are built on these functions.

Modules are imported on first use of a name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.training.local_models.train import train_local_models
    from experiments.training.mesh_vae.settings import MeshVAETraining
    from experiments.training.mesh_vae.train import train_mesh_vae
    from experiments.training.ofer.settings import GeneratorTraining
    from experiments.training.ofer.train import train_generator
    from experiments.training.record import TrainingRecord
    from fitting.local_training import LocalConfig

__all__ = [
    "GeneratorTraining",
    "LocalConfig",
    "MeshVAETraining",
    "TrainingRecord",
    "train_generator",
    "train_local_models",
    "train_mesh_vae",
]
_MODULES = {
    "GeneratorTraining": "experiments.training.ofer.settings",
    "LocalConfig": "fitting.local_training",
    "MeshVAETraining": "experiments.training.mesh_vae.settings",
    "TrainingRecord": "experiments.training.record",
    "train_generator": "experiments.training.ofer.train",
    "train_local_models": "experiments.training.local_models.train",
    "train_mesh_vae": "experiments.training.mesh_vae.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
