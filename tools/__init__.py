"""One-off makers, outside the wheel."""
