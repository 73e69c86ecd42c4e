"""Benchmarks by CO-545's protocol (OFER, supplement E.2) from registered sequences.

Expressive frames are rendered from the front and occluded; the visible vertices are known.
See docs/method/sample-metrics.md.
"""

from experiments.datasets.occluded_frames.store import OccludedFrame, benchmark_head, read_frames

__all__ = ["OccludedFrame", "benchmark_head", "read_frames"]
