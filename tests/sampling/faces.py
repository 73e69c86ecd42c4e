"""The canonical small face of these tests: a head of 162 vertices, Mesh-VAEs of it, fits, and photos that fits explain.

All tests of one kind use one size of everything, so that what one of them has compiled the others run.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flamejax
from experiments.datasets.renders import exact_observation
from fitting.fit_model import without_local_models
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadParams
from flamejax.types import Fit
from models import (
    GeneratorConfig,
    IdRankConfig,
    MeshVAE,
    MeshVAEConfig,
    UNet1DConfig,
    build_generator,
    build_rank,
    frontal_face,
    hierarchy_for,
)
from models.encoders import LandmarkEncoderConfig
from sampling import OferNetworks
from tests.heads import random_head

KEY = jax.random.key(0)
SIDE = 48
vertices_of = jax.jit(flamejax.vertices)
landmarks_of = jax.jit(flamejax.landmarks)


@functools.cache
def small_head():
    """Its left eyeball is the upper right corner; its left half counts as hidden, see `hidden_half`."""
    head = random_head(subdivisions=2)
    eyes = (head.v_template[:, 1] > 0.19) & (head.v_template[:, 0] < 0)
    return dataclasses.replace(head, regions={**head.regions, "left_eyeball": eyes, "right_eyeball": eyes})


@functools.cache
def small_model():
    return without_local_models(small_head())


@functools.cache
def hidden_half():
    """(V,) bool"""
    return small_head().v_template[:, 0] > 0.0


def head_frame(betas):
    """Vertices (V, 3) of coefficients in the head frame."""
    head = small_head()
    moved = vertices_of(head, dataclasses.replace(HeadParams.zeros(head), betas=betas))
    return moved - (head.joint_template[0] + head.joint_dirs[0, :, : head.num_betas] @ betas)[None]


@functools.cache
def small_vae(halves=False):
    """A Mesh-VAE whose components are the head's own betas, or those of the left and of the right half apart, so that
    the hidden half is free of the visible one; the convolutions add a micrometre or so."""
    head = small_head()
    mean = head_frame(jnp.zeros(head.num_betas))
    fields = np.stack([np.asarray(head_frame(row) - mean) for row in jnp.eye(head.num_betas)])
    if halves:
        half = np.asarray(hidden_half())[:, None]
        fields = np.concatenate([fields[:3] * half, fields[3:] * ~half])
    _, sizes, rows = np.linalg.svd(fields.reshape(len(fields), -1), full_matrices=False)
    config = MeshVAEConfig(
        strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True, linear_rank=len(rows),
        mean_scale=1e-4, log_variance_scale=1e-4,
    )  # fmt: skip
    hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
    components = jnp.asarray((sizes[:, None] * rows).reshape(fields.shape), jnp.float32)
    vae = MeshVAE(hierarchy, config, rngs=nnx.Rngs(0), mean=mean, spread=0.01, components=components)
    for weights in (vae.up[-1].conv.bases, vae.up[-1].residual.projection):
        weights[...] = 1e-3 * weights[...]
    return vae


@functools.cache
def without_dense():
    """The head, placed by its 68 landmarks alone."""
    return dataclasses.replace(small_head(), dense=None)


LANDMARK = LandmarkEncoderConfig(width=12, hidden=16, blocks=1)


def small_generator(kind, **changes):
    """Untrained: it draws from N(0, 1), the jaw from N(0, 0.05^2)."""
    head = without_dense()
    size = head.num_betas if kind == "identity" else head.num_expression + 3
    unet = UNet1DConfig((size, 4), context=12, time=16, heads=1, head_width=4, tokens=2)
    config = GeneratorConfig(kind, unet, landmark=LANDMARK, preconditioned=True, **changes)
    deviation = np.concatenate([np.ones(size - 3), np.full(3, 0.05)]) if kind == "expression" else None
    return build_generator(head, config, 0, None, deviation)


@functools.cache
def small_networks():
    """OFER's three networks, untrained."""
    head = without_dense()
    ranker = build_rank(head, IdRankConfig((16, 8), context=12, landmark=LANDMARK))
    return OferNetworks(small_generator("identity"), small_generator("expression"), ranker, frontal_face(head))


def make_fit(batch=(), seed=1, hidden=None, turn=0.5):
    """A fit of random betas, turned by up to `turn` radians about each axis, with a camera that has the head in a
    picture of `SIDE` pixels. hidden: (V,) bool, the left half when left out."""
    head, rng = small_head(), np.random.default_rng(seed)
    params = HeadParams.zeros(head, batch)
    params = dataclasses.replace(
        params,
        betas=jnp.asarray(rng.standard_normal(params.betas.shape), jnp.float32),
        global_orient=jnp.asarray(rng.uniform(-turn, turn, params.global_orient.shape), jnp.float32),
    )
    verts = vertices_of(head, params)
    camera = OrthographicCamera(
        jnp.full(batch, 3.0 * SIDE), jnp.broadcast_to(jnp.asarray([0.5 * SIDE, 0.8 * SIDE]), (*batch, 2))
    )
    visible = jnp.broadcast_to(~(hidden_half() if hidden is None else hidden), verts.shape[:-1])
    return Fit(
        params=params, vertices=verts, landmarks=landmarks_of(head, params), camera=camera,
        texture=jnp.zeros((*batch, 3)), light=jnp.zeros((*batch, 9, 3)).at[..., 0, :].set(2.0),
        vertex_visibility=visible, losses={}, code=jnp.zeros(batch, jnp.int32),
    )  # fmt: skip


@jax.jit
def rendered(head, fit):
    return flamejax.render(head, fit.vertices, fit.camera, size=(SIDE, SIDE), antialias=False)[..., :3]


def observed(fit, grey=False):
    """The photo that a fit explains, as an observation; without its colours if `grey`."""
    batch = fit.vertices.shape[:-2]
    image = jnp.full((*batch, SIDE, SIDE, 3), 0.5) if grey else rendered(small_head(), fit)
    points = fit.camera.project(fit.landmarks)[..., :2]
    flat = exact_observation(image.reshape(-1, SIDE, SIDE, 3), points.reshape(-1, 68, 2))
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)


def without_colours(photo):
    """The same with all of it under a mask: the landmarks stay, no colour counts."""
    return dataclasses.replace(photo, occlusion_mask=jnp.ones_like(photo.occlusion_mask))


def taken(tree, k):
    """One of a batch."""
    return jax.tree.map(lambda leaf: leaf[k], tree)
