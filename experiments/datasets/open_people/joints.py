"""Joints, skinning weights and the jaw's pose correctives, from MakeHuman's default rig and the face unit `jawOpen`.

Joints: 0 root (base of neck), 1 neck (the head's pivot), 2 jaw, 3 left eye, 4 right eye; parents [-1, 0, 1, 1, 1].
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from experiments.datasets.open_people import identity
from experiments.datasets.open_people.geometry import HEAD_PIVOT, JAW_PIVOT, NECK_BASE, Head, adjacency
from experiments.datasets.open_people.opening import widened
from experiments.datasets.open_people.sources import FACE_UNITS, MPFB, N_BASE, Source
from experiments.datasets.open_people.surface import Surface

PARENTS = np.array([-1, 0, 1, 1, 1], np.int32)
ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
JAW_SAMPLES = 80  # people the joint regressor is fitted on


def rig_weights(source: Source, head: Head) -> np.ndarray:
    """MakeHuman's skinning weights summed into our five joints, (V, 5), rows sum to 1."""
    bones = source.json(MPFB + "rigs/standard/rig.default.json")
    weights = source.json(MPFB + "rigs/standard/weights.default.json")["weights"]

    def below(name: str, ancestor: str) -> bool:
        while name:
            if name == ancestor:
                return True
            name = bones[name]["parent"]
        return False

    base = np.zeros((N_BASE, 5))
    for bone, pairs in weights.items():
        if not pairs:
            continue
        ids, values = np.array(pairs, float).T
        if below(bone, "jaw"):
            share = {JAW: 1.0}
        elif below(bone, "head") or bone == "neck03":
            share = {NECK: 1.0}
        elif bone == "neck02":
            share = {ROOT: 0.35, NECK: 0.65}
        elif bone == "neck01":
            share = {ROOT: 0.8, NECK: 0.2}
        else:
            share = {ROOT: 1.0}
        for joint, part in share.items():
            base[ids.astype(int), joint] += part * values
    out = head.carry(base)
    out[head.part == 1] = np.eye(5)[LEFT_EYE]
    out[head.part == 2] = np.eye(5)[RIGHT_EYE]
    out = np.maximum(out, 0)
    return out / out.sum(1, keepdims=True)


def joint_regressor(source: Source, head: Head, config: identity.Config) -> tuple[np.ndarray, dict]:
    """(5, V) non-negative rows that sum to 1, and RMS errors (mm) against MakeHuman's cubes over random people."""
    cubes = [NECK_BASE, HEAD_PIVOT, JAW_PIVOT]
    rows = sparse.lil_matrix((3, N_BASE))
    for k, name in enumerate(cubes):
        ids = head.joint_cube(name)
        rows[k, ids] = 1.0 / len(ids)
    count = len(head.part)
    wider = replace(head, operator=sparse.vstack([head.operator, rows]).tocsr())
    people = identity.population(source, wider, replace(config, people=JAW_SAMPLES))[0].astype(np.float64)
    points, joints = people[:, :count], people[:, count:]
    template = head.carry(head.base["vertices"])
    out, errors = np.zeros((5, count)), {}
    skin = np.where((head.part == 0) & (template[:, 0] >= -1e-6))[0]
    for k, name in enumerate(cubes):
        if name == NECK_BASE:  # the neck's root follows the neck alone
            pool = skin[template[skin, 1] < template[head.neck_loop, 1].max() + 0.035]
        else:
            pool = skin[::3]
        mean = (points[:, pool] + points[:, head.mirror[pool]] * [-1, 1, 1]) / 2  # x cancels between twins
        a = mean[:, :, 1:].transpose(0, 2, 1).reshape(-1, len(pool))
        b = joints[:, k, 1:].reshape(-1)
        heavy = 30.0 * np.sqrt(len(b)) * 0.3
        ridge = 0.01 * np.sqrt(len(b)) * np.eye(len(pool))  # spreads the weight over many vertices
        w, _ = nnls(
            np.concatenate([a, heavy * np.ones((1, len(pool))), ridge]),
            np.concatenate([b, [heavy], np.zeros(len(pool))]),
        )
        w /= w.sum()
        np.add.at(out[k], pool, w / 2)
        np.add.at(out[k], head.mirror[pool], w / 2)
        error = np.einsum("v,nvd->nd", out[k], points) - joints[:, k]
        errors[name] = float(1e3 * np.sqrt((error**2).sum(1).mean()))
    for joint, part in ((LEFT_EYE, 1), (RIGHT_EYE, 2)):
        out[joint, head.part == part] = 1.0 / (head.part == part).sum()
    return out, errors


def fit_jaw(source: Source, head: Head, weights: np.ndarray, surface: Surface, regressor: np.ndarray) -> dict:
    """Explains `jawOpen`, its mouth widened, by a rotation about the jaw joint.

    Returns weights (V,5) with a refitted jaw column, posedirs (36, V, 3), the full opening's angle (rad) and residuals.
    Per-vertex weights are the projection of the target on the rotation's displacement; what is left goes to posedirs.
    """
    opening = head.carry(source.target(FACE_UNITS + "jawOpen.target"))
    opening[head.part > 0] = 0
    opening = (opening + opening[head.mirror] * [-1, 1, 1]) / 2
    template = surface.vertices
    opening = widened(head, surface, opening)
    pivot = regressor[JAW] @ template
    rigid = weights[:, JAW] > 0.9 * weights[:, JAW].max()
    a, b = template[rigid] - pivot, template[rigid] + opening[rigid] - pivot
    angle = float(np.arctan2((a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]).sum(), (a[:, 1:] * b[:, 1:]).sum()))
    rotation = Rotation.from_rotvec([angle, 0, 0]).as_matrix()
    arm = (template - pivot) @ (rotation - np.eye(3)).T
    rig_only = weights[:, [JAW]] * arm - opening
    # near the axis the rotation moves nothing: there the rig's own weight decides
    soft = (0.0015) ** 2
    jaw = ((opening * arm).sum(1) + soft * weights[:, JAW]) / ((arm**2).sum(1) + soft)
    near = adjacency(head.faces, len(template)) > 0
    moves = np.linalg.norm(opening, axis=1) > 2e-4
    jaw = np.clip(np.where(moves, jaw, 0.0), 0, 1)
    steps = sparse.diags(1 / np.asarray(near.sum(1)).ravel()) @ near
    jaw = 0.7 * jaw + 0.3 * (steps @ jaw)
    jaw[head.part > 0] = 0
    jaw = (jaw + jaw[head.mirror]) / 2
    out = weights.copy()
    rest = np.delete(out, JAW, 1)
    rest[:, NECK] += np.where(rest.sum(1) < 1e-9, 1.0, 0.0)
    rest *= ((1 - jaw) / rest.sum(1))[:, None]
    out = np.insert(rest, JAW, jaw, axis=1)
    left = opening - jaw[:, None] * arm
    blend = np.eye(3) + jaw[:, None, None] * (rotation - np.eye(3))
    corrective = np.linalg.solve(blend, left[:, :, None])[:, :, 0]  # offsets are added before the rotation
    posedirs = np.zeros((36, len(template), 3))
    # only the sine entries (rows 9 + 5 and 9 + 7 of the feature): the offset grows with the opening, none at rest
    posedirs[9 + 5] = -corrective / (2 * np.sin(angle))
    posedirs[9 + 7] = corrective / (2 * np.sin(angle))
    moved = np.linalg.norm(opening, axis=1) > 5e-4
    rms = lambda e: float(1e3 * np.sqrt((e[moved] ** 2).sum(1).mean()))  # noqa: E731
    stats = {"angle_deg": float(np.degrees(angle)), "rig_rms_mm": rms(rig_only), "refitted_rms_mm": rms(left)}
    return {"weights": out, "posedirs": posedirs, "angle": angle, "stats": stats}
