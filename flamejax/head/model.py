"""The head model: a plain frozen pytree (FLAME, Li et al. 2017; Diverse3DFace Eqs. 1-2)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jax.typing import ArrayLike

from flamejax._checks import check_shape
from flamejax.head.formats import write_head
from flamejax.head.regions import REGION_NAMES, guess_regions

SLIDING_SPREAD = 0.05
"""Outer-eye distances: points with a larger spread slide on the surface when the head turns, as contour points do."""
PARENTS = (-1, 0, 1, 1, 1)
JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")

_SAVED = (
    *("v_template", "faces", "shapedirs", "posedirs", "J_regressor", "lbs_weights", "parents", "num_betas"),
    *("uv", "uv_faces", "albedo_mean", "albedo_basis", "name", "version", "licence"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkEmbedding:
    """Positions of the 68 iBUG landmarks on the mesh: triangles and barycentric coordinates."""

    face: Array
    """(51,) int32: triangles of the inner landmarks 17..67."""
    barycentric: Array
    """(51, 3)"""
    contour_face: Array
    """(79, 17) int32: triangles of the jaw contour 0..16, one row per yaw bin in FLAME's order (see `contour_bin`)."""
    contour_barycentric: Array
    """(79, 17, 3)"""

    @classmethod
    def from_arrays(
        cls, face: ArrayLike, barycentric: ArrayLike, contour_face: ArrayLike, contour_barycentric: ArrayLike
    ) -> Self:
        """Build the embedding from NumPy or JAX arrays with the fields' shapes; empty arrays mean no landmarks.

        Raises:
          ValueError: an array has another shape. The message names it.
        """
        inner, rows = (51, 79) if np.size(face) else (0, 0)
        return cls(
            jnp.asarray(_checked("face", face, np.zeros(0, np.int32), inner)),
            jnp.asarray(_checked("barycentric", barycentric, np.zeros(0, np.float32), inner, 3)),
            jnp.asarray(_checked("contour_face", contour_face, np.zeros(0, np.int32), rows, 17)),
            jnp.asarray(_checked("contour_barycentric", contour_barycentric, np.zeros(0, np.float32), rows, 17, 3)),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays under the names of flamejax's format."""
        names = ("landmark_face", "landmark_barycentric", "contour_face", "contour_barycentric")
        return {name: np.asarray(value) for name, value in zip(names, vars(self).values(), strict=True)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseLandmarks:
    """Positions of a detector's points on a head: triangles, barycentric coordinates and spreads.

    A spread is the robust standard deviation, per image axis and in outer-eye distances, of detector minus model on
    renders of known heads: the residual that a fit should expect even with correct identity, expression and pose.
    """

    dense_face: Array
    """(468,) int32 triangles of MediaPipe's points."""
    dense_barycentric: Array
    """(468, 3)"""
    dense_spread: Array
    """(468,) outer-eye distances."""
    landmark_face: Array
    """(51,) int32 triangles of the inner iBUG landmarks 17..67."""
    landmark_barycentric: Array
    """(51, 3)"""
    landmark_spread: Array
    """(51,) outer-eye distances."""

    @property
    def sliding(self) -> Array:
        """(468,) bool: contour points, which slide over the surface as the head turns."""
        return self.dense_spread > SLIDING_SPREAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadModel:
    """A head model in FLAME's form: linear shape and expression, pose correctives, linear blend skinning.

    V vertices, F triangles, S identity and E expression components, K joints. Metres; +y up, the face looks to +z,
    the subject's left is at +x. Coefficients are in standard deviations.
    """

    v_template: Array
    """(V, 3) mean shape, metres."""
    faces: Array
    """(F, 3) int32, counter-clockwise seen from outside."""
    basis: Array
    """(S + E + 9 (K - 1), 3, V) metres: identity, expression and pose correctives as one matrix, one plane per
    coordinate, in the layout that `vertices` multiplies. `shapedirs` and `posedirs` are its parts in smplx's layout."""
    J_regressor: Array
    """(K, V) joints from vertices."""
    lbs_weights: Array
    """(V, K) skinning weights; rows sum to 1."""
    joint_template: Array
    """(K, 3) = J_regressor @ v_template: with `joint_dirs`, joints need no full mesh."""
    joint_dirs: Array
    """(K, 3, S + E) = J_regressor @ shapedirs."""
    landmark_embedding: LandmarkEmbedding
    regions: dict[str, Array]
    """Name -> (V,) bool; the 14 names of FLAME's vertex masks. Regions overlap."""
    uv: Array
    """(Vt, 2) texture coordinates, v up: image row = (1 - v) Ht."""
    uv_faces: Array
    """(F, 3) int32 into `uv`, aligned with `faces`."""
    albedo_mean: Array
    """(Ht, Wt, 3) display-encoded colours in [0, 1]."""
    albedo_basis: Array
    """(C, Ht, Wt, 3) change of colour per standard deviation."""
    name: str = dataclasses.field(metadata={"static": True})
    version: str = dataclasses.field(metadata={"static": True})
    licence: str = dataclasses.field(metadata={"static": True})
    num_betas: int = dataclasses.field(metadata={"static": True})
    """S"""
    parents: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """(K,) parent joint of each joint; -1 for the root. A parent comes before its children."""
    dense: DenseLandmarks | None = None
    """A detector's 468 points on this head, if measured; see `flamejax.head._dense_landmarks`."""
    expression_range: Array | None = None
    """(2, E) lowest and highest plausible coefficient of each component, if the model's file has them: lips part in one
    direction only. Used for sampling; the model itself is linear without bounds."""

    @classmethod
    def from_arrays(
        cls,
        v_template: ArrayLike,
        faces: ArrayLike,
        shapedirs: ArrayLike | None = None,
        *,
        num_betas: int | None = None,
        posedirs: ArrayLike | None = None,
        J_regressor: ArrayLike | None = None,
        lbs_weights: ArrayLike | None = None,
        parents: tuple[int, ...] = PARENTS,
        landmark_embedding: LandmarkEmbedding | None = None,
        regions: Mapping[str, ArrayLike] | None = None,
        uv: ArrayLike | None = None,
        uv_faces: ArrayLike | None = None,
        albedo_mean: ArrayLike | None = None,
        albedo_basis: ArrayLike | None = None,
        expression_range: ArrayLike | None = None,
        name: str = "custom",
        version: str = "0",
        licence: str = "unknown",
    ) -> Self:
        """Build a head model from your own NumPy or JAX arrays (not traceable).

        Args:
          v_template: (V, 3) mean shape, metres.
          faces: (F, 3) integers, counter-clockwise seen from outside.
          shapedirs: (V, 3, S + E) metres per standard deviation, identity first; no components by default.
          num_betas: S; by default all of `shapedirs` are identity and there is no expression.
          posedirs: (36, 3 V) in smplx's layout (FLAME's files: (V, 3, 36)); no pose correctives by default.
          J_regressor: (5, V); by default all joints are at the mean of the template's vertices.
          lbs_weights: (V, 5), rows that sum to 1; by default all vertices are bound to the root: one rigid head.
          parents: parents of the five joints, FLAME's by default.
          landmark_embedding: without it the head has no landmarks, and functions that need them raise a ValueError.
          regions: name -> (V,) bool; those of FLAME's 14 that are missing are estimated. Without landmarks `face` is
            all vertices, and of the others only the eyeballs and the boundary are not empty.
          uv: (Vt, 2), v up, with uv_faces: (F, 3) integers into it. By default all are the texture's centre.
          albedo_mean: (Ht, Wt, 3) in [0, 1]; one grey texel by default.
          albedo_basis: (C, Ht, Wt, 3) per standard deviation; no components by default.
          expression_range: (2, E), see the class.

        Raises:
          ValueError: an array has a wrong shape, or a triangle's index is out of range. The message names it.
        """
        template = _checked("v_template", v_template, np.zeros((0, 3), np.float32), "V", 3)
        count = len(template)
        faces = _checked_triangles("faces", faces, "F", count)
        shape_basis = _checked("shapedirs", shapedirs, np.zeros((count, 3, 0), np.float32), count, 3, "S + E")
        num_betas = shape_basis.shape[-1] if num_betas is None else num_betas
        if not 0 <= num_betas <= shape_basis.shape[-1]:
            raise ValueError(f"num_betas is {num_betas}, but shapedirs has {shape_basis.shape[-1]} components.")
        if len(parents) != len(JOINT_NAMES):
            raise ValueError(f"parents should be of 5 joints ({', '.join(JOINT_NAMES)}), not {parents}.")
        correctives = _checked("posedirs", posedirs, np.zeros((36, 3 * count), np.float32), 36, 3 * count)
        regressor = _checked("J_regressor", J_regressor, np.full((5, count), 1 / count, np.float32), 5, count)
        rigid = np.eye(1, 5, dtype=np.float32).repeat(count, axis=0)
        weights = _checked("lbs_weights", lbs_weights, rigid, count, 5)
        uv_faces = np.zeros_like(faces) if uv_faces is None else uv_faces
        uv = _checked("uv", uv, np.full((1, 2), 0.5, np.float32), "Vt", 2)
        mean = _checked("albedo_mean", albedo_mean, np.full((1, 1, 3), 0.7, np.float32), "Ht", "Wt", 3)
        no_albedo = np.zeros((0, *mean.shape), np.float32)
        used = np.flatnonzero(regressor.any(axis=0))  # joints depend on few vertices
        no_landmarks = (np.zeros((0, *axes)) for axes in ((), (3,), (17,), (17, 3)))
        embedding = LandmarkEmbedding.from_arrays(
            *(no_landmarks if landmark_embedding is None else vars(landmark_embedding).values())
        )
        arrays = {
            "v_template": template,
            "faces": faces,
            "basis": _stack_basis(shape_basis, correctives),
            "J_regressor": regressor,
            "lbs_weights": weights,
            "joint_template": regressor @ template,
            "joint_dirs": np.tensordot(regressor[:, used], shape_basis[used], axes=1),
            "landmark_embedding": embedding,
            "regions": _complete_regions(template, faces, weights, embedding, regions or {}),
            "uv": uv,
            "uv_faces": _checked_triangles("uv_faces", uv_faces, len(faces), len(uv)),
            "albedo_mean": mean,
            "albedo_basis": _checked("albedo_basis", albedo_basis, no_albedo, "C", *mean.shape),
        }
        if expression_range is not None:
            width = shape_basis.shape[-1] - num_betas
            arrays["expression_range"] = _checked("expression_range", expression_range, no_albedo, 2, width)
        arrays = jax.device_put(arrays)  # all at once
        return cls(**arrays, name=name, version=version, licence=licence, num_betas=num_betas, parents=parents)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write flamejax's `.npz` atomically; `load_head(path)` reads exactly the same model.

        `dense` is not written: `load_head` attaches it to the heads on which it was measured.

        Raises:
          OSError: the folder is missing or the disk refuses.
        """
        names = sorted(self.regions)
        arrays = {
            **{name: getattr(self, name) for name in _SAVED},
            **self.landmark_embedding.to_arrays(),
            "region_names": names,
            "region_masks": np.stack([self.regions[name] for name in names]),
            "albedo_scale": np.full(len(self.albedo_basis), 127, np.float32),  # a float basis is stored unscaled
        }
        if self.expression_range is not None:
            arrays["expression_range"] = self.expression_range
        write_head(path, {name: np.asarray(value) for name, value in arrays.items()})

    @property
    def shapedirs(self) -> Array:
        """(V, 3, S + E) displacement in metres per standard deviation, identity first. A copy: see `basis`."""
        return self.basis[: self.joint_dirs.shape[-1]].transpose(2, 1, 0)

    @property
    def posedirs(self) -> Array:
        """(9 (K - 1), 3 V) displacement per entry of R_k - I of the joints after the root. A copy: see `basis`."""
        return rearrange(self.basis[self.joint_dirs.shape[-1] :], "p i v -> p (v i)")

    @property
    def num_expression(self) -> int:
        """E"""
        return self.joint_dirs.shape[-1] - self.num_betas

    @property
    def num_vertices(self) -> int:
        """V"""
        return self.v_template.shape[0]

    def albedo(self, coefficients: Array) -> Array:
        """Evaluate albedo textures. coefficients: (*b, C) standard deviations -> (*b, Ht, Wt, 3), not clipped."""
        change = jnp.tensordot(coefficients, self.albedo_basis, axes=1)
        return jnp.broadcast_to(self.albedo_mean, change.shape) + change


def _checked(name: str, value: ArrayLike | None, default: np.ndarray, *axes: int | str) -> np.ndarray:
    """Returns the value or the default as an array of the default's type, with its axes checked."""
    array = np.asarray(default if value is None else value, default.dtype)
    check_shape(name, array, *axes, batched=False)
    return array


def _checked_triangles(name: str, value: ArrayLike, count: int | str, limit: int) -> np.ndarray:
    """Returns checked indices (count, 3) int32 into `limit` points."""
    array = _checked(name, value, np.zeros((0, 3), np.int32), count, 3)
    if array.size and not (array.min() >= 0 and array.max() < limit):
        raise ValueError(f"{name} should lie in 0..{limit - 1}, but run from {array.min()} to {array.max()}.")
    return array


def _stack_basis(shapedirs: np.ndarray, posedirs: np.ndarray) -> np.ndarray:
    """Stack shapedirs (V, 3, C) and posedirs (P, 3 V) to `HeadModel.basis` (C + P, 3, V), float32."""
    count, _, components = shapedirs.shape
    basis = np.empty((components + len(posedirs), 3, count), np.float32)
    basis[:components] = shapedirs.transpose(2, 1, 0)
    basis[components:] = rearrange(posedirs, "p (v i) -> p i v", i=3)
    return basis


def _complete_regions(
    template: np.ndarray,
    faces: np.ndarray,
    weights: np.ndarray,
    embedding: LandmarkEmbedding,
    given: Mapping[str, ArrayLike],
) -> dict[str, np.ndarray]:
    """Complete the given regions to all 14 names by guesses."""
    known = {name: np.asarray(mask, bool) for name, mask in given.items()}
    for name, mask in known.items():
        check_shape(f"regions[{name!r}]", mask, len(template), batched=False)
    if set(REGION_NAMES) <= set(known):
        return known
    geometry = {"v_template": template, "faces": faces, "lbs_weights": weights}
    return guess_regions(geometry | embedding.to_arrays()) | known
