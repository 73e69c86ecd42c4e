"""Writes one HTML page that shows a face's hypotheses in 3D, offline, in any browser: `viewer_page(scene)`."""

from experiments.view.viewer_page.page import viewer_page
from experiments.view.viewer_page.scene import MIDPOINT_HEADS, ViewerScene

__all__ = ["MIDPOINT_HEADS", "ViewerScene", "viewer_page"]
