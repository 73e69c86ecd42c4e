"""Fast fakes of the heavy steps of reconstruct, with real shapes and types."""

import hashlib
import json
import threading
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from rich.console import Console

import flamejax
from experiments.reconstruct import command, reconstruct_config
from experiments.reconstruct.tools import Tools
from fitting import Fit, NoFaceError, Observation
from fitting.fit_model import without_local_models
from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.io.results import HeadIdentity
from flamejax.types import Hypotheses
from tests.heads import random_head

HEAD = random_head(subdivisions=1)
IDENTITY = HeadIdentity("random", "0", "none", hashlib.sha256(b"random").hexdigest())


def write_photo(path: Path, size: tuple[int, int] = (64, 48), colour: int = 120, mode: str = "RGB") -> Path:
    """Write a plain image with a lighter square in it, in which `FakeTools.observe` detects faces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    pixels[10:30, 20:40] = 200
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path)
    return path


class FakeTools:
    """Fakes all heavy steps and records their calls. Black photos have no face, others have `faces`.

    bad_code: mean colour of photos whose fit fails. seen_beyond: vertices with a larger z are visible.
    """

    def __init__(self, faces: int = 1, bad_code: float | None = None, seen_beyond: float = -1.0):
        self.faces, self.bad_code, self.seen_beyond = faces, bad_code, seen_beyond
        self.batches: list[int] = []
        self.observed: list[dict] = []
        self.lock = threading.Lock()

    def tools(self, config=None, head=HEAD) -> Tools:
        draw = midpoints = None
        if config is not None and config.method in ("complete", "diverse"):
            count = config.drawing.num_samples
            draw, midpoints = lambda fit, observation, keys: self.complete(fit, keys, count), self.midpoints
        model, fit = without_local_models(head), lambda observation: self.fit(head, observation)
        return Tools(self.observe, self.mask, model, fit, self.vertices, self.render, draw, midpoints)

    def complete(self, fit: Fit, keys, count: int) -> Hypotheses:
        """Move the hidden vertices of the fit sideways, by numbers that depend on the keys only."""
        steps = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys))
        moved = np.where(fit.vertex_visibility, 0.0, 1.0)[:, None, :, None] * [0.01, 0.0, 0.0]
        heads = np.asarray(fit.vertices)[:, None] + steps[..., None, None] * moved
        return Hypotheses(heads, None, np.zeros((*steps.shape, 2, 3)), -np.sort(steps, axis=1))

    def midpoints(self, fit: Fit, hypotheses: Hypotheses) -> np.ndarray:
        """Return heads a millimetre above the mean of each pair."""
        heads = hypotheses.vertices
        first, second = np.triu_indices(heads.shape[1], 1)
        return (heads[:, first] + heads[:, second]) / 2 + np.array([0.0, 1e-3, 0.0])

    def mask(self, head, observation: Observation) -> Observation:
        return observation

    def observe(self, image: np.ndarray, *, size: int, all_faces: bool, **given) -> list[Observation]:
        with self.lock:
            self.observed.append({"shape": image.shape, "all_faces": all_faces, **given})
        if image.max() < 0.05:
            raise NoFaceError("no face was found.")
        scale = size / 32.0
        crop = CropTransform(np.float32(scale), np.array([-4.0 * scale, -2.0 * scale], np.float32))
        one = Observation(
            image=np.full((size, size, 3), image.mean(), np.float32),
            landmarks=np.linspace(1.0, size - 1.0, 136, dtype=np.float32).reshape(68, 2),
            confidence=np.linspace(0.0, 1.0, 68, dtype=np.float32),
            dense_landmarks=np.zeros((468, 2), np.float32),
            dense_confidence=np.zeros(468, np.float32),
            face_mask=np.ones((size, size), np.float32),
            occlusion_mask=np.zeros((size, size), np.float32),
            crop=crop,
        )
        return [one] * (self.faces if all_faces else 1)

    def fit(self, head, observation: Observation) -> Fit:
        batch, side = observation.image.shape[0], observation.image.shape[1]
        self.batches.append(batch)
        sizes = {name: np.shape(value)[0] for name, value in vars(flamejax.HeadParams.zeros(head)).items()}
        params = flamejax.HeadParams(**{name: np.zeros((batch, size), np.float32) for name, size in sizes.items()})
        vertices = self.vertices(head, params)
        code = np.zeros(batch, np.int32)
        if self.bad_code is not None:  # photos of this mean colour cannot be fitted
            code = np.where(np.abs(observation.image[:, 0, 0, 0] - self.bad_code) < 0.02, 1, 0)
        return Fit(
            params=params,
            vertices=vertices,
            landmarks=np.repeat(vertices[:, :1], 68, axis=1),
            camera=OrthographicCamera(np.full(batch, 4.0 * side), np.full((batch, 2), 0.5 * side)),
            texture=np.zeros((batch, head.albedo_basis.shape[0]), np.float32),
            light=np.ones((batch, 9, 3), np.float32),
            vertex_visibility=np.broadcast_to(np.asarray(head.v_template)[:, 2] > self.seen_beyond, vertices.shape[:2]),
            losses={"total": np.ones(batch), "nme": np.full(batch, np.nan)},
            code=code,
        )

    def vertices(self, head, params) -> np.ndarray:
        return np.repeat(np.asarray(head.v_template)[None], len(params.betas), axis=0)

    def render(self, head, verts, camera, *, texture, light, size) -> np.ndarray:
        """Draw a disc at the head's centre in the texture's mean colour."""
        middle = np.asarray(camera.project(verts))[..., :2].mean(axis=1)
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        inside = (columns - middle[:, 0, None, None]) ** 2 + (rows - middle[:, 1, None, None]) ** 2 < 40.0**2
        colour = np.broadcast_to(np.asarray(texture).mean(axis=(0, 1)), (len(verts), *size, 3))
        return np.concatenate([colour, np.ones_like(colour[..., :1])], axis=-1) * inside[..., None]


def reconstruct(folder: Path, output: Path, fake: FakeTools | None = None, **options) -> int:
    """Run the command with fake steps. Returns the exit status."""
    config = reconstruct_config((str(folder),), output, size=64, **{"batch_size": 2, "method": "fit", **options})
    return command.run(config, Console(quiet=True), (fake or FakeTools()).tools)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(output: Path) -> list[str]:
    return sorted(p.parent.name for p in output.glob("*/metrics.json"))


def stamps(output: Path) -> dict[str, int]:
    """Return result name -> modification time of its metrics.json, ns."""
    return {name: (output / name / "metrics.json").stat().st_mtime_ns for name in results(output)}


def bad_photos(folder: Path) -> Path:
    """Write six files that cannot be reconstructed, each for another reason. Returns the folder."""
    write_photo(folder / "faceless.png", colour=0)
    with Image.open(folder / "faceless.png") as image:
        Image.new("RGB", image.size).save(folder / "faceless.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    whole = write_photo(folder / "whole.jpg", size=(400, 400)).read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    write_photo(folder / "tiny.png", size=(40, 32))
    with Image.open(folder / "tiny.png") as image:
        image.resize((3, 2)).save(folder / "tiny.png")
    Image.new("1", (20000, 10000)).save(folder / "huge.png")
    return folder
