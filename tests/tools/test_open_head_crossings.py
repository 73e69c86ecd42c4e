"""The face does not pass through itself, but for lips and lids that touch."""

import numpy as np
import pytest

from flamejax.head import load_head
from tools.open_head.crossings import component_ends, count_crossings, crossing_triangles

CLOSING = 3
"""The component that shuts both eyes: its lids overlap."""


@pytest.fixture(scope="module")
def head():
    return load_head()


def test_crossing_triangles_are_found_and_touching_ones_are_not():
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
def test_no_component_drives_the_face_through_itself(head, numbers):
    """At both ends, 2 standard deviations at most: nothing crosses but shut lips and the lids of a shut eye."""
    rest = count_crossings(head)
    assert rest["lids"] == rest["elsewhere"] == 0 and head.num_expression == 60
    for number, expression in component_ends(head):
        if number not in numbers:
            continue
        found = count_crossings(head, expression=expression)
        assert found["elsewhere"] == 0, (number, expression.sum(), found)
        assert found["lids"] <= 20 or number == CLOSING, (number, expression.sum(), found)
        # Lips that meet touch along their whole seam; more would be lips in each other.
        assert found["lips"] <= 1.5 * rest["lips"], (number, expression.sum(), found)


@pytest.mark.parametrize("angle", [0.1, 0.2, 0.3, 0.4])
def test_an_open_mouth_crosses_nothing(head, angle):
    assert sum(count_crossings(head, jaw_pose=np.array([angle, 0.0, 0.0])).values()) == 0
