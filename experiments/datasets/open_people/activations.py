"""Names of left and right face units, and the variation that random activations share."""

from __future__ import annotations

SIDE_ASYMMETRY = 0.10  # standard deviation of the left-right asymmetry, relative to the mean of both sides
UNIT_NOISE = 0.07  # standard deviation of the independent noise of each unit
UNIT_NOISE_PEAK = 0.0010  # metres: limit of a vertex's displacement by this noise


def mirrored_name(name: str) -> str:
    """Returns the name of the other side's unit; the same name for a unit of both sides."""
    for a, b in (("Left", "Right"), ("-left-", "-right-")):
        if a in name:
            return name.replace(a, b)
        if b in name:
            return name.replace(b, a)
    return name


def sides(pattern: str) -> tuple[str, ...]:
    """Expand a pattern, in which `*` stands for left or right, to unit names; one name if it has no `*`."""
    if "*" not in pattern:
        return (pattern,)
    names = ("left", "right") if "-*-" in pattern else ("Left", "Right")
    return tuple(pattern.replace("*", side) for side in names)


def side_sign(name: str) -> float:
    """Returns 1 for a unit of the left side, -1 for the right, 0 for both."""
    return 1.0 if "Left" in name or "-left-" in name else -1.0 if mirrored_name(name) != name else 0.0
