"""jaxrenderer at our work. `experiments.benchmark.jaxrenderer` runs this file by its path, with another interpreter:
nothing of flamejax is imported here.

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

# Whatever the library prints goes to stderr: stdout carries the answers.
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
    """Answer until stdin ends."""
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
    """Fill in the programs, and write the image."""
    scene = dict(np.load(folder / "scene.npz"))
    size, faces = int(scene["size"]), jnp.asarray(scene["faces"])
    arguments = (jnp.asarray(to_clip(scene["screen"], size)), jnp.asarray(scene["colours"]))

    def draw(positions, colours):  # noqa: ANN001, ANN202
        return draw_colours(positions, colours, faces, size)

    start = time.perf_counter()
    forward = jax.jit(draw).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    # Theirs is (x, y) with y up.
    np.save(folder / "image.npy", np.asarray(forward(*arguments)).transpose(1, 0, 2)[::-1])
    programs["forward"] = lambda: forward(*arguments)
    loss = jax.value_and_grad(lambda p, c: 0.5 * jnp.sum(draw(p, c) ** 2), (0, 1))
    start = time.perf_counter()
    gradient = jax.jit(loss).lower(*arguments).compile()
    spent = time.perf_counter() - start
    why = refuse(gradient, arguments, float(scene["memory"]))
    if why is None:
        seconds += spent
        programs["gradient"] = lambda: gradient(*arguments)
    version = importlib.metadata.version("jaxrenderer")
    return {"version": version, "jax": jax.__version__, "compile_s": seconds, "gradient": why}


def refuse(gradient, arguments, memory):  # noqa: ANN001, ANN201
    """Why a gradient is not worth timing, or None."""
    needed = gradient.memory_analysis().temp_size_in_bytes
    if needed > memory:
        return f"its gradient would take {needed / 1e9:.0f} GB of memory"
    lost = sum(int((~jnp.isfinite(part)).sum()) for part in gradient(*arguments)[1])
    return f"its gradient has {lost} entries that are not finite" if lost else None


def to_clip(screen, size):  # noqa: ANN001, ANN201
    """Pixels and depth (V, 3) -> clip space (V, 3), y up; their pixel i is where the centre of ours is."""
    x, y, z = screen.T
    near, far = z.min(), z.max()
    depth = ((z - near) / (far - near) * 2 - 1) * (1 - DEPTH_MARGIN)
    return np.stack([(x - 0.5) / (size / 2) - 1, (size - y - 0.5) / (size / 2) - 1, depth], 1).astype(np.float32)


def draw_colours(positions, colours, faces, size):  # noqa: ANN001, ANN201
    """Vertex colours with depth test, back faces culled, black background: (size, size, 3), axes x and y."""
    viewport = Camera.viewport_matrix(jnp.zeros(2, int), jnp.array((size, size)), jnp.array(1.0))
    camera = Camera.create(view=jnp.eye(4), projection=jnp.eye(4), viewport=viewport)
    towards = jnp.array([0.0, 0.0, 1.0])
    # All normals point at the light: the shader's intensity is 1.
    normals = jnp.broadcast_to(towards, positions.shape)
    extra = GouraudExtraInput(positions, colours, normals, LightSource(towards, jnp.ones(3)))
    buffers = Buffers(jnp.ones((size, size)), (jnp.zeros((size, size, 3)),))
    return render(camera, GouraudShader, buffers, faces, extra).targets[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
