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
"""Spread beyond which a point is taken to slide on the surface, as points of the face's contour do when it turns."""
PARENTS = (-1, 0, 1, 1, 1)
JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")

_SAVED = (
    *("v_template", "faces", "shapedirs", "posedirs", "J_regressor", "lbs_weights", "parents", "num_betas"),
    *("uv", "uv_faces", "albedo_mean", "albedo_basis", "name", "version", "licence"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkEmbedding:
    """Where the 68 iBUG landmarks lie on the mesh: triangle and barycentric coordinates."""

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
        """Of NumPy's or JAX's arrays, shapes as of the fields; with no rows at all: a head without landmarks.

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Under the names of flamejax's format."""
        names = ("landmark_face", "landmark_barycentric", "contour_face", "contour_barycentric")
        return {name: np.asarray(value) for name, value in zip(names, vars(self).values(), strict=True)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseLandmarks:
    """Where a detector's points lie on a head: triangle and barycentric coordinates, and how well they agree.

    A spread is the robust standard deviation, per image axis and in outer-eye distances, of detector minus model on
    renders of known heads: what a fit should expect of each point even when identity, expression and pose are right.
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
        """(468,) bool: points of the face's contour, which move over the surface as the head turns."""
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
    """(S + E + 9 (K - 1), 3, V) metres: identity, expression and pose correctives as one matrix, one plane for each
    coordinate, as `vertices` multiplies it. `shapedirs` and `posedirs` are its parts in FLAME's order of axes."""
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
    """A detector's 468 points on this head, where they were measured; see `flamejax.head._dense_landmarks`."""
    expression_range: Array | None = None
    """(2, E) lowest and highest coefficients at which each component makes faces of people, where the model's file says
    so: lips part in one direction only. For sampling; the model itself is linear without bounds."""

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
        """A head model of one's own arrays, NumPy's or JAX's (not to be traced).

        Args:
          v_template: (V, 3) mean shape, metres.
          faces: (F, 3) integers, counter-clockwise seen from outside.
          shapedirs: (V, 3, S + E) metres per standard deviation, identity first; none when left out.
          num_betas: S; when left out, all of `shapedirs` are identity and there is no expression.
          posedirs: (36, 3 V) as FLAME's; when left out, rotations deform nothing besides the skinning.
          J_regressor: (5, V); when left out, all joints lie in the middle of the template.
          lbs_weights: (V, 5), rows that sum to 1; when left out, everything is bound to the root, one rigid head.
          parents: of the five joints, FLAME's when left out.
          landmark_embedding: when left out, the head has no landmarks, and whatever asks for them raises a ValueError.
          regions: name -> (V,) bool; those of FLAME's 14 that are missing are guessed from the landmarks. Without
            landmarks they are empty, but `face` is the whole mesh.
          uv: (Vt, 2), v up, with uv_faces: (F, 3) integers into it. Left out, all lies in the texture's middle.
          albedo_mean: (Ht, Wt, 3) in [0, 1]; one grey texel when left out.
          albedo_basis: (C, Ht, Wt, 3) per standard deviation; none when left out.
          expression_range: (2, E), see the class.

        Raises:
          ValueError: an array has another shape, or triangles point outside their vertices. The message names it.
        """
        template = _checked("v_template", v_template, np.zeros((0, 3), np.float32), "V", 3)
        count = len(template)
        faces = _triangles("faces", faces, "F", count)
        blends = _checked("shapedirs", shapedirs, np.zeros((count, 3, 0), np.float32), count, 3, "S + E")
        identity = blends.shape[-1] if num_betas is None else num_betas
        if not 0 <= identity <= blends.shape[-1]:
            raise ValueError(f"num_betas is {identity}, but shapedirs has {blends.shape[-1]} components.")
        if len(parents) != len(JOINT_NAMES):
            raise ValueError(f"parents should be of 5 joints ({', '.join(JOINT_NAMES)}), not {parents}.")
        correctives = _checked("posedirs", posedirs, np.zeros((36, 3 * count), np.float32), 36, 3 * count)
        regressor = _checked("J_regressor", J_regressor, np.full((5, count), 1 / count, np.float32), 5, count)
        rigid = np.eye(1, 5, dtype=np.float32).repeat(count, axis=0)
        weights = _checked("lbs_weights", lbs_weights, rigid, count, 5)
        uv_faces = np.zeros_like(faces) if uv_faces is None else uv_faces
        uv = _checked("uv", uv, np.full((1, 2), 0.5, np.float32), "Vt", 2)
        mean = _checked("albedo_mean", albedo_mean, np.full((1, 1, 3), 0.7, np.float32), "Ht", "Wt", 3)
        none = np.zeros((0, *mean.shape), np.float32)
        used = np.flatnonzero(regressor.any(axis=0))  # joints depend on few vertices
        none_at_all = (np.zeros((0, *axes)) for axes in ((), (3,), (17,), (17, 3)))
        embedding = LandmarkEmbedding.from_arrays(
            *(none_at_all if landmark_embedding is None else vars(landmark_embedding).values())
        )
        arrays = {
            "v_template": template,
            "faces": faces,
            "basis": _stacked_basis(blends, correctives),
            "J_regressor": regressor,
            "lbs_weights": weights,
            "joint_template": regressor @ template,
            "joint_dirs": np.tensordot(regressor[:, used], blends[used], axes=1),
            "landmark_embedding": embedding,
            "regions": _all_regions(template, faces, weights, embedding, regions or {}),
            "uv": uv,
            "uv_faces": _triangles("uv_faces", uv_faces, len(faces), len(uv)),
            "albedo_mean": mean,
            "albedo_basis": _checked("albedo_basis", albedo_basis, none, "C", *mean.shape),
        }
        if expression_range is not None:
            width = blends.shape[-1] - identity
            arrays["expression_range"] = _checked("expression_range", expression_range, none, 2, width)
        arrays = jax.device_put(arrays)  # all at once
        return cls(**arrays, name=name, version=version, licence=licence, num_betas=identity, parents=parents)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write flamejax's `.npz`, whole or not at all: `load_head(path)` reads the same model, bit by bit.

        `dense` is not written: it belongs to the heads it was measured on, and `load_head` attaches it to those.

        Raises:
          OSError: the folder is missing or the disk refuses.
        """
        names = sorted(self.regions)
        arrays = {
            **{name: getattr(self, name) for name in _SAVED},
            **self.landmark_embedding.arrays(),
            "region_names": names,
            "region_masks": np.stack([self.regions[name] for name in names]),
            "albedo_scale": np.full(len(self.albedo_basis), 127, np.float32),  # the basis as floats is taken as it is
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
        """Albedo textures. coefficients: (*b, C) standard deviations -> (*b, Ht, Wt, 3), not clipped."""
        change = jnp.tensordot(coefficients, self.albedo_basis, axes=1)
        return jnp.broadcast_to(self.albedo_mean, change.shape) + change


def _checked(name: str, value: ArrayLike | None, default: np.ndarray, *axes: int | str) -> np.ndarray:
    """A value, or the default, with these axes and the default's type."""
    array = np.asarray(default if value is None else value, default.dtype)
    check_shape(name, array, *axes, batched=False)
    return array


def _triangles(name: str, value: ArrayLike, number: int | str, limit: int) -> np.ndarray:
    """(F, 3) int32 into `limit` points."""
    array = _checked(name, value, np.zeros((0, 3), np.int32), number, 3)
    if array.size and not (array.min() >= 0 and array.max() < limit):
        raise ValueError(f"{name} should lie in 0..{limit - 1}, but run from {array.min()} to {array.max()}.")
    return array


def _stacked_basis(shapedirs: np.ndarray, posedirs: np.ndarray) -> np.ndarray:
    """`HeadModel.basis` (C + P, 3, V) of shapedirs (V, 3, C) and posedirs (P, 3 V), float32."""
    count, _, components = shapedirs.shape
    basis = np.empty((components + len(posedirs), 3, count), np.float32)
    basis[:components] = shapedirs.transpose(2, 1, 0)
    basis[components:] = rearrange(posedirs, "p (v i) -> p i v", i=3)
    return basis


def _all_regions(
    template: np.ndarray,
    faces: np.ndarray,
    weights: np.ndarray,
    embedding: LandmarkEmbedding,
    given: Mapping[str, ArrayLike],
) -> dict[str, np.ndarray]:
    """Regions of all 14 names: those that are given, and guesses of the others."""
    known = {name: np.asarray(mask, bool) for name, mask in given.items()}
    for name, mask in known.items():
        check_shape(f"regions[{name!r}]", mask, len(template), batched=False)
    if set(REGION_NAMES) <= set(known):
        return known
    if not len(embedding.face):
        return {name: np.full(len(template), name == "face") for name in REGION_NAMES} | known
    geometry = {"v_template": template, "faces": faces, "lbs_weights": weights}
    return guess_regions(geometry | embedding.arrays()) | known
