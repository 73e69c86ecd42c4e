"""The face does not intersect itself, except for lips and lids that touch."""

import numpy as np
import pytest

from flamejax.head import load_head
from tools.open_head.crossings import component_ends, count_crossings, crossing_triangles

CLOSING = 3
"""The component that shuts both eyes, where the lids overlap."""


@pytest.fixture(scope="module")
def head():
    return load_head()


def test_crossing_triangles_are_counted_and_adjacent_ones_are_not():
    points = 1e-3 * np.array(
        [
            [0, 0, 0], [2, 0, 0], [0, 2, 0],  # flat
            [0.5, 0.5, -1], [0.5, 0.5, 1], [1.5, 1.5, 1],  # through it
            [0, 0, 0.5], [2, 0, 0.5], [0, 2, 0.5],  # above it, and crossed by the second
            [9, 9, 9], [8, 9, 9], [9, 8, 9],  # far off
            [0, 0, -3],
        ]
    )  # fmt: skip
    triangles = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
    assert crossing_triangles(points, triangles).tolist() == [0, 1, 2]
    assert crossing_triangles(points, triangles[[0, 2, 3]]).size == 0
    assert crossing_triangles(points, np.array([[0, 1, 2], [0, 1, 12]])).size == 0


@pytest.mark.parametrize("numbers", [range(1, 9), pytest.param(range(9, 61), marks=pytest.mark.slow)])
def test_components_make_only_lips_and_shut_lids_intersect(head, numbers):
    """At both ends of their range, at most 2 standard deviations."""
    rest = count_crossings(head)
    assert rest["lids"] == rest["elsewhere"] == 0 and head.num_expression == 60
    for number, expression in component_ends(head):
        if number not in numbers:
            continue
        counts = count_crossings(head, expression=expression)
        assert counts["elsewhere"] == 0, (number, expression.sum(), counts)
        assert counts["lids"] <= 20 or number == CLOSING, (number, expression.sum(), counts)
        # Closed lips touch along their seam; higher counts mean that they penetrate each other.
        assert counts["lips"] <= 1.5 * rest["lips"], (number, expression.sum(), counts)


@pytest.mark.parametrize("angle", [0.1, 0.2, 0.3, 0.4])
def test_an_open_mouth_crosses_nothing(head, angle):
    assert sum(count_crossings(head, jaw_pose=np.array([angle, 0.0, 0.0])).values()) == 0
