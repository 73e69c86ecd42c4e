"""Antialiasing of silhouettes, which makes visibility differentiable.

If a silhouette edge of the mesh passes between the centres of two neighbouring pixels, one of them is partly covered
by the surface that the other shows. It is blended with that share of the other's colour (pairwise blending, as in Laine
et al. 2020, "Modular primitives for high-performance differentiable rendering"). Unlike there, pixel pairs come from
the edges and not from the pixels' triangles, so that triangles thinner than a pixel are not missed. Steep edges blend
along rows and shallow ones along columns, so that the derivative of the covered area is exact.

The edge between two pixels is determined without gradient, like visibility. The share is then computed differentiably
from the edge's end points.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from flamejax._checks import check_shape
from flamejax.rendering._neighbours import welded_opposite
from flamejax.rendering._rasterize import Fragments
from flamejax.rendering.visibility import gather_corners, is_drawn, locate_items, signed_area

CROSSINGS_PER_STEP = 1 << 12
"""Crossings of an edge and a line of pixel centres that one step of the loop tests."""
LISTED_PER_SIDE = 8
"""Length of the list of silhouette pixels, per pixel of height plus width: a head's outline takes about 2."""


def antialias(
    image: Array,
    fragments: Fragments,
    screen: Array,
    faces: Array,
    *,
    perspective: bool = True,
    cull: bool = False,
    near: float = 1e-3,
    opposite: Array | None = None,
) -> Array:
    """Blend pixels across the mesh's silhouettes.

    Args:
      image: (*b, H, W, C), rendered from the fragments, with the background's colour already in empty pixels. Colours
        should be premultiplied if there is an alpha channel.
      fragments: result of `rasterize` for screen (*b, V, 3) and faces (F, 3) with the same keywords.
      opposite: precomputed `opposite_vertices(faces, V)`, which saves a sort of the edges. Triangles must then share
        vertices. By default they may have vertices of their own: those at exactly the same position count as one.

    Returns:
      The image (*b, H, W, C), differentiable in `image` and in the x and y of `screen`. With `rasterize` and
      `interpolate` this gives the full gradient of a rendered image, for silhouettes that move by less than a pixel.

    Raises:
      ValueError: the image is not (*b, H, W, C) with the fragments' axes, or `screen` or `faces` has a wrong shape.
    """
    check_shape("image", image, *fragments.face_index.shape, "C", batched=False)
    check_shape("screen", screen, "V", 3)
    check_shape("faces", faces, "F", 3, batched=False)
    if opposite is None:
        opposite = welded_opposite(screen, faces)
    return _antialias(image, fragments.depth, screen, jnp.asarray(faces), opposite, perspective, cull, near)


@functools.partial(jax.jit, static_argnames=("perspective", "cull", "near"))
def _antialias(
    image: Array,
    depth: Array,
    screen: Array,
    faces: Array,
    opposite: Array,
    perspective: bool,
    cull: bool,
    near: float,
) -> Array:
    batch, (height, width) = image.shape[:-3], image.shape[-3:-1]
    find_edges = _edge_finder((height, width), perspective, cull, near)
    flat, depth = jax.lax.stop_gradient(screen).reshape(-1, *screen.shape[-2:]), jax.lax.stop_gradient(depth)
    edges, pairs, overflow = find_edges(flat, depth.reshape(-1, height, width), faces, opposite)
    ends = jnp.take(screen[..., :2], jnp.stack([jnp.roll(faces, -1, 1), jnp.roll(faces, -2, 1)], -1), axis=-2)
    # x, y of both ends of the edge opposite to each corner of each face
    ends, pixels = ends.reshape(edges.shape[0], -1, 4), image.reshape(edges.shape[0], height * width, -1)
    all_pairs = jnp.broadcast_to(jnp.arange(edges.shape[1]), edges.shape)
    blend = jax.vmap(functools.partial(_blend, width=width))
    # The list of silhouettes has a fixed length; if it overflows, every pair of pixels is blended. That branch stores
    # nothing for the gradient, so that it costs no memory when it is not taken.
    blended = jax.lax.cond(
        overflow,
        jax.checkpoint(lambda pixels, ends: blend(pixels, ends, edges, all_pairs)),
        lambda pixels, ends: blend(pixels, ends, edges, pairs),
        pixels,
        ends,
    )
    return blended.reshape(*batch, height, width, -1)


def _blend(pixels: Array, ends: Array, edges: Array, pairs: Array, *, width: int) -> Array:
    """Blend the silhouettes of one image.

    pixels (H W, C); ends (E, 4); edges (2 H W,) int32: the edge between each pixel and the next in its row, then in its
    column; pairs (K,) int32: distinct indices into edges. Indices beyond its end are ignored.
    """
    count = pixels.shape[0]
    edge = edges.at[pairs].get(mode="fill", fill_value=-1)
    shallow, first = pairs >= count, pairs % count
    second = jnp.minimum(first + jnp.where(shallow, width, 1), count - 1)
    x, y = (first % width) + 0.5, (first // width) + 0.5
    end = ends.at[jnp.where(edge >= 0, edge, ends.shape[0])].get(mode="fill", fill_value=0)
    # Swap x and y of shallow edges: every edge is then crossed along x at a given y.
    x, y = jnp.where(shallow, y, x), jnp.where(shallow, x, y)
    ax, bx = jnp.where(shallow, end[:, 1], end[:, 0]), jnp.where(shallow, end[:, 3], end[:, 2])
    ay, by = jnp.where(shallow, end[:, 0], end[:, 1]), jnp.where(shallow, end[:, 2], end[:, 3])
    usable = (edge >= 0) & (by != ay)
    crossing = ax + (y - ay) / jnp.where(usable, by - ay, 1.0) * (bx - ax)
    # Distance of the crossing from the midpoint between the two centres: its sign says which pixel is blended.
    shift = jnp.where(usable, jnp.clip(crossing - x - 0.5, -0.5, 0.5), 0.0)[:, None]
    difference = pixels[second] - pixels[first]
    blended = pixels.at[jnp.where(usable, first, count)].add(jnp.maximum(-shift, 0.0) * difference, mode="drop")
    return blended.at[jnp.where(usable, second, count)].add(-jnp.maximum(shift, 0.0) * difference, mode="drop")


@functools.lru_cache(maxsize=64)
def _edge_finder(size: tuple[int, int], perspective: bool, cull: bool, near: float):  # noqa: ANN202
    """Returns `_edges_between` for fixed settings, with a batching rule that puts the batch into one list of edges."""

    @jax.custom_batching.custom_vmap
    def find(screen: Array, depth: Array, faces: Array, opposite: Array) -> tuple[Array, Array, Array]:
        return _edges_between(screen, depth, faces, opposite, perspective, cull, near)

    @find.def_vmap
    def find_vmapped(axis_size, in_batched, screen, depth, faces, opposite):  # noqa: ANN001, ANN202
        arguments = [screen, depth, faces, opposite]
        for k, batched in enumerate(in_batched):
            if not batched and (k < 2 or any(in_batched[2:])):
                arguments[k] = jnp.broadcast_to(arguments[k], (axis_size, *arguments[k].shape))
        if any(in_batched[2:]):  # meshes of different topology: one at a time
            edges, pairs, overflow = jax.lax.map(lambda each: find(*each), tuple(arguments))
            return (edges, pairs, jnp.any(overflow)), (True, True, False)
        screen, depth = (a.reshape(-1, *a.shape[2:]) for a in arguments[:2])
        edges, pairs, overflow = find(screen, depth, faces, opposite)
        edges, pairs = (a.reshape(axis_size, -1, a.shape[-1]) for a in (edges, pairs))
        return (edges, pairs, overflow), (True, True, False)

    return find


def _edges_between(
    screen: Array, depth: Array, faces: Array, opposite: Array, perspective: bool, cull: bool, near: float
) -> tuple[Array, Array, Array]:
    """Find the visible silhouette edge between each pixel and the next in its row, then in its column.

    screen (B, V, 3), depth (B, H, W) -> edges (B, 2 H W) int32: 3 face + the corner opposite to the edge, -1 for none;
    the list (B, K) int32 of pixel pairs with an edge, padded with 2 H W; () bool: whether a list overflows.
    """
    (count, height, width), triangles = depth.shape, faces.shape[0]
    corners = gather_corners(screen, faces)  # (3, 3, B F)
    across = gather_corners(screen, jnp.maximum(opposite, 0))
    drawn = is_drawn(corners, cull, near)
    silhouette = _silhouettes(corners, across, cull, near) | jnp.tile(opposite.T < 0, (1, count))
    starts, ends = jnp.roll(corners, -1, axis=1), jnp.roll(corners, -2, axis=1)
    steep = jnp.abs(ends[1] - starts[1]) >= jnp.abs(ends[0] - starts[0])
    # Lines of pixel centres that the edge crosses, a half-open range: a chain of edges crosses each line once.
    low = jnp.where(steep, jnp.minimum(starts[1], ends[1]), jnp.minimum(starts[0], ends[0]))
    high = jnp.where(steep, jnp.maximum(starts[1], ends[1]), jnp.maximum(starts[0], ends[0]))
    limit = jnp.where(steep, float(height), float(width))
    low, high = (jnp.clip(jnp.ceil(a - 0.5), 0.0, limit) for a in (low, high))
    lines = jnp.where(silhouette & drawn[None], high - low, 0.0).astype(jnp.int32)
    # From here on edges are numbered 3 face + corner.
    last = jnp.cumsum(lines.T.reshape(-1))
    starts, ends, thirds = (a.transpose(2, 1, 0).reshape(-1, 3) for a in (starts, ends, corners))
    low, steep = low.T.reshape(-1), steep.T.reshape(-1)
    slots = count * 2 * height * width

    def step(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, index = state
        edge, line, used = locate_items(last, number * CROSSINGS_PER_STEP, CROSSINGS_PER_STEP)
        a, b, third, is_steep = starts[edge], ends[edge], thirds[edge], steep[edge]
        line = line + low[edge].astype(jnp.int32)
        # Swap x and y of shallow edges: every edge is then crossed along x at a given y.
        (ax, ay), (bx, by), (cx, cy) = (
            (jnp.where(is_steep, p[:, 0], p[:, 1]), jnp.where(is_steep, p[:, 1], p[:, 0])) for p in (a, b, third)
        )
        rise = jnp.where(by != ay, by - ay, 1.0)
        share = (line + 0.5 - ay) / rise
        crossing = ax + share * (bx - ax)
        before = jnp.floor(crossing - 0.5)
        used &= (before >= 0) & (before < jnp.where(is_steep, width, height) - 1)
        before = jnp.where(used, before, 0.0).astype(jnp.int32)
        inside_first = cx - ax < (bx - ax) * (cy - ay) / rise
        z = 1 / ((1 - share) / a[:, 2] + share / b[:, 2]) if perspective else a[:, 2] + share * (b[:, 2] - a[:, 2])
        image = edge // (3 * triangles)
        pixel = image * (height * width) + jnp.where(is_steep, line * width + before, before * width + line)
        first, second = flat_depth[pixel], flat_depth[pixel + jnp.where(is_steep, 1, width)]
        inner, outer = jnp.where(inside_first, first, second), jnp.where(inside_first, second, first)
        used &= (outer > z) & (inner < outer)
        slot = jnp.where(used, pixel + (image + jnp.where(is_steep, 0, 1)) * (height * width), slots)
        nearest = nearest.at[slot].min(z, mode="drop")
        is_nearest = z <= nearest.at[slot].get(mode="fill", fill_value=-jnp.inf)
        index = index.at[jnp.where(is_nearest, slot, slots)].max(edge % (3 * triangles), mode="drop")
        return nearest, index

    flat_depth = depth.reshape(-1)
    start = (jnp.full((slots,), jnp.inf), jnp.full((slots,), -1, jnp.int32))
    steps = (last[-1] + CROSSINGS_PER_STEP - 1) // CROSSINGS_PER_STEP
    edges = jax.lax.fori_loop(0, steps, step, start)[1].reshape(count, -1)
    capacity = min(LISTED_PER_SIDE * (height + width), edges.shape[1])
    running = jnp.cumsum(edges >= 0, axis=1)
    pairs = jax.vmap(lambda sums: jnp.searchsorted(sums, jnp.arange(1, capacity + 1)))(running)
    return edges, pairs.astype(jnp.int32), jnp.max(running[:, -1]) > capacity


def _silhouettes(corners: Array, across: Array, cull: bool, near: float) -> Array:
    """Returns (3, N) bool: which edges of triangles (3, 3, N) are silhouettes, given the vertices across (3, 3, N)."""
    flags = []
    for k in range(3):
        a, b, other = corners[:, (k + 1) % 3], corners[:, (k + 2) % 3], across[:, k]
        own, neighbour = jnp.stack([a, b, corners[:, k]], axis=1), jnp.stack([a, b, other], axis=1)
        folded = signed_area(own[:2]) * signed_area(neighbour[:2]) >= 0
        flags.append(folded | ~is_drawn(neighbour[:, ::-1], cull, near))
    return jnp.stack(flags)
