"""One page that shows a face's hypotheses in 3D, in any browser, from disk: `viewer_page(scene)`."""

from experiments.view.viewer_page.page import viewer_page
from experiments.view.viewer_page.scene import MORPHED, ViewerScene

__all__ = ["MORPHED", "ViewerScene", "viewer_page"]
