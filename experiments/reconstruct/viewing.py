"""What the viewer is to show of a face."""

from __future__ import annotations

import numpy as np

from experiments.reconstruct.results import FittedFace, spread_of
from experiments.view.viewer_page import Scene
from flamejax.head import HeadModel
from sampling._complete import eyeball_vertices


def scene_of(fitted: FittedFace, head: HeadModel) -> Scene:
    """What the viewer shows of a face that has hypotheses."""
    face, found = fitted.face, fitted.hypotheses
    assert found is not None
    # The camera of the crop, in pixels of the preview.
    crop, zoom = face.observation.crop, face.preview_scale
    scale = zoom * float(fitted.camera.scale) / float(crop.scale)
    moved = np.asarray(fitted.camera.translation, np.float64) - np.asarray(crop.offset, np.float64)
    heads = np.asarray(found.vertices, np.float32)
    return Scene(
        title=face.name,
        fit=np.asarray(fitted.vertices, np.float32),
        heads=heads,
        scores=np.asarray(found.score),
        midpoints=fitted.midpoints,
        # As for the Mesh-VAE: eyeballs count as seen.
        seen=np.asarray(fitted.vertex_visibility, bool) | np.asarray(eyeball_vertices(head)),
        spread=spread_of(heads.astype(np.float64)),
        faces=np.asarray(head.faces),
        uv=np.asarray(head.uv),
        uv_faces=np.asarray(head.uv_faces),
        texture=fitted.texture,
        light=fitted.light,
        photo=face.preview,
        scale=scale,
        translation=zoom * moved / float(crop.scale),
    )
