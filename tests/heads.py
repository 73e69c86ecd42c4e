"""A small random head model in the real format, quick to compile, for the core tests."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import trimesh

from flamejax.head import REGION_NAMES, DenseLandmarks, HeadModel, LandmarkEmbedding


def random_head(seed: int = 0, subdivisions: int = 2, num_betas: int = 6, num_expression: int = 4) -> HeadModel:
    """Returns a head-sized ellipsoid with smooth random bases, random skinning and landmarks on its front."""
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
    posedirs = rng.normal(size=(36, 3 * count)) * 1e-3
    barycentric, contour_barycentric = rng.dirichlet(np.ones(3), 51), rng.dirichlet(np.ones(3), (79, 17))
    head = HeadModel.from_arrays(
        template,
        faces,
        shapedirs,
        num_betas=num_betas,
        posedirs=posedirs,
        J_regressor=regressor,
        lbs_weights=weights,
        landmark_embedding=LandmarkEmbedding(inner, barycentric, contour, contour_barycentric),
        regions=regions,
        uv=uv,
        uv_faces=faces,
        albedo_mean=rng.uniform(0.3, 0.7, (16, 16, 3)),
        albedo_basis=rng.normal(size=(3, 16, 16, 3)) * 0.03,
        name="random",
        licence="none",
    )
    return dataclasses.replace(head, dense=dense)


def random_params(head: HeadModel, seed: int = 0, batch: tuple[int, ...] = (), scale: float = 0.3):  # noqa: ANN201
    """Returns random coefficients and rotations."""
    from flamejax import HeadParams

    rng = np.random.default_rng(seed)
    zero = HeadParams.zeros(head, batch)
    leaves = {
        name: jnp.asarray(rng.normal(size=np.shape(value)) * scale, jnp.float32) for name, value in vars(zero).items()
    }
    return HeadParams(**leaves)
