"""Fit the joint regressor, and the jaw's skinning weights and pose correctives to the face unit `jawOpen`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from experiments.datasets.open_people import identity
from experiments.datasets.open_people.geometry import Head, neighbour_mean
from experiments.datasets.open_people.joints import JAW, LEFT_EYE, NECK, RIGHT_EYE
from experiments.datasets.open_people.sources import FACE_UNITS, N_BASE, MakeHumanSource
from tools.open_head.opening import widen_mouth
from tools.open_head.surface import MeanHeadSurface

HEAD_PIVOT, NECK_BASE, JAW_PIVOT = "joint-head", "joint-neck", "joint-mouth"
PARENTS = np.array([-1, 0, 1, 1, 1], np.int32)
REGRESSOR_SAMPLES = 80  # people that the joint regressor is fitted to


def joint_regressor(source: MakeHumanSource, head: Head, config: identity.PopulationConfig) -> tuple[np.ndarray, dict]:
    """Fit the joint regressor: (5, V) non-negative rows that sum to 1, and its RMS errors (mm) on random people.

    Targets are MakeHuman's joint cubes.
    """
    cubes = [NECK_BASE, HEAD_PIVOT, JAW_PIVOT]
    rows = sparse.lil_matrix((3, N_BASE))
    for k, name in enumerate(cubes):
        ids = _joint_cube(head, name)
        rows[k, ids] = 1.0 / len(ids)
    count = len(head.part)
    wider = replace(head, operator=sparse.vstack([head.operator, rows]).tocsr())
    people = identity.population(source, wider, replace(config, people=REGRESSOR_SAMPLES))[0].astype(np.float64)
    points, joints = people[:, :count], people[:, count:]
    template = head.to_head(head.base["vertices"])
    out, errors = np.zeros((5, count)), {}
    skin = np.where((head.part == 0) & (template[:, 0] >= -1e-6))[0]
    for k, name in enumerate(cubes):
        if name == NECK_BASE:  # the neck's root depends on the neck only
            pool = skin[template[skin, 1] < template[head.neck_loop, 1].max() + 0.035]
        else:
            pool = skin[::3]
        mean = (points[:, pool] + points[:, head.mirror[pool]] * [-1, 1, 1]) / 2  # x cancels between twins
        a = mean[:, :, 1:].transpose(0, 2, 1).reshape(-1, len(pool))
        b = joints[:, k, 1:].reshape(-1)
        sum_weight = 30.0 * np.sqrt(len(b)) * 0.3  # weight of the condition that the row sums to 1
        ridge = 0.01 * np.sqrt(len(b)) * np.eye(len(pool))  # spreads the weight over many vertices
        w, _ = nnls(
            np.concatenate([a, sum_weight * np.ones((1, len(pool))), ridge]),
            np.concatenate([b, [sum_weight], np.zeros(len(pool))]),
        )
        w /= w.sum()
        np.add.at(out[k], pool, w / 2)
        np.add.at(out[k], head.mirror[pool], w / 2)
        error = np.einsum("v,nvd->nd", out[k], points) - joints[:, k]
        errors[name] = float(1e3 * np.sqrt((error**2).sum(1).mean()))
    for joint, part in ((LEFT_EYE, 1), (RIGHT_EYE, 2)):
        out[joint, head.part == part] = 1.0 / (head.part == part).sum()
    return out, errors


def fit_jaw(
    source: MakeHumanSource, head: Head, weights: np.ndarray, surface: MeanHeadSurface, regressor: np.ndarray
) -> dict:
    """Fit `jawOpen`, with its mouth widened, by a rotation about the jaw joint.

    Returns weights (V,5) with a refitted jaw column, posedirs (36, V, 3), the full opening's angle (rad) and residuals.
    Per-vertex weights are the projection of the target on the rotation's displacement; posedirs hold the residual.
    """
    opening = head.to_head(source.target(FACE_UNITS + "jawOpen.target"))
    opening[head.part > 0] = 0
    opening = (opening + opening[head.mirror] * [-1, 1, 1]) / 2
    template = surface.vertices
    opening = widen_mouth(head, surface, opening)
    pivot = regressor[JAW] @ template
    rigid = weights[:, JAW] > 0.9 * weights[:, JAW].max()
    a, b = template[rigid] - pivot, template[rigid] + opening[rigid] - pivot
    angle = float(np.arctan2((a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]).sum(), (a[:, 1:] * b[:, 1:]).sum()))
    rotation = Rotation.from_rotvec([angle, 0, 0]).as_matrix()
    arm = (template - pivot) @ (rotation - np.eye(3)).T
    rig_residual = weights[:, [JAW]] * arm - opening
    # the ridge lets the rig's weight decide near the axis, where the rotation moves nothing
    ridge = (0.0015) ** 2
    jaw = ((opening * arm).sum(1) + ridge * weights[:, JAW]) / ((arm**2).sum(1) + ridge)
    moves = np.linalg.norm(opening, axis=1) > 2e-4
    jaw = np.clip(np.where(moves, jaw, 0.0), 0, 1)
    jaw = 0.7 * jaw + 0.3 * (neighbour_mean(head.faces, len(template)) @ jaw)
    jaw[head.part > 0] = 0
    jaw = (jaw + jaw[head.mirror]) / 2
    out = weights.copy()
    rest = np.delete(out, JAW, 1)
    rest[:, NECK] += np.where(rest.sum(1) < 1e-9, 1.0, 0.0)
    rest *= ((1 - jaw) / rest.sum(1))[:, None]
    out = np.insert(rest, JAW, jaw, axis=1)
    residual = opening - jaw[:, None] * arm
    blend = np.eye(3) + jaw[:, None, None] * (rotation - np.eye(3))
    corrective = np.linalg.solve(blend, residual[:, :, None])[:, :, 0]  # offsets are added before the rotation
    posedirs = np.zeros((36, len(template), 3))
    # only the sine entries (rows 9 + 5 and 9 + 7 of the feature): the offset is zero at rest and grows with the angle
    posedirs[9 + 5] = -corrective / (2 * np.sin(angle))
    posedirs[9 + 7] = corrective / (2 * np.sin(angle))
    moved = np.linalg.norm(opening, axis=1) > 5e-4
    rms = lambda e: float(1e3 * np.sqrt((e[moved] ** 2).sum(1).mean()))  # noqa: E731
    stats = {"angle_deg": float(np.degrees(angle)), "rig_rms_mm": rms(rig_residual), "refitted_rms_mm": rms(residual)}
    return {"weights": out, "posedirs": posedirs, "angle": angle, "stats": stats}


def _joint_cube(head: Head, name: str) -> np.ndarray:
    """Return the base vertex ids of one of MakeHuman's joint cubes."""
    return np.unique([i for quad, _ in head.base["groups"][name] for i in quad])
