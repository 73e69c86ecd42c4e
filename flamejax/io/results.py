"""What `flamejax reconstruct` wrote for a face, read back: `load_results(folder)`. Nothing but the folder is needed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flamejax.camera import OrthographicCamera
from flamejax.files import TEMPORARY_PREFIX
from flamejax.head.blend_skin import vertices
from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.npy_files import read_npz
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.types import OK, Fit, Hypotheses

FORMAT_VERSION = 1
RESULT_FILES = (
    "params.npz",
    "camera.json",
    "landmarks.json",
    "overlay.png",
    "occlusion_mask.png",
    "face_mask.png",
    "mesh.obj",
    "mesh.mtl",
    "mesh.png",
    "mesh.glb",
    "metrics.json",
)
HYPOTHESES = "hypotheses"
"""Folder of a face's hypotheses 00, 01, ..., best first."""
MOST_HYPOTHESES = 10_000
FOLDED = ("global_betas", "global_expression", "local_shape")
"""Counts in params.npz that say how `local` goes together with `betas` and `expression`: the leading coefficients of
either that are kept, and how many of `local` are of shape (the rest are of expression)."""
SAME_METRES = 1e-4
"""Saved vertices further than this from those of the saved coefficients are another model's."""

vertices_of = jax.jit(vertices)


class ResultError(ValueError):
    """A folder that cannot be read as a result; the message names the file and says what to do."""


class FittedModel(Protocol):
    """What was fitted, as `fitting.prepare` gives it: a head of whose coefficients the first are global and the others
    of local models."""

    @property
    def head(self) -> HeadModel: ...
    @property
    def num_betas(self) -> int: ...
    @property
    def num_expression(self) -> int: ...
    @property
    def global_betas(self) -> int: ...
    @property
    def global_expression(self) -> int: ...
    @property
    def has_local(self) -> bool: ...
    def global_params(self, params: HeadParams) -> HeadParams: ...
    def local_coefficients(self, params: HeadParams) -> jax.Array | None: ...


@dataclass(frozen=True)
class HeadIdentity:
    """Which head model a result belongs to."""

    name: str
    version: str
    licence: str
    sha256: str
    """Of its file."""


@dataclass(frozen=True)
class Result:
    """One face of an output folder."""

    folder: Path
    metrics: dict[str, Any]
    """What metrics.json says."""
    fit: Fit
    """Without batch axes. Its parameters are those of the fitted head: with local models, `model.head` of
    `model = fitting.prepare(head, local)`."""
    hypotheses: Hypotheses | None
    """Best first; None where the result has none."""

    @property
    def name(self) -> str:
        """The folder's: that of the photo, with `_face1` and so on for its further faces."""
        return self.folder.name

    @property
    def mesh(self) -> Path:
        """The textured head; mesh.obj lies beside it."""
        return self.folder / "mesh.glb"

    @property
    def overlay(self) -> Path:
        """The head over the photo."""
        return self.folder / "overlay.png"

    @property
    def occlusion_mask(self) -> Path:
        """White where the face is hidden, of the overlay's size."""
        return self.folder / "occlusion_mask.png"

    @property
    def face_mask(self) -> Path:
        """White where the face is, of the overlay's size. Results of early versions have none."""
        return self.folder / "face_mask.png"


def load_results(folder: str | os.PathLike[str], model: FittedModel | None = None) -> list[Result]:
    """Read what `flamejax reconstruct --output OUT` wrote. Neither photos nor files of models are needed.

    Args:
        folder: OUT, or OUT/PHOTO for a single face.
        model: what was fitted, `fitting.prepare(head, local)`. Results are then checked against it. It is needed for
            results of early versions alone, which do not say how the coefficients of local models are to be read.

    Returns:
        One result per face, sorted by name; an empty list where no photo gave a head.

    Raises:
        ResultError: the folder is not one of reconstruct, or a result in it is damaged, of another model or of an
            early version with local models, without `model`.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (keeps links, which `resolve` follows)
    if (folder / "metrics.json").is_file():
        return [read_result(folder, model)]
    faces = [face for face in _face_folders(folder) if "format_version" in read_record(face / "metrics.json")]
    if not faces and not (folder / "run.json").is_file():
        raise ResultError(f"{folder}: no results of flamejax reconstruct in it. Give its --output, or OUTPUT/PHOTO.")
    return [read_result(face, model) for face in faces]


def read_result(folder: Path, model: FittedModel | None = None, head: HeadIdentity | None = None) -> Result:
    """Read one face's folder, OUT/PHOTO.

    Args:
        model: as in `load_results`.
        head: which head the caller has; a result of another one is refused.

    Raises:
        ResultError: it is no result, or of another head or other local models, or a file is missing or damaged.
    """
    metrics = read_metrics(folder)
    made = metrics["head"]
    if head is not None and made.get("sha256") != head.sha256:
        raise ResultError(
            f"{folder}: made with the head {made.get('name')!r} version {made.get('version')} (file "
            f"{str(made.get('sha256'))[:8]}), not with {head.name!r} version {head.version} ({head.sha256[:8]}). "
            "Give that head as --head FILE."
        )
    fit = _fit(folder, metrics, model)
    return Result(folder, metrics, fit, _hypotheses(folder, metrics, fit, model))


def read_metrics(folder: Path) -> dict[str, Any]:
    """A face's metrics.json. Raises: ResultError, as `read_result`."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise ResultError(f"{folder}: no result of flamejax reconstruct (it has no metrics.json). Name one, OUT/PHOTO.")
    metrics = read_record(path)
    if metrics.get("format_version") != FORMAT_VERSION:
        found = metrics.get("format_version")
        raise ResultError(f"{path}: format {found}, but this flamejax reads {FORMAT_VERSION}. {_again(folder)}")
    needed = {"name": str, "photo": str, "photo_path": str, "photo_sha256": str, "face": int, "num_faces": int,
              "head": dict, "settings": dict}  # fmt: skip
    if not all(isinstance(metrics.get(name), kind) for name, kind in needed.items()):
        raise ResultError(f"{path}: entries are missing. {_again(folder)}")
    return metrics


def result_records(folder: Path) -> dict[str, dict[str, Any]]:
    """name -> metrics of each face of an output folder, sorted. Whatever else lies there is left out."""
    found = {}
    for face in _face_folders(folder):
        try:
            # The folder's name, whatever the file says: it is joined to paths.
            found[face.name] = read_metrics(face) | {"name": face.name}
        except ResultError:
            continue
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object of a face's folder. Raises: ResultError, it is missing or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such file. {_again(path)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path}: cannot be read ({error}). {_again(path)}") from error
    if not isinstance(record, dict):
        raise ResultError(f"{path}: not a record of flamejax. {_again(path)}")
    return record


def damaged(path: Path, reason: object) -> ResultError:
    """The error that a file of a face is damaged, with what to do about it."""
    return ResultError(f"{path}: damaged ({reason}). {_again(path)}")


def _face_folders(folder: Path) -> list[Path]:
    found = sorted(path.parent for path in folder.glob("*/metrics.json"))
    return [face for face in found if not face.name.startswith(TEMPORARY_PREFIX)]


def _fit(folder: Path, metrics: dict[str, Any], model: FittedModel | None) -> Fit:
    path = folder / "params.npz"
    found = _npz(path)
    count, colours = (None, None) if model is None else (model.head.num_vertices, model.head.albedo_basis.shape[0])
    try:
        losses = {**metrics.get("losses", {}), "nme": metrics.get("landmark_nme")}
        losses = {name: jnp.asarray(np.nan if v is None else float(v), jnp.float32) for name, v in losses.items()}
    except (TypeError, ValueError) as error:
        raise damaged(folder / "metrics.json", error) from error
    points = _array(found, "vertices", (count, 3), path)
    fit = Fit(
        params=_params(found, path, model),
        vertices=points,
        landmarks=_array(found, "landmarks_3d", (68, 3), path),
        camera=_camera(folder / "camera.json"),
        texture=_array(found, "texture", (colours,), path),
        light=_array(found, "light", (9, 3), path),
        vertex_visibility=_array(found, "vertex_visibility", (len(points),), path).astype(bool),
        losses=losses,
        code=jnp.asarray(OK, jnp.int32),
    )
    if model is None:
        return fit
    away = np.linalg.norm(np.asarray(vertices_of(model.head, fit.params) - points), axis=-1).max()
    if not away < SAME_METRES:
        raise ResultError(
            f"{path}: its vertices are up to {1e3 * away:.2g} mm from those of its coefficients: it was fitted with "
            f"other local models. Give them as --local FILE. Otherwise the file is damaged. {_again(folder)}"
        )
    return fit


def _params(found: dict[str, np.ndarray], path: Path, model: FittedModel | None) -> HeadParams:
    """Parameters of the fitted head."""
    params = _head_params(found, path, model)
    if model is not None and ("local" in found) != model.has_local:
        made = "with local models" if "local" in found else "without local models"
        raise ResultError(f"{path}: fitted {made}, other than the model at hand. Give the --local it was made with.")
    if "local" not in found:
        return params
    betas, expression = len(params.betas), len(params.expression)
    if all(name in found for name in FOLDED):
        counts = tuple(int(_array(found, name, (), path)) for name in FOLDED)
    elif model is not None:
        counts = model.global_betas, model.global_expression, model.head.num_betas - model.global_betas
    else:
        raise ResultError(
            f"{path}: of an early version, which does not say how the coefficients of its local models are to be read. "
            f"Give what was fitted as model=fitting.prepare(head, local). Or make it anew: {_again(path)}"
        )
    width = None if model is None else model.head.num_betas + model.head.num_expression - sum(counts[:2])
    local = _array(found, "local", (width,), path)
    if not (0 <= counts[0] <= betas and 0 <= counts[1] <= expression and 0 <= counts[2] <= len(local)):
        raise damaged(path, f"impossible counts of coefficients, {counts}")
    shape, moved = jnp.split(local, [counts[2]])
    return dataclasses.replace(
        params,
        betas=jnp.concatenate([params.betas[: counts[0]], shape]),
        expression=jnp.concatenate([params.expression[: counts[1]], moved]),
    )


def _head_params(found: dict[str, np.ndarray], path: Path, model: FittedModel | None) -> HeadParams:
    """Parameters of the head without local models."""
    sizes: dict[str, int | None] = {"betas": None, "expression": None}
    if model is not None:
        sizes = {"betas": model.num_betas, "expression": model.num_expression}
    fields = [field.name for field in dataclasses.fields(HeadParams)]
    return HeadParams(**{name: _array(found, name, (sizes.get(name, 3),), path) for name in fields})


def _hypotheses(folder: Path, metrics: dict[str, Any], fit: Fit, model: FittedModel | None) -> Hypotheses | None:
    count = metrics.get("hypotheses", 0)
    if not count:
        return None
    if not isinstance(count, int) or not 0 < count <= MOST_HYPOTHESES:
        raise damaged(folder / "metrics.json", f"{count!r} hypotheses")
    each = []
    for place in range(count):
        path = folder / HYPOTHESES / f"{place:02d}" / "params.npz"
        found = _npz(path)
        if str(found.get("head_sha256")) != metrics["head"].get("sha256"):
            raise ResultError(f"{path}: made with another head than the fit beside it. {_again(folder)}")
        points, score = _array(found, "vertices", fit.vertices.shape, path), _array(found, "score", (), path)
        latents = _array(found, "latents", found["latents"].shape, path) if "latents" in found else None
        params = _head_params(found, path, model) if "size" in found else None
        size = None if params is None else _array(found, "size", (), path)
        each.append(Hypotheses(points, params, latents, score, size))
        if place and jax.tree.map(jnp.shape, each[-1]) != jax.tree.map(jnp.shape, each[0]):
            raise damaged(path, "its arrays are not those of hypothesis 00")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def _camera(path: Path) -> OrthographicCamera:
    record = read_record(path)
    try:
        scale, translation = float(record["crop"]["scale"]), np.array(record["crop"]["translation"], np.float32)
        return OrthographicCamera(jnp.asarray(scale, jnp.float32), jnp.asarray(translation.reshape(2)))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, repr(error)) from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except HeadFileError as error:
        # The file's own message speaks of fetching it again, which cannot be.
        reason = "no such file" if not path.is_file() else "damaged"
        raise ResultError(f"{path}: {reason}. {_again(path)}") from error


def _array(found: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], path: Path) -> jax.Array:
    """An array of finite numbers, float32, of a shape; None stands for any length."""
    array = found.get(name)
    numbers = array is not None and array.dtype.kind in "fiub" and array.ndim == len(shape)
    if array is None or not numbers or any(m not in (n, None) for n, m in zip(array.shape, shape, strict=True)):
        what = "missing" if array is None else f"{array.dtype} {array.shape}"
        wanted = f"({', '.join('N' if m is None else str(m) for m in shape)}{',' * (len(shape) == 1)})"
        raise ResultError(f"{path}: {name!r} is {what}, not numbers of shape {wanted}. {_again(path)}")
    if not np.isfinite(array).all():
        raise ResultError(f"{path}: {name!r} holds numbers that are not finite. {_again(path)}")
    return jnp.asarray(array, jnp.float32)


def _again(path: Path) -> str:
    """What to do about a file of a face, or about its folder."""
    folder = path if path.is_dir() else path.parent
    if folder.parent.name == HYPOTHESES and (folder.parents[1] / "metrics.json").is_file():
        folder = folder.parents[1]
    return f"Delete the folder {folder} and give its photo to `flamejax reconstruct --resume` again."
