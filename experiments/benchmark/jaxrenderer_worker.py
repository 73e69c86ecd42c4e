"""The worker that runs jaxrenderer.

`experiments.benchmark.render_peers` starts this file with another interpreter, so it imports nothing of flamejax.

    PYTHON jaxrenderer_worker.py FOLDER

FOLDER/scene.npz holds screen (V, 3), colours (V, 3), faces (F, 3), size () and memory (), the bytes that a program may
take. One line of JSON answers each line of stdin:

    compile  -> {"version", "jax", "compile_s", "gradient": null or why there is none}; FOLDER/image.npy (size, size, 3)
    forward  -> {"seconds"} of one run
    gradient -> {"seconds"} of one run
"""

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

# The library's prints go to stderr, since stdout carries the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from renderer import Buffers, Camera, LightSource, render  # noqa: E402
from renderer.shaders.gouraud import GouraudExtraInput, GouraudShader  # noqa: E402

DEPTH_MARGIN = 0.1
"""How far inside the clip volume the nearest and farthest vertex lie."""


def main(folder):  # noqa: ANN001, ANN201
    """Answer each line of stdin until it ends."""
    programs: dict = {}
    for line in sys.stdin:
        command = line.strip()
        if command == "compile":
            answer = compile_programs(folder, programs)
        else:
            start = time.perf_counter()
            jax.block_until_ready(programs[command]())
            answer = {"seconds": time.perf_counter() - start}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def compile_programs(folder, programs):  # noqa: ANN001, ANN201
    """Compile the programs into the dictionary, and write the image."""
    scene = dict(np.load(folder / "scene.npz"))
    size, faces = int(scene["size"]), jnp.asarray(scene["faces"])
    arguments = (jnp.asarray(to_clip(scene["screen"], size)), jnp.asarray(scene["colours"]))

    def draw(positions, colours):  # noqa: ANN001, ANN202
        return draw_colours(positions, colours, faces, size)

    start = time.perf_counter()
    forward = jax.jit(draw).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    # Their image has axes x and y, with y up.
    np.save(folder / "image.npy", np.asarray(forward(*arguments)).transpose(1, 0, 2)[::-1])
    programs["forward"] = lambda: forward(*arguments)
    loss = jax.value_and_grad(lambda p, c: 0.5 * jnp.sum(draw(p, c) ** 2), (0, 1))
    start = time.perf_counter()
    gradient = jax.jit(loss).lower(*arguments).compile()
    gradient_seconds = time.perf_counter() - start
    refusal = refusal_of(gradient, arguments, float(scene["memory"]))
    if refusal is None:
        seconds += gradient_seconds
        programs["gradient"] = lambda: gradient(*arguments)
    version = importlib.metadata.version("jaxrenderer")
    return {"version": version, "jax": jax.__version__, "compile_s": seconds, "gradient": refusal}


def refusal_of(gradient, arguments, memory):  # noqa: ANN001, ANN201
    """Return why a gradient is not timed, or None if it is."""
    needed = gradient.memory_analysis().temp_size_in_bytes
    if needed > memory:
        return f"its gradient would take {needed / 1e9:.0f} GB of memory"
    non_finite = sum(int((~jnp.isfinite(part)).sum()) for part in gradient(*arguments)[1])
    return f"its gradient has {non_finite} entries that are not finite" if non_finite else None


def to_clip(screen, size):  # noqa: ANN001, ANN201
    """Convert pixels and depth (V, 3) to clip space (V, 3), y up. Their pixel i lies at the centre of our pixel i."""
    x, y, z = screen.T
    near, far = z.min(), z.max()
    depth = ((z - near) / (far - near) * 2 - 1) * (1 - DEPTH_MARGIN)
    return np.stack([(x - 0.5) / (size / 2) - 1, (size - y - 0.5) / (size / 2) - 1, depth], 1).astype(np.float32)


def draw_colours(positions, colours, faces, size):  # noqa: ANN001, ANN201
    """Draw vertex colours with depth test, back faces culled, on black: (size, size, 3), axes x and y."""
    viewport = Camera.viewport_matrix(jnp.zeros(2, int), jnp.array((size, size)), jnp.array(1.0))
    camera = Camera.create(view=jnp.eye(4), projection=jnp.eye(4), viewport=viewport)
    direction = jnp.array([0.0, 0.0, 1.0])
    # All normals point at the light, so the shader's intensity is 1.
    normals = jnp.broadcast_to(direction, positions.shape)
    extra = GouraudExtraInput(positions, colours, normals, LightSource(direction, jnp.ones(3)))
    buffers = Buffers(jnp.ones((size, size)), (jnp.zeros((size, size, 3)),))
    return render(camera, GouraudShader, buffers, faces, extra).targets[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
