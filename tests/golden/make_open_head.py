"""Makes tests/golden/open_head.png: `python -m tests.golden.make_open_head`. Look at it before committing it."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import flamejax
from flamejax.io.images import save_image


def golden_render() -> np.ndarray:
    """Render the mean open head, turned by 25 degrees, jaw slightly open, lit from above: (128, 128, 4) in [0, 1]."""
    head = flamejax.load_head()
    rest = flamejax.HeadParams.zeros(head)
    params = dataclasses.replace(
        rest, global_orient=jnp.asarray([0.1, 0.44, 0.0]), jaw_pose=jnp.asarray([0.1, 0.0, 0.0])
    )
    verts = flamejax.vertices(head, params)
    centre = 0.5 * (verts.min(0) + verts.max(0))
    camera = flamejax.OrthographicCamera(
        jnp.asarray(340.0), jnp.asarray([64.0, 64.0]) - 340.0 * centre[:2] * jnp.asarray([1.0, -1.0])
    )
    light = jnp.zeros((9, 3)).at[0].set(2.4).at[1].set(0.6).at[2].set(0.9)
    image = flamejax.render(head, verts, camera, light=light, size=(128, 128), antialias=False)
    return np.clip(np.asarray(image), 0.0, 1.0)


if __name__ == "__main__":
    save_image(Path(__file__).with_name("open_head.png"), golden_render())
