"""Graph sampling: the paper's vertex counts, its rules by brute force, independence of numbering; the Laplacian."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from flax import nnx

import flamejax
from experiments.benchmark.spheres import spheres
from flamejax.geometry import laplacian
from models import mesh_hierarchy
from models.hierarchy import neighbour_lists
from models.mesh_conv import MeshResidual
from tests.models.conftest import SMALL_SPHERES

STRIDES = (2, 1, 2, 1, 2, 1, 2)


def hops(hierarchy, level):
    """Return the numbers of edges between all pairs of vertices of a level, infinite if they are not connected."""
    count = hierarchy.num_vertices[level]
    joined = np.eye(count, dtype=bool)
    joined[hierarchy.receivers[level], hierarchy.senders[level]] = True
    distance, reached = np.where(np.eye(count, dtype=bool), 0.0, np.inf), np.eye(count, dtype=bool)
    for step in range(1, count):
        grown = reached.astype(int) @ joined.astype(int) > 0
        if (grown == reached).all():
            break
        distance[grown & ~reached], reached = step, grown
    return distance


def sources(lists):
    """Return the set of each target's sources."""
    index, mask = np.asarray(lists.index), np.asarray(lists.mask)
    return [set(row[valid].tolist()) for row, valid in zip(index, mask, strict=True)]


def pairs(lists):
    return {(target, source) for target, row in enumerate(sources(lists)) for source in row}


def check_lists(lists):
    """Check that no source is repeated, that padding comes last, and that the inverted lists agree."""
    index, mask = np.asarray(lists.index), np.asarray(lists.mask)
    back, back_mask = np.asarray(lists.back), np.asarray(lists.back_mask)
    assert index.dtype == back.dtype == np.int32 and (index[~mask] == 0).all() and (back[~back_mask] == 0).all()
    assert (np.sort(~mask, axis=1) == ~mask).all() and mask.any(1).all() and mask.all(0).any()
    assert lists.width == index.shape[1]
    assert [len(row) for row in sources(lists)] == mask.sum(1).tolist()
    positions = [set(row[valid].tolist()) for row, valid in zip(back, back_mask, strict=True)]
    for source, source_positions in enumerate(positions):
        assert source_positions == set(np.flatnonzero((index.reshape(-1) == source) & mask.reshape(-1)).tolist())


@pytest.mark.parametrize("mirrored", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_vertex_counts_are_near_the_papers_and_all_components_survive(flame_sized, mirrored):
    hierarchy = flame_sized
    if mirrored:
        faces, positions = spheres()
        hierarchy = mesh_hierarchy(faces, positions * [1, 1, -1])
    counts = hierarchy.num_vertices
    assert counts[0] == 5023 and counts[1::2] == counts[2::2] + counts[-1:]
    np.testing.assert_allclose(counts[1:4:2], [1367, 270], rtol=0.1)
    np.testing.assert_allclose(counts[5], 45, rtol=0.2)
    assert abs(counts[7] - 10) <= 3
    assert all(set(labels.tolist()) == {0, 1, 2} for labels in hierarchy.components)
    assert hierarchy.steps[0].pool.width < 30


def test_all_components_of_the_open_head_survive():
    head = flamejax.load_head()
    hierarchy = mesh_hierarchy(np.asarray(head.faces), np.asarray(head.v_template))
    component_sets = [set(labels.tolist()) for labels in hierarchy.components]
    assert len(component_sets[0]) >= 3 and all(labels == component_sets[0] for labels in component_sets)


def test_edges_never_leave_a_component(flame_sized):
    for level, labels in enumerate(flame_sized.components):
        assert (labels[flame_sized.senders[level]] == labels[flame_sized.receivers[level]]).all()
    for step, fine, coarse in zip(
        flame_sized.steps, flame_sized.components[:-1], flame_sized.components[1:], strict=True
    ):
        assert (fine[step.centres] == coarse).all()


def test_every_vertex_is_pooled_and_unpooled_and_the_two_are_transposes(flame_sized):
    for step in flame_sized.steps:
        for lists in (step.pool, step.unpool):
            assert np.asarray(lists.mask).any(1).all() and np.asarray(lists.back_mask).any(1).all()
        assert pairs(step.pool) == {(target, source) for source, target in pairs(step.unpool)}


def test_stride_1_keeps_vertices_and_numbers(flame_sized):
    for level, step in enumerate(flame_sized.steps):
        if step.stride == 1:
            assert (step.centres == np.arange(flame_sized.num_vertices[level])).all()
            for values in (flame_sized.senders, flame_sized.receivers, flame_sized.components):
                assert (values[level] == values[level + 1]).all()


@pytest.mark.parametrize(
    ("strides", "radii"), [((2, 1, 2), None), ((1, 2, 3), None), ((3, 2), (2, 4)), ((2, 2), (1, 1))]
)
def test_rules_hold_against_brute_force(strides, radii):
    hierarchy = mesh_hierarchy(*spheres(SMALL_SPHERES), strides, radii)
    for level, step in enumerate(hierarchy.steps):
        distance, centres = hops(hierarchy, level), step.centres
        assert step.stride == strides[level] and step.radius == (radii or strides)[level]
        between = distance[np.ix_(centres, centres)] + np.where(np.eye(len(centres), dtype=bool), np.inf, 0)
        assert between.min() > step.stride - 1
        assert (distance[:, centres].min(1) <= step.stride - 1).all()
        assert sources(step.pool) == [set(np.flatnonzero(distance[c] <= step.radius).tolist()) for c in centres]
        check_lists(step.pool)
        check_lists(step.unpool)
        joined = np.isfinite(hops(hierarchy, level + 1)) & (hops(hierarchy, level + 1) == 1)
        assert (joined == (between <= 2 * step.stride - 1)).all()
        senders, receivers = hierarchy.senders[level + 1], hierarchy.receivers[level + 1]
        assert joined.sum() == len(senders) and (np.diff(receivers) >= 0).all()


def test_hierarchy_is_deterministic(small):
    again = mesh_hierarchy(*spheres(SMALL_SPHERES), (2, 1, 2))
    for one, other in zip(small.steps, again.steps, strict=True):
        np.testing.assert_array_equal(one.centres, other.centres)
        jax.tree.map(np.testing.assert_array_equal, (one.pool, one.unpool), (other.pool, other.unpool))
    jax.tree.map(np.testing.assert_array_equal, small.senders, again.senders)


@pytest.mark.parametrize("strides", [(2, 1, 2), (1, 2, 1)])
def test_hierarchy_is_independent_of_numbering(strides):
    rng = np.random.default_rng(0)
    faces, positions = spheres(SMALL_SPHERES)
    positions = positions + 1e-3 * rng.standard_normal(positions.shape)
    number = rng.permutation(len(positions))
    shuffled = np.empty_like(positions)
    shuffled[number] = positions
    turned = np.stack([np.roll(face, k) for face, k in zip(number[faces], rng.integers(0, 3, len(faces)), strict=True)])
    one = mesh_hierarchy(faces, positions, strides)
    other = mesh_hierarchy(rng.permutation(turned), shuffled, strides)
    new = number  # of the current level: vertices keep their numbers until a stride above 1
    for k, (mine, theirs) in enumerate(zip(one.steps, other.steps, strict=True)):
        assert (other.components[k][new] == one.components[k]).all()
        edges = {(new[a], new[b]) for a, b in zip(one.senders[k], one.receivers[k], strict=True)}
        assert edges == set(zip(other.senders[k].tolist(), other.receivers[k].tolist(), strict=True))
        coarse = new if mine.stride == 1 else np.arange(len(mine.centres))
        assert {(coarse[p], new[s]) for p, s in pairs(mine.pool)} == pairs(theirs.pool)
        assert {(new[p], coarse[s]) for p, s in pairs(mine.unpool)} == pairs(theirs.unpool)
        assert (theirs.centres[coarse] == new[mine.centres]).all()
        new = coarse
    if strides[0] > 1:
        for mine, theirs in zip(one.steps[1:], other.steps[1:], strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine.pool, theirs.pool)


def test_isolated_vertices_survive():
    faces, positions = np.array([[0, 1, 2]]), np.random.default_rng(0).standard_normal((5, 3))
    hierarchy = mesh_hierarchy(faces, positions, (2, 1, 2))
    assert hierarchy.num_vertices == (5, 3, 3, 3)
    assert {3, 4} <= set(hierarchy.steps[0].centres.tolist())
    assert all(set(labels.tolist()) == {0, 1, 2} for labels in hierarchy.components)
    cloud = mesh_hierarchy(np.zeros((0, 3), int), positions, (2,))
    assert cloud.num_vertices == (5, 5) and cloud.graph().senders.shape == (0,)


FACES, POSITIONS = np.array([[0, 1, 2]]), np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FACES.astype(float), POSITIONS), "faces are"),
        ((FACES[:, :2], POSITIONS), "faces are"),
        ((FACES, POSITIONS[:, :2]), "positions are"),
        ((FACES, POSITIONS * np.nan), "finite"),
        ((FACES + 1, POSITIONS), "vertices 1 to 3"),
        ((FACES - 1, POSITIONS), "vertices -1 to 1"),
        ((np.zeros((0, 3), int), np.zeros((0, 3))), "at least one"),
        ((FACES, POSITIONS, (2, 0)), "at least 1"),
        ((FACES, POSITIONS, (2, 1), (2, 0)), "at least 1"),
        ((FACES, POSITIONS, (2, 1), (2,)), "2 strides, but 1 radii"),
        ((FACES, POSITIONS, (4,), (2,)), "stride - 1"),
    ],
)
def test_bad_meshes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mesh_hierarchy(*arguments)


@pytest.mark.parametrize("lists", [[], [[0], []], [[0], [3]], [[-1], [0]]])
def test_bad_lists_are_refused(lists):
    with pytest.raises(ValueError, match="source"):
        neighbour_lists([np.array(one, int) for one in lists], 3)


def test_unused_sources_have_empty_inverse_lists():
    lists = neighbour_lists([np.array([0, 2]), np.array([2])], 4)
    check_lists(lists)
    assert lists.num_targets == 2 and lists.num_sources == 4 and not np.asarray(lists.back_mask)[[1, 3]].any()


def test_residuals_preserve_constants(flame_sized):
    """With equal weights, and with random ones."""
    rng, x = np.random.default_rng(0), jnp.full((5023, 1), 1.7)
    residuals = [MeshResidual(step.pool, 1, 1, rngs=nnx.Rngs(0)) for step in flame_sized.steps]
    residuals += [MeshResidual(step.unpool, 1, 1, rngs=nnx.Rngs(0)) for step in flame_sized.steps[::-1]]
    for residual in residuals:
        np.testing.assert_allclose(residual(x), 1.7, rtol=1e-6)
        residual.weights[...] = jnp.asarray(rng.standard_normal(residual.weights.shape), jnp.float32)
        x = residual(x)
        np.testing.assert_allclose(x, 1.7, rtol=1e-6)


def test_graph_has_both_directions(small):
    for level in range(len(small.num_vertices)):
        graph = small.graph(level)
        assert isinstance(graph, jraph.GraphsTuple)
        assert graph.n_node.tolist() == [small.num_vertices[level]] and graph.n_edge.tolist() == [len(graph.senders)]
        edges = list(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
        assert len(set(edges)) == len(edges) and {(b, a) for a, b in edges} == set(edges)
        assert all(a != b for a, b in edges)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_laplacian_is_the_mean_of_the_neighbours_minus_the_vertex(batch):
    faces, positions = spheres(SMALL_SPHERES)
    hierarchy = mesh_hierarchy(faces, np.concatenate([positions, [[0, 2, 0]]]), (2,))  # the last vertex is isolated
    signal = np.random.default_rng(0).standard_normal((*batch, 121, 2)).astype(np.float32)
    neighbours = [set() for _ in range(121)]
    for face in faces.tolist():
        for vertex in face:
            neighbours[vertex] |= set(face) - {vertex}
    expected = np.zeros_like(signal)
    for vertex, others in enumerate(neighbours):
        if others:
            expected[..., vertex, :] = signal[..., sorted(others), :].mean(-2) - signal[..., vertex, :]
    graph = hierarchy.graph()
    result = laplacian(jnp.asarray(signal), graph.senders, graph.receivers)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    laplacian_of_constant = laplacian(jnp.full((*batch, 121, 2), 0.3), graph.senders, graph.receivers)
    np.testing.assert_allclose(laplacian_of_constant, 0, atol=1e-7)
