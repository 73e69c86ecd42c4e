"""A small random head model in the exact format: enough structure for every core test, and quick to compile."""

import jax.numpy as jnp
import numpy as np
import trimesh

from flamejax.head.formats.load import REGION_NAMES, stacked_basis
from flamejax.head.model import DenseLandmarks, HeadModel, LandmarkEmbedding

PARENTS = (-1, 0, 1, 1, 1)


def random_head(seed: int = 0, subdivisions: int = 2, num_betas: int = 6, num_expression: int = 4) -> HeadModel:
    """A head-sized ellipsoid with smooth random bases, random skinning and landmarks on its front."""
    rng = np.random.default_rng(seed)
    sphere = trimesh.creation.icosphere(subdivisions, 1.0)
    unit, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces, np.int32)
    template = (unit * [0.075, 0.11, 0.095] + [0.0, 0.1, 0.03]).astype(np.float32)
    count, components = len(template), num_betas + num_expression
    modes = rng.normal(size=(components, 3, 3)) * 0.003
    shapedirs = np.einsum("cij,vj->vic", modes, unit) + rng.normal(size=(count, 3, components)) * 2e-4
    joints = np.array([[0, 0, 0], [0, 0.04, 0], [0, 0.07, 0.03], [0.03, 0.12, 0.09], [-0.03, 0.12, 0.09]])
    near = np.exp(-((template[None] - joints[:, None]) ** 2).sum(-1) / (2 * 0.04**2))
    regressor = (near / near.sum(1, keepdims=True)).astype(np.float32)
    weights = (near**2 / (near**2).sum(0)).T.astype(np.float32)
    front = np.flatnonzero(template[faces].mean(1)[:, 2] > 0.06)
    inner = rng.choice(front, 51).astype(np.int32)
    contour = rng.integers(0, len(faces), (79, 17)).astype(np.int32)
    dense = DenseLandmarks(
        jnp.asarray(rng.choice(front, 468).astype(np.int32)),
        jnp.asarray(rng.dirichlet(np.ones(3), 468), jnp.float32),
        jnp.full(468, 0.03),
        jnp.asarray(inner),
        jnp.asarray(rng.dirichlet(np.ones(3), 51), jnp.float32),
        jnp.full(51, 0.03),
    )
    regions = {name: rng.random(count) < 0.3 for name in REGION_NAMES}
    regions["face"] |= template[:, 2] > 0.03
    for name in ("scalp", "neck", "boundary"):
        regions[name] &= template[:, 2] <= 0.03
    uv = np.stack([np.arctan2(unit[:, 0], unit[:, 2]) / (2 * np.pi) + 0.5, unit[:, 1] / 2 + 0.5], 1)
    return HeadModel(
        v_template=jnp.asarray(template),
        faces=jnp.asarray(faces),
        basis=jnp.asarray(stacked_basis(shapedirs, rng.normal(size=(36, 3 * count)) * 1e-3), jnp.float32),
        J_regressor=jnp.asarray(regressor),
        lbs_weights=jnp.asarray(weights),
        joint_template=jnp.asarray(regressor @ template),
        joint_dirs=jnp.asarray(np.tensordot(regressor, shapedirs, axes=1), jnp.float32),
        landmark_embedding=LandmarkEmbedding(
            jnp.asarray(inner),
            jnp.asarray(rng.dirichlet(np.ones(3), 51), jnp.float32),
            jnp.asarray(contour),
            jnp.asarray(rng.dirichlet(np.ones(3), (79, 17)), jnp.float32),
        ),
        regions={name: jnp.asarray(mask) for name, mask in regions.items()},
        uv=jnp.asarray(uv, jnp.float32),
        uv_faces=jnp.asarray(faces),
        albedo_mean=jnp.asarray(rng.uniform(0.3, 0.7, (16, 16, 3)), jnp.float32),
        albedo_basis=jnp.asarray(rng.normal(size=(3, 16, 16, 3)) * 0.03, jnp.float32),
        name="random",
        version="0",
        licence="none",
        num_betas=num_betas,
        parents=PARENTS,
        dense=dense,
    )


def random_params(head: HeadModel, seed: int = 0, batch: tuple[int, ...] = (), scale: float = 0.3):  # noqa: ANN201
    """Random coefficients and rotations."""
    from flamejax import HeadParams

    rng = np.random.default_rng(seed)
    zero = HeadParams.zeros(head, batch)
    leaves = {
        name: jnp.asarray(rng.normal(size=np.shape(value)) * scale, jnp.float32) for name, value in vars(zero).items()
    }
    return HeadParams(**leaves)
