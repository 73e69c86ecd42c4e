"""The pictures of `docs/results/open-head.md`; deterministic for a given head."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from experiments.datasets.renders import within_range
from flamejax.head import HeadModel, HeadParams
from tools.open_head.facts import variance_shares
from tools.open_head.studio import (
    CLAY,
    HALO,
    SUPERSAMPLE,
    HeadStudio,
    StudioView,
    blank,
    colour_map,
    font,
    grid,
    headline,
    label,
    scale_bar,
    stack,
)

SEED = 20260
FACE = (200, 220)
SMALL = (160, 190)
TILE = (180, 220)
EYES = (300, 126)
LARGE = (480, 560)
PAINT = {
    "scalp": (0.85, 0.37, 0.35),
    "neck": (0.35, 0.70, 0.40),
    "face": (0.95, 0.80, 0.55),
    "forehead": (0.62, 0.46, 0.30),
    "eye_region": (0.30, 0.78, 0.78),
    "left_eye_region": (0.50, 0.36, 0.78),
    "right_eye_region": (0.25, 0.50, 0.88),
    "nose": (0.20, 0.60, 0.50),
    "lips": (0.88, 0.30, 0.55),
    "left_ear": (0.68, 0.72, 0.20),
    "right_ear": (0.45, 0.72, 0.95),
    "left_eyeball": (0.98, 0.95, 0.30),
    "right_eyeball": (1.00, 0.55, 0.10),
    "boundary": (0.20, 0.20, 0.55),
}
"""Colours of the regions in painting order: regions overlap, and later ones cover earlier ones."""
REGION_YAW = {"left_ear": -60.0, "right_ear": 60.0, "scalp": -60.0, "neck": -40.0, "boundary": -40.0}


def heads(head: HeadModel, count: int, **fields: np.ndarray) -> HeadParams:
    """Return parameters of `count` mean heads, with some fields of `HeadParams` given, (count, ...)."""
    values = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    return dataclasses.replace(HeadParams.zeros(head, (count,)), **values)


def in_column(axis: int, values: np.ndarray, width: int) -> np.ndarray:
    """Return zeros (len(values), width) with `values` in column `axis`."""
    rows = np.zeros((len(values), width))
    rows[:, axis] = values
    return rows


def clay(head: HeadModel) -> np.ndarray:
    """Return a grey texture, which shows the shape only."""
    return jnp.full(head.albedo_mean.shape, CLAY)


def overview(studio: HeadStudio) -> Image.Image:
    """Draw the mean head from four sides, and its mesh."""
    head, one = studio.head, heads(studio.head, 1)
    views = [StudioView((300, 360), yaw=yaw) for yaw in (0, 35, 90, 180)]
    skin = [studio.render(one, view)[0] for view in views]
    shape = [studio.render(one, view, texture=clay(head))[0] for view in views]
    mesh = [studio.render(one, view, texture=clay(head), flat=True, wire=True)[0] for view in views]
    return grid(skin + shape + mesh, 4, ["mean head", "", "", "", "shape", "", "", "", "mesh", "", "", ""])


def identities(studio: HeadStudio) -> Image.Image:
    """Draw 24 random people, front and side."""
    head, rng = studio.head, np.random.default_rng(SEED)
    betas = rng.standard_normal((24, head.num_betas))
    texture = head.albedo(jnp.asarray(rng.standard_normal((24, head.albedo_basis.shape[0])), jnp.float32))
    people = heads(head, 24, betas=betas)
    front = studio.render(people, StudioView(SMALL), texture=texture)
    side = studio.render(people, StudioView(SMALL, yaw=90), texture=texture)
    pairs = [picture for both in zip(front, side, strict=True) for picture in both]
    return grid(pairs, 8, [str(i // 2 + 1) if i % 2 == 0 else "" for i in range(48)])


def identity_components(studio: HeadStudio) -> Image.Image:
    """Draw the first eight identity components at -2 and +2 standard deviations, and the displacement of the skin."""
    head, count = studio.head, 8
    shares = 100 * variance_shares(head)[:count]
    rows: list[np.ndarray] = []
    labels: list[str] = []
    for yaw in (0, 90):
        for sign in (-2, 2):
            betas = sign * np.eye(count, head.num_betas)
            rows += studio.render(heads(head, count, betas=betas), StudioView(SMALL, yaw=yaw))
            first = [f"{k + 1}  ({share:.1f} %)" if not labels else "" for k, share in enumerate(shares)]
            labels += [f"{name}\n{sign:+d} sd" if name else f"{sign:+d} sd" for name in first]
    moved = 2e3 * np.linalg.norm(np.asarray(head.shapedirs, np.float64)[..., :count], axis=1).T
    top = float(np.ceil(np.percentile(moved, 99.5)))
    colour = colour_map(np.clip(moved / top, 0, 1))
    tint = np.concatenate([colour, np.ones((*moved.shape, 1))], axis=-1)
    rows += studio.render(heads(head, count), StudioView(SMALL, yaw=30), tint=tint)
    labels += ["moved by 2 sd" if k == 0 else "" for k in range(count)]
    return stack([grid(rows, count, labels), scale_bar(count * SMALL[0], top, "mm")])


def expressions(studio: HeadStudio) -> Image.Image:
    """Draw the first twelve expression components at -2 and +2 standard deviations, clipped to their range."""
    head = studio.head
    low, high = (-2, 2) if head.expression_range is None else np.asarray(head.expression_range)
    pictures, labels = [], []
    for block in (range(6), range(6, 12)):
        for sign in (-2, 2):
            rows = np.clip(sign * np.eye(head.num_expression), low, high)[list(block)]
            pictures += studio.render(heads(head, 6, expression=rows), StudioView(FACE, window="face"))
            labels += [f"{k + 1}: {row[k]:+.2g} sd" for k, row in zip(block, rows, strict=True)]
    return grid(pictures, 6, labels)


def expression_blends(studio: HeadStudio) -> Image.Image:
    """Draw twelve random people with random expressions of 0.7 standard deviations, sampled as for training."""
    head, rng = studio.head, np.random.default_rng(SEED + 1)
    people = heads(
        head,
        12,
        betas=rng.standard_normal((12, head.num_betas)),
        expression=np.asarray(within_range(head, jnp.asarray(0.7 * rng.standard_normal((12, head.num_expression))))),
        jaw_pose=in_column(0, rng.uniform(0, 0.2, 12), 3),
    )
    texture = head.albedo(jnp.asarray(rng.standard_normal((12, head.albedo_basis.shape[0])), jnp.float32))
    return grid(studio.render(people, StudioView(FACE, window="face"), texture=texture), 6)


def motion(studio: HeadStudio) -> Image.Image:
    """Draw the jaw and the neck through their range."""
    head = studio.head
    width = 6 * TILE[0]
    opened = np.array([0, 6, 12, 18, 24, 0, 0])[:6]
    jaw = in_column(0, np.deg2rad(opened), 3)
    jaw[5] = [np.deg2rad(4), np.deg2rad(7), 0]
    names = [f"open {angle} deg" for angle in opened[:5]] + ["4 deg, left 7 deg"]
    posed = heads(head, 6, jaw_pose=jaw)
    front, slanted = StudioView(TILE), StudioView(TILE, yaw=60)
    parts = [headline(width, "Jaw")]
    parts += [grid(studio.render(posed, front), 6, names), grid(studio.render(posed, slanted), 6)]
    turns = np.deg2rad([[0, -40, 0], [0, 40, 0], [-25, 0, 0], [25, 0, 0], [0, 0, -25], [0, 0, 25]])
    names = ["turn -40 deg", "turn +40 deg", "nod -25 deg", "nod +25 deg", "tilt -25 deg", "tilt +25 deg"]
    posed = heads(head, 6, neck_pose=turns)
    parts += [headline(width, "Neck")]
    parts += [grid(studio.render(posed, front), 6, names), grid(studio.render(posed, slanted), 6)]
    return stack(parts)


def eyes(studio: HeadStudio) -> Image.Image:
    """Draw both eyes through their range."""
    head = studio.head
    turns = [(0, -30), (0, -15), (0, 15), (0, 30), (-20, 0), (-10, 0), (10, 0), (20, 0)]
    names = [f"{abs(y)} deg to the {'left' if y > 0 else 'right'}" for _, y in turns[:4]]
    names += [f"{abs(p)} deg {'down' if p > 0 else 'up'}" for p, _ in turns[4:]]
    poses = np.deg2rad([[pitch, yaw, 0] for pitch, yaw in turns])
    posed = heads(head, 8, leye_pose=poses, reye_pose=poses)
    front = grid(studio.render(posed, StudioView(EYES, window="eyes")), 4, names)
    slanted = grid(studio.render(posed, StudioView(EYES, yaw=35, window="eyes")), 4, names)
    return stack([headline(4 * EYES[0], "Eyes, front"), front, headline(4 * EYES[0], "Eyes, turned 35 deg"), slanted])


def landmarks(studio: HeadStudio) -> Image.Image:
    """Draw the 68 landmarks at three yaws; the contour follows the yaw."""
    head, pictures, labels = studio.head, [], []
    one = heads(head, 1)
    for yaw in (-30, 0, 30):
        view = StudioView(LARGE, yaw=yaw, window="face")
        image = Image.fromarray(studio.render(one, view, texture=clay(head))[0])
        draw = ImageDraw.Draw(image)
        points = studio.project_landmarks(one, view)[0]
        middle = points[27:36].mean(axis=0)
        for number, (x, y) in enumerate(points):
            colour = (196, 60, 20) if number < 17 else (20, 70, 190)
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
            away = (points[number] - _group_middle(points, number, middle)) * (1, 1.2)
            dx, dy = 9 * away / max(float(np.linalg.norm(away)), 1e-6)
            draw.text(
                (x + dx, y + dy), str(number), fill=colour, font=font(10), anchor="mm", stroke_width=1, stroke_fill=HALO
            )
        pictures.append(np.asarray(image))
        labels.append(f"yaw {yaw:+d} deg" if yaw else "front")
    return grid(pictures, 3, labels, size=15)


def _group_middle(points: np.ndarray, number: int, middle: np.ndarray) -> np.ndarray:
    """Return the point that a landmark's number is written away from, such as the middle of its eye or of the lips."""
    groups = ((36, 42), (42, 48), (48, 68))
    for first, last in groups:
        if first <= number < last:
            if number >= 60:  # on the seam of the lips, near outer points: straight up or down
                return points[number] + (0, 1 if number in (61, 62, 63) else -1)
            return points[first:last].mean(axis=0)
    if 17 <= number < 27:
        return points[number] + (0, 1)
    if 27 <= number < 31:
        return points[number] - (1, 0)
    if 31 <= number < 36:
        return points[number] - (0, 1)
    return middle


def regions(studio: HeadStudio) -> Image.Image:
    """Draw the 14 regions: all together (they overlap), and each separately."""
    head = studio.head
    masks = {name: np.asarray(mask) for name, mask in head.regions.items()}
    together = np.zeros((1, head.num_vertices, 4))
    for name, colour in PAINT.items():
        together[0, masks[name]] = [*colour, 0.85]
    one = heads(head, 1)
    views = [StudioView((300, 360), yaw=yaw) for yaw in (0, 35, 90, 180)]
    top = grid([studio.render(one, view, texture=clay(head), tint=together)[0] for view in views], 4)
    separate, names = [], sorted(masks)
    for name in names:
        tint = np.zeros((1, head.num_vertices, 4))
        tint[0, masks[name]] = [*PAINT[name], 0.85]
        view = StudioView(SMALL, yaw=REGION_YAW.get(name, 0.0))
        separate += studio.render(one, view, texture=clay(head), tint=tint)
    counts = [f"{name} ({int(masks[name].sum())})" for name in names]
    return stack([top, grid(separate, 7, counts, size=11)])


def _hue(t: float) -> np.ndarray:
    """Return a bright colour (3,) of hue `t` in [0, 1)."""
    return 0.35 + 0.65 * np.clip(np.abs((t * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)


def checker(side: int = 1024, cells: int = 16) -> np.ndarray:
    """Draw a checkerboard (side, side, 3) in [0, 1], with a letter and a number in each cell and hue along u."""
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    step = side // cells
    for row in range(cells):
        for column in range(cells):
            colour = _hue(column / cells) * (0.95 if (row + column) % 2 else 0.55)
            box = (column * step, row * step, (column + 1) * step, (row + 1) * step)
            draw.rectangle(box, fill=tuple(round(255 * c) for c in colour.tolist()))
            middle = ((column + 0.5) * step, (row + 0.5) * step)
            draw.text(middle, f"{chr(65 + column)}{row + 1}", fill=(0, 0, 0), font=font(2 * step // 5), anchor="mm")
    return np.asarray(image, np.float32) / 255.0


def uv_layout(studio: HeadStudio) -> Image.Image:
    """Draw a checkerboard texture on the head, and the texture's layout."""
    head, one = studio.head, heads(studio.head, 1)
    board = checker()
    textured = [studio.render(one, StudioView(LARGE, yaw=yaw), texture=jnp.asarray(board))[0] for yaw in (0, 45, 90)]
    side = LARGE[0]
    flat = [np.clip(np.asarray(head.albedo_mean), 0, 1), board]
    small = [Image.fromarray(np.round(255 * t).astype(np.uint8)).resize((side, side), Image.LANCZOS) for t in flat]
    large = small[0].resize((SUPERSAMPLE * side,) * 2, Image.BICUBIC)
    draw = ImageDraw.Draw(large)
    corners = np.asarray(head.uv)[np.asarray(head.uv_faces)] * (1, -1) + (0, 1)
    for triangle in SUPERSAMPLE * side * corners:
        draw.polygon([tuple(point) for point in triangle.tolist()], outline=(20, 20, 30))
    lines = large.resize((side, side), Image.LANCZOS)
    bottom = blank(3 * side, side + 26)
    tiles = (small[0], lines, small[1])
    for i, (tile, name) in enumerate(zip(tiles, ("mean albedo", "layout", "checker"), strict=True)):
        bottom.paste(tile, (i * side, 26))
        label(bottom, name, at=(i * side + 8, 5), size=15)
    return stack([grid(textured, 3), bottom])


def albedos(studio: HeadStudio) -> Image.Image:
    """Draw twelve random skins on the mean head."""
    head, rng = studio.head, np.random.default_rng(SEED + 2)
    coefficients = rng.standard_normal((12, head.albedo_basis.shape[0]))
    texture = head.albedo(jnp.asarray(coefficients, jnp.float32))
    return grid(studio.render(heads(head, 12), StudioView(FACE, window="face"), texture=texture), 6)


def scalp(studio: HeadStudio) -> Image.Image:
    """Draw a close-up of the crown's outline and shading, and its mesh."""
    head, one = studio.head, heads(studio.head, 1)
    views = [StudioView((400, 300), yaw=yaw, pitch=pitch, window="crown") for yaw, pitch in ((0, 0), (90, 0), (35, 25))]
    shots = functools.partial(studio.render, one, texture=clay(head))
    smooth = [shots(view)[0] for view in views]
    mesh = [shots(view, flat=True, wire=True)[0] for view in views]
    names = ["front", "side", "slanted", "triangles", "", ""]
    return grid(smooth + mesh, 3, names)


PICTURES: dict[str, Callable[[HeadStudio], Image.Image]] = {
    "overview": overview,
    "identities": identities,
    "identity-components": identity_components,
    "expressions": expressions,
    "expression-blends": expression_blends,
    "motion": motion,
    "eyes": eyes,
    "landmarks": landmarks,
    "regions": regions,
    "uv": uv_layout,
    "albedos": albedos,
    "scalp": scalp,
}
"""File name without .jpg -> the function that makes the picture."""
