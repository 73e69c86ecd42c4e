"""Render pictures of heads for the document: one light, one camera, a plain grey background, short labels."""

from __future__ import annotations

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from experiments.datasets.renders import lamp_light
from flamejax.camera import OrthographicCamera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices, vertices
from flamejax.rendering import Fragments, ambient_light, interpolate, rasterize, sample_texture, shade

SUPERSAMPLE = 2
CHUNK = 4
"""Number of heads rendered at once; fixed, so that each size of picture compiles once."""
BACKGROUND = 0.80
INK = (40, 42, 46)
HALO = (216, 216, 216)
CLAY = 0.70
QUALITY = 88
MAX_BYTES = 250_000


@dataclasses.dataclass(frozen=True)
class StudioView:
    """A view of the head: its rotation before a fixed camera, and the window that is shown."""

    size: tuple[int, int]
    """(width, height) pixels."""
    yaw: float = 0.0
    """Degrees; positive turns the face to the right of the picture."""
    pitch: float = 0.0
    """Degrees; positive nods down and shows the crown."""
    window: str = "head"
    """head, face, eyes or crown."""


@dataclasses.dataclass(frozen=True)
class HeadStudio:
    """Renders pictures of one head model. All pictures of a window have the same scale."""

    head: HeadModel
    windows: dict[str, tuple[np.ndarray, float]]
    """Window -> middle (3,) in the rest pose and height shown, metres."""
    pivot: np.ndarray
    """(3,) the centre of the views' rotation."""

    @classmethod
    def for_head(cls, head: HeadModel) -> HeadStudio:
        """Return the studio with windows that fit the mean head."""
        template = np.asarray(head.v_template, np.float64)
        low, high = template.min(axis=0), template.max(axis=0)
        rest = HeadParams.zeros(head)
        points = np.asarray(landmarks_from_vertices(head, head.v_template, rest), np.float64)
        chin, brow = points[8, 1], points[17:27, 1].max()
        skull = template[template[:, 1] > chin]
        pivot = np.array([0.0, (low[1] + high[1]) / 2, (skull[:, 2].min() + skull[:, 2].max()) / 2])
        face, eyes = points[17:].mean(axis=0), points[36:48].mean(axis=0)
        face[1] = (brow + chin) / 2 + 0.004
        crown = np.array([0.0, high[1] - 0.060, pivot[2]])
        windows = {
            "head": (pivot, 1.22 * (high[1] - low[1])),
            "face": (face * [0, 1, 1], 1.5 * (brow - chin)),
            "eyes": (eyes * [0, 1, 1] + [0, 0.003, 0], 0.056),
            "crown": (crown, 0.165),
        }
        return cls(head, windows, pivot)

    def rotate(self, params: HeadParams, view: StudioView) -> HeadParams:
        """Rotate heads by the view's angles about the pivot."""
        rotation = Rotation.from_euler("yx", [view.yaw, view.pitch], degrees=True)
        arm = self.pivot - np.asarray(self.head.joint_template[0], np.float64)
        shape = (*params.batch, 3)
        return dataclasses.replace(
            params,
            global_orient=jnp.broadcast_to(jnp.asarray(rotation.as_rotvec(), jnp.float32), shape),
            transl=jnp.broadcast_to(jnp.asarray(arm - rotation.apply(arm), jnp.float32), shape),
        )

    def camera(self, view: StudioView, batch: int, factor: int = 1) -> OrthographicCamera:
        """Return the view's camera, `batch` times, for pictures `factor` times as large."""
        middle, height = self.windows[view.window]
        rotation = Rotation.from_euler("yx", [view.yaw, view.pitch], degrees=True)
        middle = rotation.apply(middle - self.pivot) + self.pivot
        scale = factor * view.size[1] / height
        translation = 0.5 * factor * np.asarray(view.size) - scale * middle[:2] * (1, -1)
        return OrthographicCamera(
            jnp.full(batch, scale, jnp.float32),
            jnp.broadcast_to(jnp.asarray(translation, jnp.float32), (batch, 2)),
        )

    def render(
        self,
        params: HeadParams,
        view: StudioView,
        *,
        texture: Array | None = None,
        tint: np.ndarray | None = None,
        flat: bool = False,
        wire: bool = False,
    ) -> list[np.ndarray]:
        """Render heads.

        Args:
            params: batch axis (B,); their global pose is replaced by the view's.
            texture: (Ht, Wt, 3) for all or (B, Ht, Wt, 3); the mean albedo when left out.
            tint: (B, V, 4) RGBA paint on the vertices, straight alpha.
            flat: use the normals of triangles, not of vertices. wire: draw the triangles' edges.

        Returns:
            B pictures (h, w, 3) uint8.
        """
        count = params.batch[0]
        texture = self.head.albedo_mean if texture is None else texture
        tint = np.zeros((count, self.head.num_vertices, 4)) if tint is None else tint
        paint = np.concatenate([tint[..., :3] * tint[..., 3:], tint[..., 3:]], axis=-1).astype(np.float32)
        chunk = CHUNK if count > 1 else 1
        camera = self.camera(view, chunk, SUPERSAMPLE)
        size = (SUPERSAMPLE * view.size[1], SUPERSAMPLE * view.size[0])
        rotated = self.rotate(params, view)
        pictures: list[np.ndarray] = []
        for first in range(0, count, chunk):
            rows = np.minimum(np.arange(first, first + chunk), count - 1)
            verts = vertices(self.head, jax.tree.map(lambda leaf, rows=rows: leaf[rows], rotated))
            skin = texture[rows] if texture.ndim == 4 else jnp.broadcast_to(texture, (chunk, *texture.shape))
            style = jnp.asarray([flat, wire], jnp.float32)
            image = _shade(self.head, verts, camera, jnp.clip(skin, 0, 1), jnp.asarray(paint[rows]), style, size=size)
            fine = np.asarray(image).reshape(chunk, view.size[1], SUPERSAMPLE, view.size[0], SUPERSAMPLE, 3)
            small = fine.mean(axis=(2, 4))
            pictures.extend(np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)[: count - first])
        return pictures

    def project_landmarks(self, params: HeadParams, view: StudioView) -> np.ndarray:
        """Project the landmarks to the pictures: (B, 68, 2) pixels."""
        rotated = self.rotate(params, view)
        points = landmarks_from_vertices(self.head, vertices(self.head, rotated), rotated)
        return np.asarray(self.camera(view, params.batch[0]).project(points))[..., :2]


def studio_light() -> Array:
    """Return soft ambient light and a lamp from the upper left: (9, 3)."""
    direction = normalize(jnp.asarray([-0.55, 0.55, 0.8]))
    return 0.52 * ambient_light() + 0.50 * jnp.repeat(lamp_light(direction)[:, None], 3, axis=1)


@functools.partial(jax.jit, static_argnames="size")
def _shade(
    head: HeadModel,
    verts: Array,
    camera: OrthographicCamera,
    texture: Array,
    paint: Array,
    style: Array,
    size: tuple[int, int],
) -> Array:
    """Render heads: verts (B, V, 3), texture (B, Ht, Wt, 3), paint (B, V, 4), style (flat, wire) -> (B, *size, 3)."""
    screen = camera.project(verts)
    fragments = rasterize(screen, head.faces, size, perspective=False, cull=True)
    light = studio_light()

    def shade_one(v: Array, points: Array, hits: Fragments, skin: Array, coat: Array) -> Array:
        triangles = head.faces[jnp.maximum(hits.face_index, 0)]
        corner, pixel = v[triangles], points[triangles][..., :2]
        flat = normalize(jnp.cross(corner[..., 1, :] - corner[..., 0, :], corner[..., 2, :] - corner[..., 0, :]))
        smooth = normalize(interpolate(vertex_normals(v, head.faces), head.faces, hits))
        normals = jnp.where(style[0] > 0, flat, smooth)
        painted = interpolate(coat, head.faces, hits)
        albedo = sample_texture(skin, interpolate(head.uv, head.uv_faces, hits))
        colour = (albedo * (1 - painted[..., 3:]) + painted[..., :3]) * shade(normals, light)
        # Distance to the nearest edge in pixels: barycentric times the height over that edge.
        edges = jnp.roll(pixel, -1, axis=-2) - jnp.roll(pixel, 1, axis=-2)
        first, second = pixel[..., 1, :] - pixel[..., 0, :], pixel[..., 2, :] - pixel[..., 0, :]
        area = jnp.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
        heights = area[..., None] / jnp.maximum(jnp.linalg.norm(edges, axis=-1), 1e-6)
        line = jnp.clip(1.4 - jnp.min(hits.barycentric * heights, axis=-1), 0, 1)[..., None]
        colour = colour * (1 - 0.5 * style[1] * line)
        return jnp.where((hits.face_index >= 0)[..., None], jnp.clip(colour, 0, 1), BACKGROUND)

    return jax.vmap(shade_one)(verts, screen, fragments, texture, paint)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's built-in font, which is the same on every machine."""
    return ImageFont.load_default(size=size)


def label(image: Image.Image, text: str, at: tuple[float, float] = (6, 4), size: int = 13) -> None:
    """Write in a picture's upper left corner."""
    ImageDraw.Draw(image).text(at, text, fill=INK, font=font(size), stroke_width=2, stroke_fill=HALO)


def grid(pictures: list[np.ndarray], columns: int, labels: list[str] | None = None, size: int = 13) -> Image.Image:
    """Arrange pictures of one size in a grid, row by row, each with its label."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = blank(columns * width, rows * height)
    for i, picture in enumerate(pictures):
        tile = Image.fromarray(picture)
        if labels is not None:
            label(tile, labels[i], size=size)
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return sheet


def stack(images: list[Image.Image]) -> Image.Image:
    """Arrange images below each other, each centred."""
    sheet = blank(max(image.width for image in images), sum(image.height for image in images))
    top = 0
    for image in images:
        sheet.paste(image, ((sheet.width - image.width) // 2, top))
        top += image.height
    return sheet


def blank(width: int, height: int) -> Image.Image:
    """Return an empty picture in the background's grey."""
    return Image.new("RGB", (width, height), (round(255 * BACKGROUND),) * 3)


def headline(width: int, text: str) -> Image.Image:
    """Return a strip with one line of text."""
    strip = blank(width, 26)
    label(strip, text, at=(8, 5), size=15)
    return strip


def colour_map(values: np.ndarray) -> np.ndarray:
    """Map values (...,) in [0, 1] to colours (..., 3), dark violet to yellow (anchors of viridis)."""
    anchors = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]) / 255.0
    positions = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, positions, anchors[:, c]) for c in range(3)], axis=-1)


def scale_bar(width: int, top: float, unit: str) -> Image.Image:
    """Draw a bar with the colours of `colour_map` from 0 to `top`."""
    strip = blank(width, 26)
    bar = np.round(255 * colour_map(np.linspace(0, 1, 240))[None].repeat(12, axis=0)).astype(np.uint8)
    left = (width - 240) // 2
    strip.paste(Image.fromarray(bar), (left, 7))
    label(strip, "0", at=(left - 16, 5))
    label(strip, f"{top:g} {unit}", at=(left + 248, 5))
    return strip


def jpeg(image: Image.Image) -> bytes:
    """Encode the picture as JPEG, at a lower quality if it would be larger than `MAX_BYTES`."""
    data = b""
    for quality in range(QUALITY, 40, -4):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        data = buffer.getvalue()
        if len(data) <= MAX_BYTES:
            break
    return data
