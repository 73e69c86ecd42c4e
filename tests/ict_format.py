"""Synthetic folders in the format of ICT-FaceKit's `FaceXModel`: its names, sizes and units, but other shapes."""

import json
from pathlib import Path

import numpy as np

from flamejax.head.formats.ict_files import EYE_SHAPES, EYEBALLS, HEAD, NUM_VERTICES

JAW_ANGLE, EYE_ANGLE = 0.35, 0.3
RINGS, AROUND = 74, 152
"""The head is a grid of 74 x 152 = 11,248 vertices, rolled into a tube."""
EYES = ((-3.0, 3.0, 7.0), (3.0, 3.0, 7.0))
"""Centres of the two vertex ranges: the first, which the README calls left, is at -x."""
HINGE = np.array([0.0, -1.0, 0.0])
EXPRESSION_SHAPES = ("browDown_L", "mouthSmile_R")


def head_mesh() -> tuple[np.ndarray, np.ndarray]:
    """Returns vertices (26719, 3) in centimetres and quads of the head and other parts. The neck is open."""
    points = np.zeros((NUM_VERTICES, 3))
    up = np.linspace(-14, 11, RINGS)
    radius = np.where(up < -9, 5.0, 8.0 * np.sqrt(np.clip(1 - (up / 11.6) ** 4, 0.02, 1)))
    angle = np.arange(AROUND) / AROUND * 2 * np.pi  # from the face to the subject's left
    grid = np.stack(
        [
            radius[:, None] * np.sin(angle),
            np.broadcast_to(up[:, None], (RINGS, AROUND)),
            1.1 * radius[:, None] * np.cos(angle),
        ],
        -1,
    )
    points[: len(HEAD)] = grid.reshape(-1, 3)
    index = np.arange(len(HEAD)).reshape(RINGS, AROUND)
    neighbour = np.roll(index, -1, 1)
    quads = [np.stack([index[:-1], neighbour[:-1], neighbour[1:], index[1:]], -1).reshape(-1, 4)]
    for ball, centre in zip(EYEBALLS, EYES, strict=True):
        rng = np.random.default_rng(len(quads))
        unit = rng.standard_normal((len(ball), 3))
        points[list(ball)] = centre + 1.2 * unit / np.linalg.norm(unit, axis=1, keepdims=True)
        quads.append(ball.start + np.arange(4 * (len(ball) // 4)).reshape(-1, 4))
    quads.append(np.arange(14062, 14462).reshape(-1, 4))  # part of the teeth, which the reader leaves out
    return points, np.concatenate(quads)


def nearest(points: np.ndarray, sideways: float, up: float) -> int:
    """Returns the head's frontal vertex nearest to x and y (centimetres)."""
    head = points[: len(HEAD)]
    return int(np.argmin((head[:, 0] - sideways) ** 2 + (head[:, 1] - up) ** 2 + 100 * (head[:, 2] < -0.1)))


def landmark_positions() -> list[tuple[float, float]]:
    """Returns x and y (centimetres) of the 68 landmarks in iBUG order, contour from the subject's right (-x)."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 17)
    positions = [(7.6 * np.sin(t), 2.0 - 10 * np.cos(t)) for t in turn]
    positions += [(x, 5.0) for x in np.linspace(-5, -1, 5)] + [(x, 5.0) for x in np.linspace(1, 5, 5)]
    positions += [(0.0, y) for y in np.linspace(3, 0, 4)] + [(x, -1.0) for x in np.linspace(-1, 1, 5)]
    for middle in (-3.0, 3.0):
        positions += [(middle - 1.5, 3), (middle - 0.5, 3.6), (middle + 0.5, 3.6), (middle + 1.5, 3)]
        positions += [(middle + 0.5, 2.4), (middle - 0.5, 2.4)]
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    positions += [(-2.5 * np.cos(t), -4 + np.sin(t)) for t in around]
    inside = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return positions + [(-1.8 * np.cos(t), -4 + 0.4 * np.sin(t)) for t in inside]


def rotate_about(points: np.ndarray, axis: int, angle: float, centre: np.ndarray) -> np.ndarray:
    """Rotate points about an axis through a centre."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    out = points - centre
    cosine, sine = np.cos(angle), np.sin(angle)
    out[:, one], out[:, two] = cosine * out[:, one] - sine * out[:, two], sine * out[:, one] + cosine * out[:, two]
    return out + centre


def shapes(points: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the shapes' vertices: a rotating jaw (and a bulge that no rotation explains), rotating eyes, others."""
    head = points[:, 1] > -1e9
    head[len(HEAD) :] = False
    lower = np.clip((-2 - points[:, 1]) / 2, 0, 1) * np.clip((points[:, 1] + 12) / 3, 0, 1) * (points[:, 2] > 1) * head
    out = {"jawOpen": points + lower[:, None] * (rotate_about(points, 0, JAW_ANGLE, HINGE) - points)}
    out["jawOpen"][:, 0] += 0.05 * lower * points[:, 0]
    signs = {"Up": (0, -1), "Down": (0, 1), "Out": (1, 1), "In": (1, -1)}
    for name in EYE_SHAPES:
        direction, is_left = name[7:-2], name.endswith("_L")
        ball, centre = (EYEBALLS[1], EYES[1]) if is_left else (EYEBALLS[0], EYES[0])
        axis, sign = signs[direction]
        sign *= 1 if is_left or axis == 0 else -1
        moved = points.copy()
        moved[list(ball)] = rotate_about(points[list(ball)], axis, sign * EYE_ANGLE, np.asarray(centre))
        if axis == 0:  # the lids follow
            near = np.exp(-((points[:, :2] - np.asarray(centre)[:2]) ** 2).sum(1)) * head * (points[:, 2] > 0)
            moved[:, 1] -= 0.3 * sign * near
        out[name] = moved
    for number, name in enumerate(EXPRESSION_SHAPES):
        out[name] = points + np.sin(points + number) * 0.1
    return out


def write_folder(folder: Path, identities: int = 3) -> dict[str, np.ndarray]:
    """Write `FaceXModel` with a few identities. Returns name -> vertices in centimetres."""
    folder.mkdir(parents=True)
    points, quads = head_mesh()
    meshes = {"generic_neutral_mesh": points, **shapes(points)}
    for number in range(identities):
        meshes[f"identity{number:03d}"] = points * (1 + 0.02 * np.eye(3)[number % 3])
    polygons = "".join(
        "f " + " ".join(f"{vertex + 1}/{vertex % 500 + 1}/1" for vertex in quad) + "\n" for quad in quads
    )
    texture = "".join(f"vt {u:.4f} {v:.4f}\n" for u, v in np.random.default_rng(5).random((500, 2)))
    for name, vertices in meshes.items():
        lines = "v %.9f %.9f %.9f\n" * len(vertices) % tuple(vertices.reshape(-1).tolist())
        rest = texture + "vn 0 0 1\n" + polygons if name == "generic_neutral_mesh" else ""
        (folder / f"{name}.obj").write_text(f"mtllib ICTFaceModelMaterial.mtl\n{lines}{rest}")
    landmarks = [nearest(points, x, y) for x, y in landmark_positions()]
    names = sorted(name for name in meshes if not name.startswith(("identity", "generic")))
    (folder / "vertex_indices.json").write_text(json.dumps({"expressions": names, "idx_to_landmark_verts": landmarks}))
    return meshes
