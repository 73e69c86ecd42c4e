"""Fit head parameters to registered meshes (Diverse3DFace Eq. 3): second order, batched, compiled once.

For a given pose, the unposed scan is linear in the coefficients, and the linear system is the same for all scans, so it
is factorised once. Only the 18 pose parameters are optimised iteratively, with the coefficients eliminated at every
step (variable projection, Golub & Pereyra 1973). The damped Gauss-Newton steps converge in a few iterations.
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
MAX_RMS = 0.015
"""RMS distance, metres, from which a fit is reported as failed."""
MAX_COEFFICIENT_RMS = 8.0
"""RMS of the coefficients, standard deviations, from which a fit is reported as failed."""
MIN_RELATIVE_CHANGE = 1e-4
"""The optimisation ends when the energy's relative change is below this."""


@dataclasses.dataclass(frozen=True)
class ScanFitConfig:
    """Configuration of `fit_scans`."""

    noise: float = 1e-4
    """Standard deviation of a scan's coordinates about the model, metres. The fit is the maximum a posteriori head
    under this noise and N(0, 1) coefficients."""
    steps: int = 20
    """Maximum number of Gauss-Newton steps; scans that have converged stop earlier."""
    chunk: int = 16
    """Number of scans fitted at once; the last chunk is padded, so there is one compilation."""

    def __post_init__(self) -> None:
        if self.noise <= 0 or self.steps < 1 or self.chunk < 1:
            raise ValueError("noise, steps and chunk must be positive.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScanFit:
    """Heads fitted to scans, batch axes (*b,)."""

    params: HeadParams
    """Parameters (*b,) of the head; `global_orient` and `transl` move it to the scan."""
    vertices: Array
    """(*b, V, 3) the fitted head, metres, world frame: `flamejax.vertices(head, params)`."""
    unposed: Array
    """(*b, V, 3) the scan in the rest pose (`flamejax.head.unpose`), metres, head frame."""
    rms: Array
    """(*b,) root mean square distance of the scan's vertices from the fitted ones, metres; about 0 where the scan is
    not finite, since the mean head is fitted instead."""
    code: Array
    """(*b,) int32: 0 ok, else a key of `SCAN_REASONS`. Parameters are always finite."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScanSolver:
    """The factorised linear part of the fit, the same for all scans: L L^T = basis basis^T + noise^2 I."""

    whitened: Array
    """(C, 3 V) L^-1 basis."""
    unwhiten: Array
    """(C, C) L^-T: maps whitened coefficients back to coefficients."""
    noise_variance: Array
    """() noise^2."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ScanParams:
    """The parameters of one scan's fit, as they are optimised."""

    rotations: Array
    """(5, 3, 3) of the joints."""
    offset: Array
    """(3,) of the root, metres. Unlike `transl` it does not depend on where the coefficients move the joints."""
    coefficients: Array
    """(C,)"""


def scan_solver(head: HeadModel, config: ScanFitConfig | None = None) -> ScanSolver:
    """Factorise the linear part of the fit. Takes a second for a thousand components.

    Uses double precision, since the components' variances span six orders of magnitude.
    """
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
      head: the model, also one with local models (`with_local`).
      vertices: (*b, V, 3) metres, in the order of the head's vertices, anywhere in the world.
      config: `ScanFitConfig()` when left out.
      advance: called after each chunk with its number of scans, for progress bars.

    Returns:
      A `ScanFit` with batch axes (*b,). A scan that cannot be fitted has `code` != 0 and finite parameters; it does not
      affect the others of its batch.

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
    fits = []
    for start in range(0, len(flat), chunk):
        scans = flat[start : start + chunk]
        padded = np.concatenate([scans, np.repeat(scans[-1:], chunk - len(scans), axis=0)])
        fits.append(jax.device_get(_fit_chunk(head, solver, jnp.asarray(padded), config.steps)))
        advance(len(scans))
    joined = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[: len(flat)]), *fits)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), joined)


@functools.partial(jax.jit, static_argnames="steps")
def _fit_chunk(head: HeadModel, solver: ScanSolver, scans: Array, steps: int) -> ScanFit:
    """Fit scans along one axis (B, V, 3), traceable."""
    is_finite = jnp.all(jnp.isfinite(scans), axis=(1, 2))
    # Scans that are not finite, or so far away that squares overflow, are replaced by the mean head.
    is_usable = is_finite & (jnp.max(jnp.abs(jnp.nan_to_num(scans)), axis=(1, 2)) < 1e6)
    scans = jnp.where(is_usable[:, None, None], scans, jnp.broadcast_to(head.v_template, scans.shape))
    scan_params = jax.vmap(lambda scan: _minimise(head, solver, scan, steps))(scans)
    params = jax.vmap(functools.partial(_head_params, head))(scan_params)
    fitted = vertices(head, params)
    rms = jnp.sqrt(jnp.mean(jnp.sum((fitted - scans) ** 2, axis=-1), axis=-1))
    unposed = jax.vmap(lambda scan, params: _unpose_scan(head, scan.T, params).T)(scans, scan_params)
    is_plausible = jnp.mean(scan_params.coefficients**2, axis=-1) < MAX_COEFFICIENT_RMS**2
    code = jnp.where(is_finite, jnp.where(is_usable & (rms < MAX_RMS) & is_plausible, OK, NO_HEAD), NOT_FINITE)
    return ScanFit(params, fitted, unposed, rms, code.astype(jnp.int32))


def _minimise(head: HeadModel, solver: ScanSolver, scan: Array, steps: int) -> _ScanParams:
    """Minimise the energy by damped Gauss-Newton steps; never worse than the start. scan: (V, 3)."""
    planes = scan.T
    start = _initial_params(head, scan)

    def improve(carry: tuple[_ScanParams, Array, Array, Array]) -> tuple[_ScanParams, Array, Array, Array]:
        params, energy, damping, count = carry
        trial = _step(head, solver, planes, params, damping)
        trial_energy = _energy(head, solver, planes, trial)
        improved = trial_energy < energy  # False for NaN
        damping = jnp.clip(jnp.where(improved, damping / 10, damping * 10), 1e-9, 1e9)
        # A rejected step is tried again with more damping, unless the energies differ by rounding errors only.
        done = jnp.abs(energy - trial_energy) < MIN_RELATIVE_CHANGE * energy
        params = jax.tree.map(lambda new, old: jnp.where(improved, new, old), trial, params)
        return params, jnp.where(improved, trial_energy, energy), damping, jnp.where(done, steps, count + 1)

    carry = (start, _energy(head, solver, planes, start), jnp.asarray(1e-5), jnp.asarray(0))
    return jax.lax.while_loop(lambda carry: carry[3] < steps, improve, carry)[0]


def _initial_params(head: HeadModel, scan: Array) -> _ScanParams:
    """Return the mean shape, with each joint rotated by the Procrustes fit of its vertices, however far."""
    # The small constant couples joints that move (almost) no vertices to the head.
    weights = (head.lbs_weights**2 + 1e-4).T
    template, scans = (jnp.broadcast_to(points, (len(weights), *points.shape)) for points in (head.v_template, scan))
    _, world, translation = similarity_transform(template, scans, weights, with_scale=False)
    local = [world[0]] + [world[p].T @ world[k] for k, p in enumerate(head.parents[1:], start=1)]
    return _ScanParams(jnp.stack(local), translation[0], jnp.zeros(head.joint_dirs.shape[-1]))


def _step(head: HeadModel, solver: ScanSolver, planes: Array, params: _ScanParams, damping: Array) -> _ScanParams:
    """Make one damped Gauss-Newton step of all parameters.

    The whitened coefficients z also move the joints, by 12 numbers G z, and thereby the unposed scan. Their normal
    matrix is then I + U S U^T with U = [G^T, P] of rank 24, which is solved by Woodbury's identity.
    """
    basis = head.basis[: head.joint_dirs.shape[-1]].reshape(len(solver.unwhiten), -1)
    joints = shaped_joints(head, params.coefficients)
    value, by_pose, by_joint = unposed_jacobian(head, planes, params.rotations, joints, _translation(params, joints))
    by_pose, by_joint = (columns.reshape(len(columns), -1) for columns in (by_pose, by_joint))
    # The derivatives are at fixed translation, but here the offset is fixed: a rotation of the root changes `transl`.
    slope = -_product(params.rotations[0], skew_matrix(joints[0]))
    by_pose = by_pose.at[:3].add(_product(slope.T, by_pose[-3:]))
    residual = (value - head.v_template.T).reshape(-1) - _product(params.coefficients, basis)
    rows, pose = jnp.concatenate([by_pose, residual[None], by_joint]), len(by_pose)
    inner, projected = _product(rows, rows.T), _product(rows, solver.whitened.T)
    joint_motion = _product(head.joint_dirs[1:].reshape(len(by_joint), -1), solver.unwhiten)
    # The pose's columns and the residual, projected on the whitened coefficients' columns: (pose + 1, C).
    target = projected[: pose + 1] - _product(inner[: pose + 1, pose + 1 :], joint_motion)
    target = target.at[pose].add(-solver.noise_variance * _product(params.coefficients, solver.unwhiten))
    low_rank = jnp.concatenate([joint_motion, projected[pose + 1 :]])
    zero, one = jnp.zeros((len(by_joint),) * 2), jnp.eye(len(by_joint))
    core = jnp.block([[zero, -one], [-one, -inner[pose + 1 :, pose + 1 :]]]) + _product(low_rank, low_rank.T)
    solution = target - _product(jnp.linalg.solve(core, _product(low_rank, target.T)).T, low_rank)
    # The Schur complement: the normal equations of the pose with the coefficients eliminated.
    normal = inner[:pose, :pose] - _product(target[:pose], solution[:pose].T)
    gradient = inner[:pose, pose] - _product(target[:pose], solution[pose])
    damped = normal + jnp.diag(damping * jnp.diagonal(inner)[:pose] + 1e-9)
    update = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
    change = _product(solver.unwhiten, solution[pose] + _product(update, solution[:pose]))
    return dataclasses.replace(_update_pose(params, update), coefficients=params.coefficients + change)


def _energy(head: HeadModel, solver: ScanSolver, planes: Array, params: _ScanParams) -> Array:
    """Return the squared distance in the rest pose + noise^2 |coefficients|^2."""
    basis = head.basis[: head.joint_dirs.shape[-1]].reshape(len(solver.unwhiten), -1)
    residual = (_unpose_scan(head, planes, params) - head.v_template.T).reshape(-1)
    residual = residual - _product(params.coefficients, basis)
    return jnp.sum(residual**2) + solver.noise_variance * jnp.sum(params.coefficients**2)


def _update_pose(params: _ScanParams, update: Array) -> _ScanParams:
    """Apply a pose update (18,): rotate each joint further about its own axes, then add to the offset."""
    rotations = _product(params.rotations, rotation_matrix(update[:-3].reshape(-1, 3)))
    return dataclasses.replace(params, rotations=rotations, offset=params.offset + update[-3:])


def _unpose_scan(head: HeadModel, planes: Array, params: _ScanParams) -> Array:
    """Return the scan in the rest pose: planes (3, V) -> (3, V)."""
    joints = shaped_joints(head, params.coefficients)
    return unposed_planes(head, planes, params.rotations, joints, _translation(params, joints))


def _translation(params: _ScanParams, joints: Array) -> Array:
    """Return the `transl` that corresponds to the offset: x -> R x + offset is R (x - joint) + joint + transl."""
    return params.offset - joints[0] + _product(params.rotations[0], joints[0])


def _product(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=HIGHEST)


def _head_params(head: HeadModel, params: _ScanParams) -> HeadParams:
    orient, neck, jaw, left_eye, right_eye = axis_angle(params.rotations)
    translation = _translation(params, shaped_joints(head, params.coefficients))
    betas, expression = jnp.split(params.coefficients, [head.num_betas])
    return HeadParams(betas, expression, orient, neck, jaw, left_eye, right_eye, translation)
