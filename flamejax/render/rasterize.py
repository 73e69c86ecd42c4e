"""Visibility: which triangle each pixel sees (an exact z-buffer under static shapes) and where on it.

Visibility is piecewise constant, so it is computed without gradient, with integers and dynamic loops. Triangles are
sorted by their extent on the screen and processed in classes: a triangle of class w is tested against a window of
w x w pixels that covers its bounding box, and depth is merged by scatter-min. A triangle larger than the largest
window is cut into tiles of that window, so the result is exact for any mesh. The batch is flattened into the list of
triangles, which keeps the loops common to the batch under `vmap` too. Barycentrics are then recomputed from the
winning triangle, differentiably.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

WINDOW_BITS = (2, 3, 4, 5, 6)
"""log2 of the side of each size class's square window, pixels."""
SAMPLES_PER_STEP = 1 << 16
"""Pixel tests per loop step."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fragments:
    """What each pixel's centre sees."""

    face_index: Array
    """(*b, H, W) int32, -1 where empty."""
    barycentric: Array
    """(*b, H, W, 3) weights of the triangle's vertices; zero where empty."""
    depth: Array
    """(*b, H, W) depth z of the surface; infinity where empty."""


@functools.partial(jax.jit, static_argnames=("size", "perspective", "cull", "near"))
def rasterize(
    screen: Array,
    faces: Array,
    size: tuple[int, int],
    *,
    perspective: bool = True,
    cull: bool = False,
    near: float = 1e-3,
) -> Fragments:
    """Rasterize triangle meshes.

    Args:
      screen: (*b, V, 3) x, y in pixels and depth z (nearer is smaller).
      faces: (F, 3) int32, shared by the batch.
      size: (H, W) pixels.
      perspective: interpolate with 1/z (a pinhole camera's depth); False for orthographic depth.
      cull: drop triangles seen from behind. A triangle that is counter-clockwise seen from outside in the world is
        clockwise in pixels with y down when it faces the camera.
      near: a triangle with a vertex at z <= near is dropped.

    Returns:
      The fragments. Of triangles at equal depth the one with the lower index wins; a pixel centre exactly on an edge
      belongs to both of its triangles' candidates. Gradients flow through barycentrics and depth, not through
      visibility.

    Raises:
      ValueError: if `screen` is not (*b, V, 3), `faces` not (F, 3), or the size is not positive.
    """
    if screen.ndim < 2 or screen.shape[-1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"rasterize wants screen (*b, V, 3) and faces (F, 3), got {screen.shape} and {faces.shape}.")
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"The image size must be positive, got {size}.")
    face_index = _visible_faces(jax.lax.stop_gradient(screen), faces, (height, width), perspective, cull, near)
    barycentric, depth = fragment_geometry(screen, faces, face_index, perspective=perspective)
    return Fragments(face_index, barycentric, depth)


def fragment_geometry(screen: Array, faces: Array, face_index: Array, *, perspective: bool) -> tuple[Array, Array]:
    """Barycentrics and depth at pixel centres for known visibility, differentiable in `screen`.

    Args:
      screen: (*b, V, 3); faces: (F, 3); face_index: (*b, H, W) int32, -1 where empty.

    Returns:
      barycentric (*b, H, W, 3) and depth (*b, H, W), as in `Fragments`.
    """
    covered = face_index >= 0
    triangles = faces[jnp.maximum(face_index, 0)]
    corners = gather_vertices(screen, triangles)
    height, width = face_index.shape[-2:]
    x, y = pixel_centres(height, width)
    x, y = jnp.broadcast_to(x, covered.shape), jnp.broadcast_to(y, covered.shape)
    edges = [_edge(corners[..., (i + 1) % 3, :], corners[..., (i + 2) % 3, :], x, y) for i in range(3)]
    weights = jnp.stack(edges, axis=-1)
    z = corners[..., 2]
    if perspective:
        weights = weights / jnp.where(covered[..., None], z, 1.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    usable = covered[..., None] & (total != 0)
    barycentric = jnp.where(usable, weights / jnp.where(usable, total, 1.0), 0.0)
    depth = jnp.where(covered, jnp.sum(barycentric * z, axis=-1), jnp.inf)
    return barycentric, depth


def gather_vertices(attributes: Array, triangles: Array) -> Array:
    """attributes (*b, V, C), triangles (*b, H, W, 3) int32 -> (*b, H, W, 3, C)."""
    flat = triangles.reshape(*triangles.shape[:-3], -1)
    if attributes.ndim == 2:
        picked = attributes[flat]
    else:
        picked = jax.vmap(gather_rows)(attributes.reshape(-1, *attributes.shape[-2:]), flat.reshape(-1, flat.shape[-1]))
    return picked.reshape(*triangles.shape, attributes.shape[-1])


def gather_rows(rows: Array, index: Array) -> Array:
    """rows (V, C), index (N,) -> (N, C)."""
    return rows[index]


def pixel_centres(height: int, width: int) -> tuple[Array, Array]:
    """x and y, each (H, W), of the pixels' centres."""
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    return x, y


def _edge(first: Array, second: Array, x: Array, y: Array) -> Array:
    """Twice the signed area of (first, second, pixel)."""
    return (second[..., 0] - first[..., 0]) * (y - first[..., 1]) - (second[..., 1] - first[..., 1]) * (
        x - first[..., 0]
    )


def _visible_faces(
    screen: Array, faces: Array, size: tuple[int, int], perspective: bool, cull: bool, near: float
) -> Array:
    """(*b, H, W) int32: the nearest triangle at each pixel centre, -1 where there is none."""
    batch = screen.shape[:-2]
    flat = screen.reshape(-1, *screen.shape[-2:])
    return _visible_faces_of(size, perspective, cull, near)(flat, faces).reshape(*batch, *size)


@functools.lru_cache(maxsize=64)
def _visible_faces_of(size: tuple[int, int], perspective: bool, cull: bool, near: float):  # noqa: ANN202
    """The batched visibility of one setting, with a batching rule that keeps the batch in one list of triangles."""

    @jax.custom_batching.custom_vmap
    def visible(screen: Array, faces: Array) -> Array:
        return _visible_batch(screen, faces, size, perspective, cull, near)

    @visible.def_vmap
    def visible_vmapped(axis_size, in_batched, screen, faces):  # noqa: ANN001, ANN202
        screen_batched, faces_batched = in_batched
        if faces_batched:  # meshes of different topology: one after the other
            screen = screen if screen_batched else jnp.broadcast_to(screen, (axis_size, *screen.shape))
            return jax.lax.map(lambda pair: visible(*pair), (screen, faces)), True
        merged = visible(screen.reshape(-1, *screen.shape[2:]), faces)
        return merged.reshape(axis_size, -1, *size), True

    return visible


def _visible_batch(
    screen: Array, faces: Array, size: tuple[int, int], perspective: bool, cull: bool, near: float
) -> Array:
    """screen (B, V, 3) -> (B, H, W) int32."""
    height, width = size
    count, triangles = screen.shape[0], faces.shape[0]
    pixels = count * height * width
    corners = screen[:, faces].reshape(count * triangles, 3, 3)
    box, drawn = _bounding_boxes(corners, size, cull, near)
    if perspective:  # 1/z is what is linear on the screen; negated, nearer is still smaller
        corners = corners.at[..., 2].set(-1.0 / jnp.where(drawn[:, None], corners[..., 2], 1.0))
    extent = jnp.where(drawn, jnp.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) + 1, 0)
    order = jnp.argsort(extent)
    # Canonical vertex order makes an edge's value the same number for both of its triangles: no pixel is lost between.
    ascending = jnp.tile(faces <= jnp.roll(faces, -1, axis=1), (count, 1))
    corners, ascending, box = corners[order], ascending[order], box[order]
    schedule = _schedule(extent[order])

    def samples(step: Array) -> tuple[Array, Array, Array]:
        """Pixel (out of range where not covered), depth and triangle of one step's samples."""
        slot, column, row = _sample_places(schedule, step)
        corner, bounds = corners[slot], box[slot]
        x, y = bounds[:, 0] + column, bounds[:, 1] + row
        inside, depth = _cover(corner, ascending[slot], x + 0.5, y + 0.5)
        inside &= (x <= bounds[:, 2]) & (y <= bounds[:, 3]) & (column >= 0)
        which = order[slot]
        pixel = (which // triangles) * (height * width) + y * width + x
        # Both passes must compare the very same numbers: keep the compiler from fusing them into different code.
        pixel, depth = jax.lax.optimization_barrier((jnp.where(inside, pixel, pixels), depth))
        return pixel, depth, which % triangles

    def keep_nearest(step: Array, nearest: Array) -> Array:
        pixel, depth, _ = samples(step)
        return nearest.at[pixel].min(depth, mode="drop")

    steps = schedule.first_step[-1]
    nearest = jax.lax.fori_loop(0, steps, keep_nearest, jnp.full((pixels,), jnp.inf))

    def keep_lowest_winner(step: Array, index: Array) -> Array:
        pixel, depth, face = samples(step)
        won = depth <= nearest.at[pixel].get(mode="fill", fill_value=-jnp.inf)
        return index.at[jnp.where(won, pixel, pixels)].min(face, mode="drop")

    index = jax.lax.fori_loop(0, steps, keep_lowest_winner, jnp.full((pixels,), triangles, jnp.int32))
    return jnp.where(index == triangles, -1, index).reshape(count, height, width)


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """Which samples each step of the loop takes. Classes: one a window of `WINDOW_BITS`, and the tiled one."""

    bits: Array
    """(classes,) log2 of the window's side."""
    first_slot: Array
    """(classes + 1,) where each class begins in the list sorted by extent."""
    tiles: Array
    """(classes,) windows a side that a triangle's box is cut into."""
    first_step: Array
    """(classes + 1,) the step at which each class begins; the last is the number of steps."""


def _schedule(sorted_extent: Array) -> _Schedule:
    """Lay out the loop for triangles sorted by extent (pixels; 0 = not drawn)."""
    limits = jnp.asarray([0, *(1 << bits for bits in WINDOW_BITS)])
    first_slot = jnp.append(jnp.searchsorted(sorted_extent, limits, side="right"), sorted_extent.shape[0])
    bits = jnp.asarray([*WINDOW_BITS, WINDOW_BITS[-1]])
    largest = 1 << WINDOW_BITS[-1]
    tiles = jnp.ones_like(bits).at[-1].set((sorted_extent[-1] + largest - 1) // largest)
    per_step = SAMPLES_PER_STEP >> (2 * bits)
    steps = (jnp.diff(first_slot) + per_step - 1) // per_step * tiles * tiles
    return _Schedule(bits, first_slot, tiles, jnp.append(0, jnp.cumsum(steps)))


def _sample_places(schedule: _Schedule, step: Array) -> tuple[Array, Array, Array]:
    """Slot in the sorted list and pixel offsets from its box's corner, each (SAMPLES_PER_STEP,); column -1 = unused."""
    kind = jnp.searchsorted(schedule.first_step[1:], step, side="right")
    bits, tiles = schedule.bits[kind], schedule.tiles[kind]
    part = step - schedule.first_step[kind]
    chunk, tile = part // (tiles * tiles), part % (tiles * tiles)
    sample = jnp.arange(SAMPLES_PER_STEP)
    window = 1 << bits
    slot = schedule.first_slot[kind] + chunk * (SAMPLES_PER_STEP >> (2 * bits)) + (sample >> (2 * bits))
    column = (tile % tiles) * window + (sample & (window - 1))
    row = (tile // tiles) * window + ((sample >> bits) & (window - 1))
    last = schedule.first_slot[kind + 1] - 1
    return jnp.minimum(slot, last), jnp.where(slot <= last, column, -1), row


def _bounding_boxes(corners: Array, size: tuple[int, int], cull: bool, near: float) -> tuple[Array, Array]:
    """First and last pixel whose centre lies in each triangle's box, clipped to the image, and whether to draw it.

    corners (N, 3, 3) -> box (N, 4) int32 x0 y0 x1 y1 (inclusive), drawn (N,) bool.
    """
    height, width = size
    finite = jnp.all(jnp.isfinite(corners), axis=(1, 2))
    xy = jnp.where(finite[:, None, None], corners[..., :2], 0.0)
    limit = jnp.asarray([width, height], xy.dtype)
    # Clip before the cast: a far-away float does not fit an int32.
    low = jnp.clip(jnp.ceil(jnp.min(xy, axis=1) - 0.5), 0.0, limit[None])
    high = jnp.clip(jnp.floor(jnp.max(xy, axis=1) - 0.5), -1.0, limit[None] - 1.0)
    box = jnp.concatenate([low, high], axis=-1).astype(jnp.int32)
    area = _signed_area(xy)
    facing = area < 0 if cull else area != 0
    drawn = finite & facing & jnp.all(corners[..., 2] > near, axis=1)
    return box, drawn & jnp.all(low <= high, axis=-1)


def _signed_area(xy: Array) -> Array:
    """Twice the signed area in pixels, x right and y down: negative for a triangle that faces the camera."""
    first, second = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _cover(corner: Array, ascending: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Whether pixel centres lie in triangles, and the surface's depth there.

    corner (N, 3, 3) with a depth that is linear on the screen; ascending (N, 3): whether the edge from each vertex to
    the next runs from the lower vertex index to the higher; x, y (N,) pixel centres.
    """
    flip = jnp.where(_signed_area(corner[..., :2]) < 0, -1.0, 1.0)
    values = []
    for start in range(3):
        a, b, forward = corner[:, start], corner[:, (start + 1) % 3], ascending[:, start]
        value = _edge(jnp.where(forward[:, None], a, b), jnp.where(forward[:, None], b, a), x, y)
        values.append(jnp.where(forward, value, -value) * flip)
    inside = (values[0] >= 0) & (values[1] >= 0) & (values[2] >= 0)
    total = values[0] + values[1] + values[2]
    safe = jnp.where(total > 0, total, 1.0)
    # values[i] belongs to the edge from vertex i: the weight of the vertex opposite to it.
    depth = (values[0] * corner[:, 2, 2] + values[1] * corner[:, 0, 2] + values[2] * corner[:, 1, 2]) / safe
    return inside & (total > 0), depth
