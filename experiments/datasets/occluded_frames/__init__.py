"""CO-545's protocol (OFER, supplement E.2) on any registered sequences: expressive frames, photographed from the front
and occluded, with the vertices that stay in sight. See docs/method/sample-metrics.md."""

from experiments.datasets.occluded_frames.store import OccludedFrame, head_of, read_frames

__all__ = ["OccludedFrame", "head_of", "read_frames"]
