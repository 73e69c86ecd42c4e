"""Visibility: an exact z-buffer under static shapes, without gradient.

The image is cut into small square tiles. A triangle and a tile that its bounding box touches make a pair. Every pair
tests all pixels of its tile at once, so the arithmetic is dense, and its depths are merged into the image by a
scatter-min of one row per pair. Pairs are enumerated through a running sum of the triangles' pair counts. A loop
processes a fixed number at a time until all are done, so any mesh is rendered exactly. The batch is flattened into the
list of triangles, so that it shares one loop under `vmap` too.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

TILE_BITS = 3
"""log2 of the side of a tile, pixels."""
TILE = 1 << TILE_BITS
PAIRS_PER_LIST = 1 << 14
"""Pairs of a triangle and a tile listed at a time."""
PAIRS_PER_BLOCK = 1 << 11
"""Pairs tested at a time: their pixels should fit the processor's cache."""
MAX_PAIRS = 2**31 - 1 - PAIRS_PER_LIST
SMALLEST_NORMAL = float(jnp.finfo(jnp.float32).tiny)


def visible_faces(
    screen: Array, faces: Array, size: tuple[int, int], perspective: bool, cull: bool, near: float
) -> Array:
    """Returns the nearest triangle at each pixel centre, (*b, H, W) int32, -1 for none. Arguments: see `rasterize`."""
    batch = screen.shape[:-2]
    flat = screen.reshape(-1, *screen.shape[-2:])
    return _visibility_function(size, perspective, cull, near)(flat, faces).reshape(*batch, *size)


@functools.lru_cache(maxsize=64)
def _visibility_function(size: tuple[int, int], perspective: bool, cull: bool, near: float):  # noqa: ANN202
    """Returns `_visible_batch` for fixed settings, with a batching rule that joins the batch's triangles."""

    @jax.custom_batching.custom_vmap
    def visible(screen: Array, faces: Array) -> Array:
        return _visible_batch(screen, faces, size, perspective, cull, near)

    @visible.def_vmap
    def visible_vmapped(axis_size, in_batched, screen, faces):  # noqa: ANN001, ANN202
        screen_batched, faces_batched = in_batched
        if faces_batched:  # meshes of different topology: one at a time
            screen = screen if screen_batched else jnp.broadcast_to(screen, (axis_size, *screen.shape))
            return jax.lax.map(lambda pair: visible(*pair), (screen, faces)), True
        merged = visible(screen.reshape(-1, *screen.shape[2:]), faces)
        return merged.reshape(axis_size, -1, *size), True

    return visible


def _visible_batch(
    screen: Array, faces: Array, size: tuple[int, int], perspective: bool, cull: bool, near: float
) -> Array:
    """Returns `visible_faces` for a flat batch: screen (B, V, 3) -> (B, H, W) int32."""
    height, width = size
    if faces.shape[0] == 0 or screen.shape[0] == 0:
        return jnp.full((screen.shape[0], *size), -1, jnp.int32)
    images = MAX_PAIRS // max(1, faces.shape[0] * (-(-height // TILE)) * (-(-width // TILE)))
    if images == 0:
        raise ValueError(f"{faces.shape[0]} triangles are too many for an image of {size}: above 2^31 tiles in all.")
    if screen.shape[0] > images:  # the running sum of pairs might overflow
        chunks = [
            _visible_batch(screen[k : k + images], faces, size, perspective, cull, near)
            for k in range(0, screen.shape[0], images)
        ]
        return jnp.concatenate(chunks)
    count, triangles = screen.shape[0], faces.shape[0]
    rows, columns = -(-height // TILE), -(-width // TILE)
    tiles = rows * columns
    corners = gather_corners(screen, faces)
    box, drawn = bounding_boxes(corners, size, cull, near)
    if perspective:  # 1/z is linear on the screen; negated, nearer is still smaller
        corners = corners.at[2].set(-1.0 / jnp.where(drawn[None], corners[2], 1.0))
    first = box[:2] >> TILE_BITS
    spans = jnp.where(drawn[None], (box[2:] >> TILE_BITS) - first + 1, 0)
    last = jnp.cumsum(spans[0] * spans[1])
    total = last[-1]

    def list_pairs(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        slot, inner, used = locate_items(last, step * PAIRS_PER_LIST, PAIRS_PER_LIST)
        width_in_tiles = spans[0][slot]
        column, row = first[0][slot] + inner % width_in_tiles, first[1][slot] + inner // width_in_tiles
        tile = jnp.where(used, slot // triangles * tiles + row * columns + column, count * tiles)
        setup, bounds = _edge_functions(corners[:, :, slot], box[:, slot], column << TILE_BITS, row << TILE_BITS)
        # The loop over blocks also stores these in memory: fused into their consumers they would be computed per pixel.
        listed = (tile, slot % triangles, setup, bounds)

        def merge(block: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            nearest, index = state
            tile, face, setup, bounds = (
                jax.lax.dynamic_slice_in_dim(a, block * PAIRS_PER_BLOCK, PAIRS_PER_BLOCK) for a in listed
            )
            depth = _tile_depths(setup, bounds)
            # An image's triangles come in order, so of equal depths the last has the highest index.
            nearest = nearest.at[tile].min(depth, mode="drop")
            is_nearest = (depth <= nearest.at[tile].get(mode="clip")) & (depth < jnp.inf)
            return nearest, index.at[tile].max(jnp.where(is_nearest, face[:, None], -1), mode="drop")

        remaining = jnp.minimum(total - step * PAIRS_PER_LIST, PAIRS_PER_LIST)
        return jax.lax.fori_loop(0, (remaining + PAIRS_PER_BLOCK - 1) // PAIRS_PER_BLOCK, merge, state)

    shape = (count * tiles, TILE * TILE)
    start = (jnp.full(shape, jnp.inf), jnp.full(shape, -1, jnp.int32))
    _, index = jax.lax.fori_loop(0, (total + PAIRS_PER_LIST - 1) // PAIRS_PER_LIST, list_pairs, start)
    index = rearrange(index, "(b r c) (i j) -> b (r i) (c j)", b=count, r=rows, i=TILE)
    return index[:, :height, :width]


def locate_items(last: Array, first_item: Array, count: int) -> tuple[Array, Array, Array]:
    """Locate items of a concatenated list in which each owner has some items.

    last (N,): running sum of the owners' numbers of items. Returns for items first_item ... first_item + count - 1 the
    owner (count,) int32, the item's number within its owner, and whether there is such an item.
    """
    item = first_item + jnp.arange(count)
    owner = jnp.searchsorted(last, item, side="right").astype(jnp.int32)
    used = owner < last.shape[0]
    before = jnp.where(owner > 0, last[jnp.maximum(owner - 1, 0)], 0)
    return jnp.minimum(owner, last.shape[0] - 1), item - before, used


def gather_corners(screen: Array, faces: Array) -> Array:
    """Gather screen (B, V, C) by faces (F, 3) -> (C, 3, B F): coordinate, corner, triangle of the flattened batch."""
    picked = jnp.moveaxis(screen, 0, 1)[faces.T]
    return rearrange(picked, "corner f b c -> c corner (b f)")


def bounding_boxes(corners: Array, size: tuple[int, int], cull: bool, near: float) -> tuple[Array, Array]:
    """Returns each triangle's box of pixel centres, clipped to the image, and whether the triangle is drawn.

    corners (3, 3, N) -> box (4, N) int32 x0 y0 x1 y1 (inclusive), drawn (N,) bool.
    """
    height, width = size
    finite = jnp.all(jnp.isfinite(corners), axis=(0, 1))
    xy = jnp.where(finite[None, None], corners[:2], 0.0)
    limit = jnp.asarray([[width], [height]], xy.dtype)
    # Clip before the cast: a large float does not fit an int32.
    low = jnp.clip(jnp.ceil(jnp.min(xy, axis=1) - 0.5), 0.0, limit)
    high = jnp.clip(jnp.floor(jnp.max(xy, axis=1) - 0.5), -1.0, limit - 1.0)
    box = jnp.concatenate([low, high]).astype(jnp.int32)
    return box, is_drawn(corners, cull, near) & jnp.all(low <= high, axis=0)


def is_drawn(corners: Array, cull: bool, near: float) -> Array:
    """Returns (N,) bool: which triangles (3, 3, N) are finite, not degenerate, beyond `near` and not culled."""
    area = signed_area(corners[:2])
    facing = area < 0 if cull else area != 0
    return facing & jnp.all(jnp.isfinite(corners), axis=(0, 1)) & jnp.all(corners[2] > near, axis=0)


def signed_area(xy: Array) -> Array:
    """Returns twice the signed area of triangles (2, 3, N), x right and y down: negative for front-facing ones."""
    first, second = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    return first[0] * second[1] - first[1] * second[0]


def _edge_functions(corners: Array, box: Array, left: Array, top: Array) -> tuple[Array, Array]:
    """Compute the edge functions of N triangles, each relative to a tile, for `_tile_depths`.

    corners (3, 3, N) with a depth that is linear on the screen; box (4, N); left, top (N,): the tile's first pixel.
    Returns (N, 15): for the edge opposite to each corner the value at the tile's first centre, the steps right and
    down, and the smallest value inside; then the first corner's depth, and the other depths minus that. Also returns
    the box relative to the tile's first pixel, (N, 4).
    """
    # An edge function is positive inside. An edge's ends are ordered by position, so that both its triangles compute
    # the same number, and no pixel is dropped or covered twice between them.
    start, end = jnp.roll(corners, -1, axis=1), jnp.roll(corners, -2, axis=1)  # (3, 3, N)
    swap = (start[0] > end[0]) | ((start[0] == end[0]) & (start[1] > end[1]))
    low, high = jnp.where(swap, end[:2], start[:2]), jnp.where(swap, start[:2], end[:2])
    sign = jnp.where(swap, -1.0, 1.0) * jnp.where(signed_area(corners[:2]) < 0, -1.0, 1.0)[None]
    across, down = high[0] - low[0], high[1] - low[1]  # (3, N)
    origin = across * ((top + 0.5)[None] - low[1]) - down * ((left + 0.5)[None] - low[0])
    origin, right_step, down_step = sign * origin, -sign * down, sign * across
    # Top-left rule: a centre exactly on an edge belongs to the triangle that has it on its left or top.
    owns = (right_step > 0) | ((right_step == 0) & (down_step > 0))
    least = jnp.where(owns, 0.0, SMALLEST_NORMAL)
    z = corners[2]
    setup = jnp.concatenate([origin, right_step, down_step, least, z[:1], z[1:] - z[:1]])
    return setup.T, (box - jnp.stack([left, top, left, top])).T


def _tile_depths(setup: Array, bounds: Array) -> Array:
    """Returns the depths of N triangles at a tile's pixel centres, (N, TILE TILE); infinity where not covered."""
    index = jnp.arange(TILE * TILE)
    i, j = (index & (TILE - 1))[None], (index >> TILE_BITS)[None]
    x, y = i.astype(jnp.float32), j.astype(jnp.float32)

    def column(k: int) -> Array:
        return setup[:, k, None]

    values = [column(k) + column(3 + k) * x + column(6 + k) * y for k in range(3)]
    inside = (values[0] >= column(9)) & (values[1] >= column(10)) & (values[2] >= column(11))
    inside &= (i >= bounds[:, 0, None]) & (j >= bounds[:, 1, None])
    inside &= (i <= bounds[:, 2, None]) & (j <= bounds[:, 3, None])
    depth = column(12) + (values[1] * column(13) + values[2] * column(14)) / (values[0] + values[1] + values[2])
    return jnp.where(inside, depth, jnp.inf)
