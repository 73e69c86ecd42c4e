"""Names of face units on both sides of the face, and how they vary: what random activations have in common."""

from __future__ import annotations

LOPSIDED = 0.10  # standard deviation of the ratio by which one side exceeds the mean of both
ALONE = 0.07  # every unit by itself: standard deviation
ALONE_PEAK = 0.0010  # metres: but no vertex further than this


def twin(name: str) -> str:
    """The other side's unit name; the name itself for a unit of both sides."""
    for a, b in (("Left", "Right"), ("-left-", "-right-")):
        if a in name:
            return name.replace(a, b)
        if b in name:
            return name.replace(b, a)
    return name


def sides(pattern: str) -> tuple[str, ...]:
    """The unit names of a pattern, whose `*` stands for both sides: left and right, or the one without a `*`."""
    if "*" not in pattern:
        return (pattern,)
    words = ("left", "right") if "-*-" in pattern else ("Left", "Right")
    return tuple(pattern.replace("*", word) for word in words)


def side_sign(name: str) -> float:
    """1 for a unit of the left side, -1 for one of the right, 0 for one of both."""
    return 1.0 if "Left" in name or "-left-" in name else -1.0 if twin(name) != name else 0.0
