"""Networks over meshes, images and coefficients (Flax NNX), converters of public weights, pretrained defaults.

Weights are read by the `load_...` functions, not before. Encoders of photos are in `models.encoders`.
"""

from models.generator import Generator, GeneratorConfig
from models.hierarchy import MeshHierarchy, MeshStep, NeighbourLists, mesh_hierarchy
from models.mesh_conv import MeshBlock, MeshConv
from models.mesh_vae import MeshVAE, MeshVAEConfig, Posterior, hierarchy_for, num_parameters
from models.noise_schedule import Schedule, ScheduleName, make_schedule
from models.ofer_weights import (
    build_generator,
    build_rank,
    load_generator,
    load_rank,
    ofer_path,
    write_generator,
    write_rank,
)
from models.pretrained import (
    build_mesh_vae,
    has_shipped_mesh_vae,
    load_mesh_vae,
    mesh_vae_path,
    write_mesh_vae,
)
from models.rank import (
    FrontalFace,
    IdRank,
    IdRankConfig,
    frontal_face,
    frontal_vertices,
    rank_errors,
    rank_loss,
)
from models.unet1d import UNet1D, UNet1DConfig
from models.weight_files import digest_of_weights

__all__ = [
    "FrontalFace",
    "Generator",
    "GeneratorConfig",
    "IdRank",
    "IdRankConfig",
    "MeshBlock",
    "MeshConv",
    "MeshHierarchy",
    "MeshStep",
    "MeshVAE",
    "MeshVAEConfig",
    "NeighbourLists",
    "Posterior",
    "Schedule",
    "ScheduleName",
    "UNet1D",
    "UNet1DConfig",
    "build_generator",
    "build_mesh_vae",
    "build_rank",
    "digest_of_weights",
    "frontal_face",
    "frontal_vertices",
    "has_shipped_mesh_vae",
    "hierarchy_for",
    "load_generator",
    "load_mesh_vae",
    "load_rank",
    "make_schedule",
    "mesh_hierarchy",
    "mesh_vae_path",
    "num_parameters",
    "ofer_path",
    "rank_errors",
    "rank_loss",
    "write_generator",
    "write_mesh_vae",
    "write_rank",
]
