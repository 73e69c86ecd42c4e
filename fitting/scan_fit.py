"""Registered meshes -> head parameters (Diverse3DFace Eq. 3): second order, batched, one compilation.

Given the pose, a scan taken back to rest is linear in the coefficients, and the linear system is the same for all
scans: it is factorised once. So only the pose's 18 unknowns are searched for, with the coefficients eliminated at every
step (variable projection, Golub & Pereyra 1973): damped Gauss-Newton steps that converge in a few rounds.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax._checks import check_shape
from flamejax.geometry import HIGHEST, similarity_transform
from flamejax.head import (
    HeadModel,
    HeadParams,
    axis_angle,
    rotation_matrix,
    shaped_joints,
    skew_matrix,
    unposed_jacobian,
    unposed_planes,
    vertices,
)

OK, NOT_FINITE, NO_HEAD = range(3)
SCAN_REASONS = {
    OK: "ok",
    NOT_FINITE: "the scan holds NaN or infinity",
    NO_HEAD: "no head of this model comes near the scan: is it in metres, with the head's vertices in order?",
}
"""What each `ScanFit.code` means, in words for the user."""
FAR = 0.015
"""RMS distance, metres, at which a fit no longer shows the scan's head."""
UNLIKELY = 8.0
"""RMS of the coefficients, standard deviations, of which there is no head."""
ENOUGH = 1e-4
"""A relative change of the energy below this ends the search."""


@dataclasses.dataclass(frozen=True)
class ScanFitConfig:
    """Settings of `fit_scans`."""

    noise: float = 1e-4
    """Standard deviation of a scan's coordinates about the model, metres, against coefficients of N(0, 1): the fit is
    the most likely head under both."""
    steps: int = 20
    """Gauss-Newton steps at most; scans that have converged end before."""
    chunk: int = 16
    """Scans worked on at once; the last chunk is filled up, so there is one compilation."""

    def __post_init__(self) -> None:
        if self.noise <= 0 or self.steps < 1 or self.chunk < 1:
            raise ValueError("noise, steps and chunk must be positive.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScanFit:
    """Heads fitted to scans, batch axes (*b,)."""

    params: HeadParams
    """All of the head's coefficients; `global_orient` and `transl` place it where the scan is."""
    vertices: Array
    """(*b, V, 3) the fitted head, metres, world frame: `flamejax.vertices(head, params)`."""
    unposed: Array
    """(*b, V, 3) the scan taken back to the rest pose (`unpose`), metres, head frame."""
    rms: Array
    """(*b,) root mean square distance of vertices, metres; 0 where the scan is not finite."""
    code: Array
    """(*b,) int32: 0 ok, else a key of `SCAN_REASONS`. Parameters are finite in any case."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScanSolver:
    """The linear part of the fit, the same for all scans. With A = basis basis^T + noise^2 I = L L^T: whitened (C, 3 V)
    is L^-1 basis, back (C, C) L^-T, and ridge () noise^2."""

    whitened: Array
    back: Array
    ridge: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """One scan's unknowns: rotations (5, 3, 3), offset (3,), coefficients (C,). The root's offset stands for the
    translation: it does not move with the joints."""

    rotations: Array
    offset: Array
    coefficients: Array


def scan_solver(head: HeadModel, config: ScanFitConfig | None = None) -> ScanSolver:
    """Factorise the linear part; takes a second for a thousand components. In double precision, as the components'
    variances span six orders of magnitude."""
    noise = (config or ScanFitConfig()).noise
    rows = np.asarray(head.basis[: head.joint_dirs.shape[-1]], np.float64)
    rows = rows.reshape(len(rows), -1)
    factor = np.linalg.cholesky(rows @ rows.T + noise**2 * np.eye(len(rows)))
    inverse = np.linalg.inv(factor)
    return ScanSolver(*(jnp.asarray(array, jnp.float32) for array in (inverse @ rows, inverse.T, np.asarray(noise**2))))


def fit_scans(
    head: HeadModel,
    vertices: Array | np.ndarray,
    *,
    config: ScanFitConfig | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> ScanFit:
    """Fit the head to registered meshes (Diverse3DFace Eq. 3; its norm is read as least squares with N(0, 1) priors).

    Args:
      head: the model; `with_local` gives one with local models, which is fitted in the same way.
      vertices: (*b, V, 3) metres, the head's vertices in its order, anywhere in the world.
      config: `ScanFitConfig()` when left out.
      advance: called with the number of scans done after each chunk, for progress bars.

    Returns:
      A `ScanFit` with batch axes (*b,). A scan that cannot be fitted has `code` != 0 and finite parameters; the others
      of its batch are not touched.

    Raises:
      ValueError: `vertices` is not (*b, V, 3) with the head's V.
    """
    check_shape("vertices", vertices, head.num_vertices, 3)
    config = config or ScanFitConfig()
    solver = scan_solver(head, config)
    batch = vertices.shape[:-2]
    flat = np.asarray(vertices, np.float32).reshape(-1, head.num_vertices, 3)
    chunk = min(config.chunk, len(flat))
    if not len(flat):
        one = jax.ShapeDtypeStruct((1, head.num_vertices, 3), jnp.float32)
        shapes = jax.eval_shape(lambda scans: _fit_chunk(head, solver, scans, config.steps), one)
        return jax.tree.map(lambda leaf: jnp.zeros((*batch, *leaf.shape[1:]), leaf.dtype), shapes)
    parts = []
    for start in range(0, len(flat), chunk):
        part = flat[start : start + chunk]
        filled = np.concatenate([part, np.repeat(part[-1:], chunk - len(part), axis=0)])
        parts.append(jax.device_get(_fit_chunk(head, solver, jnp.asarray(filled), config.steps)))
        advance(len(part))
    whole = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[: len(flat)]), *parts)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), whole)


@functools.partial(jax.jit, static_argnames="steps")
def _fit_chunk(head: HeadModel, solver: ScanSolver, scans: Array, steps: int) -> ScanFit:
    """`fit_scans` along one axis (B, V, 3), traceable."""
    finite = jnp.all(jnp.isfinite(scans), axis=(1, 2))
    # What is not finite, or so far out that squares overflow, is replaced by the mean head.
    sound = finite & (jnp.max(jnp.abs(jnp.nan_to_num(scans)), axis=(1, 2)) < 1e6)
    scans = jnp.where(sound[:, None, None], scans, jnp.broadcast_to(head.v_template, scans.shape))
    states = jax.vmap(lambda scan: _search(head, solver, scan, steps))(scans)
    params = jax.vmap(lambda state: _as_params(head, state))(states)
    fitted = vertices(head, params)
    rms = jnp.sqrt(jnp.mean(jnp.sum((fitted - scans) ** 2, axis=-1), axis=-1))
    unposed = jax.vmap(lambda scan, state: _unposed(head, scan.T, state).T)(scans, states)
    likely = jnp.mean(states.coefficients**2, axis=-1) < UNLIKELY**2
    code = jnp.where(finite, jnp.where(sound & (rms < FAR) & likely, OK, NO_HEAD), NOT_FINITE)
    return ScanFit(params, fitted, unposed, rms, code.astype(jnp.int32))


def _search(head: HeadModel, solver: ScanSolver, scan: Array, steps: int) -> _State:
    """Damped Gauss-Newton on the pose, coefficients eliminated. scan: (V, 3). Never worse than the start."""
    planes = scan.T
    start = _start(head, scan)

    def improve(carry: tuple[_State, Array, Array, Array]) -> tuple[_State, Array, Array, Array]:
        state, energy, damping, count = carry
        trial = _step(head, solver, planes, state, damping)
        tried = _energy(head, solver, planes, trial)
        better = tried < energy  # False for NaN
        damping = jnp.clip(jnp.where(better, damping / 10, damping * 10), 1e-9, 1e9)
        # A step that is refused is tried again, shorter, unless it is rounding that tells the two apart.
        done = jnp.abs(energy - tried) < ENOUGH * energy
        state = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, state)
        return state, jnp.where(better, tried, energy), damping, jnp.where(done, steps, count + 1)

    carry = (start, _energy(head, solver, planes, start), jnp.asarray(1e-5), jnp.asarray(0))
    return jax.lax.while_loop(lambda carry: carry[3] < steps, improve, carry)[0]


def _start(head: HeadModel, scan: Array) -> _State:
    """The mean shape, each joint turned by the Procrustes fit of what is bound to it: large turns are no matter."""
    # A share of everything else: a joint that moves (next to) nothing goes with the head.
    weights = (head.lbs_weights**2 + 1e-4).T
    template, scans = (jnp.broadcast_to(points, (len(weights), *points.shape)) for points in (head.v_template, scan))
    _, world, translation = similarity_transform(template, scans, weights, with_scale=False)
    local = [world[0]] + [world[p].T @ world[k] for k, p in enumerate(head.parents[1:], start=1)]
    return _State(jnp.stack(local), translation[0], jnp.zeros(head.joint_dirs.shape[-1]))


def _step(head: HeadModel, solver: ScanSolver, planes: Array, state: _State, damping: Array) -> _State:
    """One damped Gauss-Newton step of all unknowns.

    The coefficients z (whitened) also move the joints, by 12 numbers G z, and so the scan at rest. Their normal matrix
    is then I + U S U^T with U = [G^T, P] of rank 24, which is solved by Woodbury's identity.
    """
    basis = head.basis[: head.joint_dirs.shape[-1]].reshape(len(solver.back), -1)
    joints = shaped_joints(head, state.coefficients)
    value, by_pose, by_joint = unposed_jacobian(head, planes, state.rotations, joints, _translation(state, joints))
    by_pose, by_joint = (columns.reshape(len(columns), -1) for columns in (by_pose, by_joint))
    # The derivative is for a translation that is kept, but here the offset is: a turn of the root moves the former.
    slope = -_product(state.rotations[0], skew_matrix(joints[0]))
    by_pose = by_pose.at[:3].add(_product(slope.T, by_pose[-3:]))
    left = (value - head.v_template.T).reshape(-1) - _product(state.coefficients, basis)
    rows, pose = jnp.concatenate([by_pose, left[None], by_joint]), len(by_pose)
    inner, seen = _product(rows, rows.T), _product(rows, solver.whitened.T)
    moving = _product(head.joint_dirs[1:].reshape(len(by_joint), -1), solver.back)
    # What the whitened coefficients see of the pose's columns and of what is left: (pose + 1, C).
    target = seen[: pose + 1] - _product(inner[: pose + 1, pose + 1 :], moving)
    target = target.at[pose].add(-solver.ridge * _product(state.coefficients, solver.back))
    low_rank = jnp.concatenate([moving, seen[pose + 1 :]])
    zero, one = jnp.zeros((len(by_joint),) * 2), jnp.eye(len(by_joint))
    core = jnp.block([[zero, -one], [-one, -inner[pose + 1 :, pose + 1 :]]]) + _product(low_rank, low_rank.T)
    solved = target - _product(jnp.linalg.solve(core, _product(low_rank, target.T)).T, low_rank)
    # What the coefficients can do as well is no news of the pose: it is taken off the normal equations.
    normal = inner[:pose, :pose] - _product(target[:pose], solved[:pose].T)
    gradient = inner[:pose, pose] - _product(target[:pose], solved[pose])
    damped = normal + jnp.diag(damping * jnp.diagonal(inner)[:pose] + 1e-9)
    move = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
    change = _product(solver.back, solved[pose] + _product(move, solved[:pose]))
    moved = _moved(state, move)
    return dataclasses.replace(moved, coefficients=state.coefficients + change)


def _energy(head: HeadModel, solver: ScanSolver, planes: Array, state: _State) -> Array:
    """Squared distance at rest + noise^2 |coefficients|^2."""
    basis = head.basis[: head.joint_dirs.shape[-1]].reshape(len(solver.back), -1)
    left = (_unposed(head, planes, state) - head.v_template.T).reshape(-1)
    left = left - _product(state.coefficients, basis)
    return jnp.sum(left**2) + solver.ridge * jnp.sum(state.coefficients**2)


def _moved(state: _State, move: Array) -> _State:
    """The pose after a small move (18,): each joint turned further in its own axes, then the offset."""
    turn = rotation_matrix(move[:-3].reshape(-1, 3))
    rotations = _product(state.rotations, turn)
    return dataclasses.replace(state, rotations=rotations, offset=state.offset + move[-3:])


def _unposed(head: HeadModel, planes: Array, state: _State) -> Array:
    """The scan at rest: planes (3, V) -> (3, V)."""
    joints = shaped_joints(head, state.coefficients)
    return unposed_planes(head, planes, state.rotations, joints, _translation(state, joints))


def _translation(state: _State, joints: Array) -> Array:
    """`transl` of the root's offset: x -> R x + offset is R (x - joint) + joint + transl."""
    return state.offset - joints[0] + _product(state.rotations[0], joints[0])


def _product(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=HIGHEST)


def _as_params(head: HeadModel, state: _State) -> HeadParams:
    turns = axis_angle(state.rotations)
    translation = _translation(state, shaped_joints(head, state.coefficients))
    betas, expression = jnp.split(state.coefficients, [head.num_betas])
    return HeadParams(betas, expression, turns[0], turns[1], turns[2], turns[3], turns[4], translation)
