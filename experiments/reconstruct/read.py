"""A face's folder read back: what was fitted, the hypotheses, and what of the photo the fit saw."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flamejax
from experiments.reconstruct.config import digest_of
from experiments.reconstruct.hypotheses import HYPOTHESES
from experiments.reconstruct.observing import photo_digest
from experiments.reconstruct.results import FORMAT_VERSION, HeadIdentity
from fitting._observe import DENSE, crop_image, observation_in
from fitting.fit_model import FitModel, prepare
from fitting.inputs import InputError, load_landmarks
from fitting.local_files import load_local_model, local_model_path, shipped_local_model
from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.head import HeadFileError, HeadModel, HeadParams
from flamejax.head.formats import read_npz
from flamejax.io.images import ImageError, load_image, load_mask
from flamejax.types import OK, Fit, Hypotheses, Observation

SAME_METRES = 1e-4
"""Saved vertices further than this from those of the saved coefficients are another model's."""

vertices_of = jax.jit(flamejax.vertices)


class ResultError(ValueError):
    """A folder that cannot be read as a result; the message names the file and says what to do."""


@dataclass(frozen=True)
class SavedFace:
    """One face of an output folder."""

    folder: Path
    metrics: dict[str, Any]
    """metrics.json."""
    fit: Fit
    hypotheses: Hypotheses | None
    """Best first; None where the result has none."""
    observation: Observation | None
    """What the fit saw, but for rounded numbers; None where the photo is not to be had."""
    missing: str = ""
    """Why there is no observation."""


def read_face(folder: Path, head: HeadIdentity, model: FitModel) -> SavedFace:
    """Read what `flamejax reconstruct` wrote for one face.

    Args:
        folder: of the face, OUT/NAME.
        head: which head the caller has.
        model: what was fitted: that head with its local models, as `fitted_with` gives it.

    Returns:
        Arrays without batch axes. Masks are again those of the fit where the photo is at most 2048 pixels long, and
        to within a pixel of the smaller copy else.

    Raises:
        ResultError: it is no result, it was made with another head or other local models, or a file is missing or
            damaged. A photo that is gone or was changed is no error: then there is no observation.
    """
    metrics = read_metrics(folder)
    _check_head(folder, metrics, head)
    camera = _json(folder / "camera.json")
    fit = _fit(folder, metrics, camera, model)
    observation, missing = None, ""
    try:
        observation = _observation(folder, metrics, camera)
    except (ImageError, FileNotFoundError) as error:
        missing = str(error)
    return SavedFace(folder, metrics, fit, _hypotheses(folder, metrics, head, model), observation, missing)


def read_metrics(folder: Path) -> dict[str, Any]:
    """A face's metrics.json. Raises: ResultError, as `read_face`."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise ResultError(f"{folder}: no result of flamejax reconstruct (it has no metrics.json). Name one, OUT/PHOTO.")
    metrics = _json(path)
    if metrics.get("format_version") != FORMAT_VERSION:
        found = metrics.get("format_version")
        raise ResultError(f"{path}: format {found}, but this flamejax reads {FORMAT_VERSION}. {_again(folder)}")
    if not {"photo_path", "photo_sha256", "face", "head", "settings"} <= metrics.keys():
        raise ResultError(f"{path}: entries are missing. {_again(folder)}")
    return metrics


def fitted_with(metrics: dict[str, Any], head: HeadModel, local: str = "auto") -> FitModel:
    """The head and local models of a result.

    Args:
        metrics: of the result.
        head: the plain head it was fitted with.
        local: a file of local models, 'none', or 'auto' for what the result says.

    Raises:
        ResultError: the local models are not to be had, or others than those of the result.
    """
    name, _, digest = str(metrics["settings"].get("local") or "none").rpartition(" ")
    chosen = local if local != "auto" else name or "none"
    path = local_model_path() if chosen == "auto" else Path(chosen)
    try:
        if chosen in ("none", "auto"):  # 'auto' is none for a head that nothing ships for
            found = shipped_local_model(head) if chosen == "auto" else None
        else:
            found = load_local_model(head, path)
    except (HeadFileError, OSError) as error:
        raise ResultError(f"local models of the result: {error} If the file was moved, give --local FILE.") from error
    if found is not None and digest and digest_of(path) != digest:
        raise ResultError(
            f"{path}: not the local models that the result was fitted with ({digest_of(path)}, not {digest}). "
            "Give those as --local FILE, or reconstruct the photo again."
        )
    return prepare(head, found)


def _check_head(folder: Path, metrics: dict[str, Any], head: HeadIdentity) -> None:
    made = metrics["head"]
    if made.get("sha256") != head.sha256:
        raise ResultError(
            f"{folder}: made with the head {made.get('name')!r} version {made.get('version')} (file "
            f"{str(made.get('sha256'))[:8]}), not with {head.name!r} version {head.version} ({head.sha256[:8]}). "
            "Give that head as --head FILE."
        )


def _fit(folder: Path, metrics: dict[str, Any], camera: dict[str, Any], model: FitModel) -> Fit:
    path = folder / "params.npz"
    found, head = _npz(path), model.head
    params = _head_params(found, model, path)
    width = head.num_betas + head.num_expression - model.global_betas - model.global_expression
    if ("local" in found) != model.has_local:
        made = "with local models" if "local" in found else "without local models"
        raise ResultError(f"{path}: fitted {made}, other than the model at hand. Give the --local it was made with.")
    local = _array(found, "local", (width,), path) if model.has_local else None
    losses = {**metrics.get("losses", {}), "nme": metrics.get("landmark_nme")}
    fit = Fit(
        params=model.with_local_coefficients(params, local),
        vertices=_array(found, "vertices", (head.num_vertices, 3), path),
        landmarks=_array(found, "landmarks_3d", (68, 3), path),
        camera=_camera(folder / "camera.json", camera),
        texture=_array(found, "texture", (head.albedo_basis.shape[0],), path),
        light=_array(found, "light", (9, 3), path),
        vertex_visibility=_array(found, "vertex_visibility", (head.num_vertices,), path).astype(bool),
        losses={name: jnp.asarray(np.nan if v is None else v, jnp.float32) for name, v in losses.items()},
        code=jnp.asarray(OK, jnp.int32),
    )
    away = np.linalg.norm(np.asarray(vertices_of(head, fit.params) - fit.vertices), axis=-1).max()
    if not away < SAME_METRES:
        raise ResultError(
            f"{path}: its vertices are up to {1e3 * away:.2g} mm from those of its coefficients: it was fitted with "
            f"other local models. Give them as --local FILE. Otherwise the file is damaged. {_again(folder)}"
        )
    return fit


def _head_params(found: dict[str, Any], model: FitModel, path: Path) -> HeadParams:
    """Parameters of the head without local models."""
    sizes = {"betas": model.num_betas, "expression": model.num_expression}
    fields = [field.name for field in dataclasses.fields(HeadParams)]
    return HeadParams(**{name: _array(found, name, (sizes.get(name, 3),), path) for name in fields})


def _hypotheses(folder: Path, metrics: dict[str, Any], head: HeadIdentity, model: FitModel) -> Hypotheses | None:
    count = metrics.get("hypotheses", 0)
    if not count:
        return None
    vertices, scores, latents, params, sizes = [], [], [], [], []
    for place in range(count):
        path = folder / HYPOTHESES / f"{place:02d}" / "params.npz"
        found = _npz(path)
        if str(found.get("head_sha256")) != head.sha256:
            raise ResultError(f"{path}: made with another head than the fit beside it. {_again(folder)}")
        vertices.append(_array(found, "vertices", (model.head.num_vertices, 3), path))
        scores.append(_array(found, "score", (), path))
        if "latents" in found:
            latents.append(_array(found, "latents", found["latents"].shape, path))
        if "size" in found:
            params.append(_head_params(found, model, path))
            sizes.append(_array(found, "size", (), path))
    whole = len({each.shape for each in latents}) == 1 and len(latents) == count
    parametric = len(params) == count
    return Hypotheses(
        jnp.stack(vertices),
        jax.tree.map(lambda *each: jnp.stack(each), *params) if parametric else None,
        jnp.stack(latents) if whole else None,
        jnp.stack(scores),
        jnp.stack(sizes) if parametric else None,
    )


def _observation(folder: Path, metrics: dict[str, Any], camera: dict[str, Any]) -> Observation:
    """Raises: ImageError, FileNotFoundError, the photo is not to be had; ResultError, as `read_face`."""
    image = load_image(find_photo(metrics))
    crop, size = _crop(folder / "camera.json", camera)
    points, confidence, dense = _landmarks(folder)
    hidden = _mask_in_crop(folder / "occlusion_mask.png", image, crop, size)
    if metrics["settings"].get("masks") == "auto":  # such masks are 0 or 1 in the crop; a given one is resampled to it
        hidden = (hidden >= 0.5).astype(np.float32)
    face = None
    if (folder / "face_mask.png").is_file():  # results of before have none
        face = (_mask_in_crop(folder / "face_mask.png", image, crop, size) >= 0.5).astype(np.float32)
    return observation_in(crop, image, size, (points, confidence), dense, hidden, face)


def find_photo(metrics: dict[str, Any]) -> Path:
    """Where a result's photo lies. Raises: FileNotFoundError, it is gone or another file now."""
    paths = [Path(metrics["photo_path"]), Path(metrics.get("photo", ""))]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise FileNotFoundError(f"the photo {paths[0]} is not there any more; put it back.")
    for path in there:
        if photo_digest(path) == metrics["photo_sha256"]:
            return path
    raise FileNotFoundError(f"the photo {there[0]} was changed since; reconstruct it again.")


def _landmarks(folder: Path) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Photo pixels (68, 2) and confidence (68,), and the same of the dense landmarks, where there are some."""
    path = folder / "landmarks.json"
    record = _json(path)
    try:
        rows = load_landmarks(path)
        points, confidence = rows[:, :2], np.nan_to_num(rows[:, 2])
        if "dense_points" not in record:
            return points, confidence, None
        dense = np.array([[np.nan] * 2 if row is None else row for row in record["dense_points"]], np.float64)
        sure = np.array(record["dense_confidence"], np.float64)
    except (InputError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{path}: damaged ({error}). {_again(folder)}") from error
    if dense.shape != (DENSE, 2) or sure.shape != (DENSE,) or not np.isfinite(sure).all():
        raise ResultError(f"{path}: damaged (its dense landmarks are not {DENSE}). {_again(folder)}")
    return points, confidence, (dense, sure)


def _mask_in_crop(path: Path, image: np.ndarray, crop: CropTransform, size: int) -> np.ndarray:
    """A mask of the whole photo, in the photo's size or smaller, resampled to the crop: (S, S)."""
    try:
        mask = load_mask(path)
    except ImageError as error:
        raise ResultError(f"{error} {_again(path)}") from error
    scale = mask.shape[1] / image.shape[1]
    return crop_image(mask, CropTransform(crop.scale / scale, crop.offset), size)


def _camera(path: Path, record: dict[str, Any]) -> OrthographicCamera:
    try:
        scale, translation = float(record["crop"]["scale"]), np.array(record["crop"]["translation"], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{path}: damaged ({error!r}). {_again(path)}") from error
    return OrthographicCamera(jnp.asarray(scale, jnp.float32), jnp.asarray(translation.reshape(2)))


def _crop(path: Path, record: dict[str, Any]) -> tuple[CropTransform, int]:
    try:
        transform, size = record["crop_transform"], int(record["crop"]["size"][0])
        scale, offset = float(transform["scale"]), np.array(transform["offset"], np.float32).reshape(2)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ResultError(f"{path}: damaged ({error!r}). {_again(path)}") from error
    if not (scale > 0 and 0 < size <= 4096 and np.isfinite(offset).all()):
        raise ResultError(f"{path}: damaged (an impossible crop). {_again(path)}")
    return CropTransform(jnp.asarray(scale, jnp.float32), jnp.asarray(offset)), size


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except HeadFileError as error:
        # The file's own message speaks of fetching it again, which cannot be.
        reason = "no such file" if not path.is_file() else "damaged"
        raise ResultError(f"{path}: {reason}. {_again(path)}") from error


def _array(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path) -> jax.Array:
    """An array of finite numbers of a shape, float32."""
    array = found.get(name)
    if array is None or array.shape != shape or array.dtype.kind not in "fiub":
        what = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise ResultError(f"{path}: {name!r} is {what}, not numbers of shape {shape}. {_again(path)}")
    if not np.isfinite(array).all():
        raise ResultError(f"{path}: {name!r} holds numbers that are not finite. {_again(path)}")
    return jnp.asarray(array, jnp.float32)


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such file. {_again(path)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path}: cannot be read ({error}). {_again(path)}") from error
    if not isinstance(record, dict):
        raise ResultError(f"{path}: not a record of flamejax. {_again(path)}")
    return record


def _again(path: Path) -> str:
    """What to do about a file of a face, or about its folder."""
    folder = path if path.is_dir() else path.parent
    if folder.parent.name == HYPOTHESES and (folder.parents[1] / "metrics.json").is_file():
        folder = folder.parents[1]
    return f"Delete the folder {folder} and give its photo to `flamejax reconstruct --resume` again."
