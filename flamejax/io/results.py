"""Reading of the output of `flamejax reconstruct`: `load_results(folder)`. Only the folder is needed."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flamejax.camera import OrthographicCamera
from flamejax.files import is_file
from flamejax.head.blend_skin import vertices
from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.npy_files import read_npz
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.io.records import FORMAT_VERSION as FORMAT_VERSION
from flamejax.io.records import (
    HYPOTHESES,
    MAX_HYPOTHESES,
    ResultError,
    damaged_file_error,
    read_all_metrics,
    read_metrics,
    read_record,
    remedy,
)
from flamejax.io.records import RESULT_FILES as RESULT_FILES
from flamejax.types import OK, Fit, Hypotheses

LOCAL_COUNTS = ("global_betas", "global_expression", "local_shape")
"""Counts in params.npz for merging `local` into `betas` and `expression`: how many leading coefficients of each to use,
and how many of `local` are identity (the rest are expression)."""
MAX_ARRAYS_BYTES = 2**28
"""Size of a params.npz."""
VERTEX_TOLERANCE = 1e-4
"""Metres: if saved vertices deviate more from those of the saved coefficients, the result is of another model."""

vertices_of = jax.jit(vertices)


class FittedModel(Protocol):
    """The fitted model, as from `fitting.prepare`: a head whose leading coefficients are global, the others local."""

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
    """Digest of its file."""


@dataclass(frozen=True)
class Result:
    """One face of an output folder."""

    folder: Path
    metrics: dict[str, Any]
    """Content of metrics.json."""
    fit: Fit
    """Without batch axes. Its parameters are those of the fitted head: `fitting.prepare(head, local).head` with local
    models."""
    hypotheses: Hypotheses | None
    """Best first; None if there are none."""

    @property
    def name(self) -> str:
        """Name of the folder: the photo's name, with `_face1` and so on for further faces."""
        return self.folder.name

    @property
    def mesh(self) -> Path:
        """File of the textured head; mesh.obj is next to it."""
        return self.folder / "mesh.glb"

    @property
    def hypothesis_meshes(self) -> list[Path]:
        """Files of the textured hypotheses, best first; empty if there are none."""
        count = 0 if self.hypotheses is None else len(self.hypotheses.vertices)
        return [self.folder / HYPOTHESES / f"{index:02d}" / "mesh.glb" for index in range(count)]

    @property
    def full_camera(self) -> OrthographicCamera:
        """Camera of the full photo, read from camera.json: `project` gives pixels of the photo (x right, y down).
        `fit.camera` is that of the crop. Raises: ResultError."""
        return _read_camera(self.folder / "camera.json", "full_image")

    @property
    def overlay(self) -> Path:
        """File with the head rendered over the photo."""
        return self.folder / "overlay.png"

    @property
    def occlusion_mask(self) -> Path:
        """File with white where the face is hidden, in the overlay's size."""
        return self.folder / "occlusion_mask.png"

    @property
    def face_mask(self) -> Path:
        """File with white where the face is, in the overlay's size. Early versions wrote none."""
        return self.folder / "face_mask.png"


def load_results(folder: str | os.PathLike[str], model: FittedModel | None = None) -> list[Result]:
    """Read the output of `flamejax reconstruct --output OUT`. Neither photos nor model files are needed.

    Args:
        folder: OUT, or OUT/PHOTO for a single face.
        model: the fitted model, `fitting.prepare(head, local)`, to check the results against. Only results of early
            versions need it: they do not store how to merge the coefficients of local models.

    Returns:
        One result per face, sorted by name; an empty list if no face was reconstructed.

    Raises:
        ResultError: the folder is no output of reconstruct; or a result in it is damaged, of another model, or of an
            early version with local models while `model` is missing.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (`resolve` would follow links)
    if is_file(folder / "metrics.json"):
        return [read_result(folder, model)]
    metrics, errors = read_all_metrics(folder)
    for error in errors.values():
        raise error
    if not metrics and not (folder / "run.json").is_file():
        raise ResultError(f"{folder}: no results of flamejax reconstruct in it. Give its --output, or OUTPUT/PHOTO.")
    return [read_result(folder / name, model) for name in metrics]


def read_result(folder: Path, model: FittedModel | None = None, head: HeadIdentity | None = None) -> Result:
    """Read one face's folder, OUT/PHOTO.

    Args:
        model: as in `load_results`.
        head: the caller's head; a result of another head is refused.

    Raises:
        ResultError: it is no result, it is of another head or other local models, or a file is missing or damaged.
    """
    metrics = read_metrics(folder)
    saved = metrics["head"]
    if head is not None and saved.get("sha256") != head.sha256:
        raise ResultError(
            f"{folder}: made with the head {saved.get('name')!r} version {saved.get('version')} (file "
            f"{str(saved.get('sha256'))[:8]}), not with {head.name!r} version {head.version} ({head.sha256[:8]}). "
            "Give that head as --head FILE."
        )
    fit = _read_fit(folder, metrics, model)
    return Result(folder, metrics, fit, _read_hypotheses(folder, metrics, fit, model))


def _read_fit(folder: Path, metrics: dict[str, Any], model: FittedModel | None) -> Fit:
    path = folder / "params.npz"
    arrays = _read_arrays(path)
    count, colours = (None, None) if model is None else (model.head.num_vertices, model.head.albedo_basis.shape[0])
    try:
        losses = {**metrics.get("losses", {}), "nme": metrics.get("landmark_nme")}
        losses = {name: jnp.asarray(np.nan if v is None else float(v), jnp.float32) for name, v in losses.items()}
    except (TypeError, ValueError) as error:
        raise damaged_file_error(folder / "metrics.json", error) from error
    points = _checked_array(arrays, "vertices", (count, 3), path)
    fit = Fit(
        params=_read_params(arrays, path, model),
        vertices=points,
        landmarks=_checked_array(arrays, "landmarks_3d", (68, 3), path),
        camera=_read_camera(folder / "camera.json"),
        texture=_checked_array(arrays, "texture", (colours,), path),
        light=_checked_array(arrays, "light", (9, 3), path),
        vertex_visibility=_checked_array(arrays, "vertex_visibility", (len(points),), path).astype(bool),
        losses=losses,
        code=jnp.asarray(OK, jnp.int32),
    )
    if model is None:
        return fit
    deviation = np.linalg.norm(np.asarray(vertices_of(model.head, fit.params) - points), axis=-1).max()
    if not deviation < VERTEX_TOLERANCE:
        raise ResultError(
            f"{path}: its vertices are up to {1e3 * deviation:.2g} mm from those of its coefficients: it was fitted "
            f"with other local models. Give them as --local FILE. Otherwise the file is damaged. {remedy(folder)}"
        )
    return fit


def _read_params(arrays: dict[str, np.ndarray], path: Path, model: FittedModel | None) -> HeadParams:
    """Read the parameters of the fitted head."""
    params = _read_global_params(arrays, path, model)
    if model is not None and ("local" in arrays) != model.has_local:
        how = "with local models" if "local" in arrays else "without local models"
        raise ResultError(f"{path}: fitted {how}, unlike the given model. Give the --local it was made with.")
    if "local" not in arrays:
        return params
    betas, expression = len(params.betas), len(params.expression)
    if all(name in arrays for name in LOCAL_COUNTS):
        counts = tuple(int(_checked_array(arrays, name, (), path)) for name in LOCAL_COUNTS)
    elif model is not None:
        counts = model.global_betas, model.global_expression, model.head.num_betas - model.global_betas
    else:
        raise ResultError(
            f"{path}: of an early version, which does not store how to merge the coefficients of local models. "
            f"Give the fitted model as model=fitting.prepare(head, local). Or make it again: {remedy(path)}"
        )
    width = None if model is None else model.head.num_betas + model.head.num_expression - sum(counts[:2])
    local = _checked_array(arrays, "local", (width,), path)
    if not (0 <= counts[0] <= betas and 0 <= counts[1] <= expression and 0 <= counts[2] <= len(local)):
        raise damaged_file_error(path, f"impossible counts of coefficients, {counts}")
    shape, expression_part = jnp.split(local, [counts[2]])
    return dataclasses.replace(
        params,
        betas=jnp.concatenate([params.betas[: counts[0]], shape]),
        expression=jnp.concatenate([params.expression[: counts[1]], expression_part]),
    )


def _read_global_params(arrays: dict[str, np.ndarray], path: Path, model: FittedModel | None) -> HeadParams:
    """Read the parameters of the head without local models."""
    sizes: dict[str, int | None] = {"betas": None, "expression": None}
    if model is not None:
        sizes = {"betas": model.num_betas, "expression": model.num_expression}
    fields = [field.name for field in dataclasses.fields(HeadParams)]
    return HeadParams(**{name: _checked_array(arrays, name, (sizes.get(name, 3),), path) for name in fields})


def _read_hypotheses(folder: Path, metrics: dict[str, Any], fit: Fit, model: FittedModel | None) -> Hypotheses | None:
    count = metrics.get("hypotheses", 0)
    if not count:
        return None
    if not isinstance(count, int) or not 0 < count <= MAX_HYPOTHESES:
        raise damaged_file_error(folder / "metrics.json", f"{count!r} hypotheses")
    hypotheses: list[Hypotheses] = []
    for index in range(count):
        path = folder / HYPOTHESES / f"{index:02d}" / "params.npz"
        arrays = _read_arrays(path)
        if str(arrays.get("head_sha256")) != metrics["head"].get("sha256"):
            raise ResultError(f"{path}: made with another head than the fit beside it. {remedy(folder)}")
        points = _checked_array(arrays, "vertices", fit.vertices.shape, path)
        score = _checked_array(arrays, "score", (), path)
        latents = _checked_array(arrays, "latents", arrays["latents"].shape, path) if "latents" in arrays else None
        params = _read_global_params(arrays, path, model) if "size" in arrays else None
        size = None if params is None else _checked_array(arrays, "size", (), path)
        hypotheses.append(Hypotheses(points, params, latents, score, size))
        if index and jax.tree.map(jnp.shape, hypotheses[-1]) != jax.tree.map(jnp.shape, hypotheses[0]):
            raise damaged_file_error(path, "its arrays are not those of hypothesis 00")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *hypotheses)


def _read_camera(path: Path, image: str = "crop") -> OrthographicCamera:
    record = read_record(path)
    try:
        scale, translation = float(record[image]["scale"]), np.array(record[image]["translation"], np.float32)
        camera = OrthographicCamera(jnp.asarray(scale, jnp.float32), jnp.asarray(translation.reshape(2)))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_file_error(path, repr(error)) from error
    if not (np.isfinite(camera.scale) and np.isfinite(camera.translation).all()):
        raise damaged_file_error(path, "a camera that is not finite")
    return camera


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if is_file(path) and path.stat().st_size > MAX_ARRAYS_BYTES:
            raise damaged_file_error(path, f"larger than {MAX_ARRAYS_BYTES // 2**20} MB")
        return read_npz(path)
    except (HeadFileError, OSError) as error:
        # `HeadFileError` advises to fetch the file again, which does not apply to results.
        reason = "no such file" if not is_file(path) else "damaged"
        raise ResultError(f"{path}: {reason}. {remedy(path)}") from error


def _checked_array(arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], path: Path) -> jax.Array:
    """Returns a checked array as float32: finite numbers of the given shape, where None stands for any length."""
    array = arrays.get(name)
    is_numeric = array is not None and array.dtype.kind in "fiub" and array.ndim == len(shape)
    if array is None or not is_numeric or any(m not in (n, None) for n, m in zip(array.shape, shape, strict=True)):
        actual = "missing" if array is None else f"{array.dtype} {array.shape}"
        expected = f"({', '.join('N' if m is None else str(m) for m in shape)}{',' * (len(shape) == 1)})"
        raise ResultError(f"{path}: {name!r} is {actual}, not numbers of shape {expected}. {remedy(path)}")
    if not np.isfinite(array).all():
        raise ResultError(f"{path}: {name!r} contains numbers that are not finite. {remedy(path)}")
    return jnp.asarray(array, jnp.float32)
