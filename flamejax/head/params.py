"""Parameters of a head model: a plain frozen pytree (FLAME, Li et al. 2017; Diverse3DFace Eqs. 1-2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax.head.model import HeadModel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadParams:
    """Shape and pose parameters of a head, with smplx's names. Rotations are axis-angle in radians."""

    betas: Array
    """(*b, S) identity, standard deviations."""
    expression: Array
    """(*b, E) expression, standard deviations."""
    global_orient: Array
    """(*b, 3) rotation about the root joint."""
    neck_pose: Array
    """(*b, 3)"""
    jaw_pose: Array
    """(*b, 3) +x opens the mouth."""
    leye_pose: Array
    """(*b, 3) subject's left eye."""
    reye_pose: Array
    """(*b, 3) subject's right eye."""
    transl: Array
    """(*b, 3) metres, applied last."""

    @classmethod
    def zeros(cls, head: HeadModel, batch: tuple[int, ...] = ()) -> Self:
        """Returns the mean head at rest, with batch axes `batch`. Raises TypeError if that is not a tuple of ints."""
        rotation = jnp.zeros((*batch, 3))
        betas, expression = jnp.zeros((*batch, head.num_betas)), jnp.zeros((*batch, head.num_expression))
        return cls(betas, expression, rotation, rotation, rotation, rotation, rotation, rotation)

    @classmethod
    def from_smplx(cls, head: HeadModel, values: Mapping[str, Any]) -> Self:
        """Convert from the arguments of smplx's FLAME, which has the same names, joints and units.

        Args:
          head: coefficients are zero-padded to its S and E, since smplx's default is 10 and 10 coefficients.
          values: any of this class's fields, as NumPy, JAX or torch arrays (*b, n); missing ones are zero.

        Raises:
          ValueError: no values are given, a name is no field, batch axes differ, or an array has a wrong width.
        """
        widths = {"betas": head.num_betas, "expression": head.num_expression}
        arrays = {name: _numpy(value) for name, value in values.items()}
        unknown = set(arrays) - {field.name for field in dataclasses.fields(cls)}
        if unknown or len({array.shape[:-1] for array in arrays.values()}) != 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"not parameters of a FLAME model with equal batch axes: {shapes or 'none are given'}.")
        batch = next(iter(arrays.values())).shape[:-1]
        fields = {}
        for field in dataclasses.fields(cls):
            width = widths.get(field.name, 3)
            array = arrays.get(field.name, np.zeros((*batch, 0 if field.name in widths else 3), np.float32))
            missing = width - array.shape[-1]
            if missing < 0 or (missing and field.name not in widths):
                raise ValueError(f"{field.name} has {array.shape[-1]} numbers, but this head takes {width}.")
            fields[field.name] = jnp.pad(jnp.asarray(array), [(0, 0)] * len(batch) + [(0, missing)])
        return cls(**fields)

    def to_smplx(self) -> dict[str, np.ndarray]:
        """Convert to the keyword arguments of smplx's FLAME, float32 (B, n): smplx takes exactly one batch axis.

        Create that FLAME with `num_betas=S, num_expression_coeffs=E`, and pass `torch.as_tensor` of each.
        """
        # Copies: torch warns about read-only arrays, such as JAX's.
        return {name: np.array(value, np.float32).reshape(-1, value.shape[-1]) for name, value in vars(self).items()}

    @classmethod
    def from_deca(cls, head: HeadModel, code: Mapping[str, Any]) -> Self:
        """Convert from the code dictionary of DECA, or of EMOCA with its names `shapecode`, `expcode`, `posecode`.

        Args:
          head: a FLAME model; DECA's is FLAME 2020. Coefficients are zero-padded to its S and E.
          code: `shape` (*b, 100), `exp` (*b, 50) and `pose` (*b, 6): the global rotation, then the jaw's. DECA has no
            neck rotation, eye rotation or translation: these are zero. `cam` (see `OrthographicCamera.from_deca`),
            `tex`, `light` and others are ignored.

        Raises:
          ValueError: one of the three is missing, or has a width that the head cannot take.
        """
        arrays = {}
        for name in ("shape", "exp", "pose"):
            value = code.get(name, code.get(f"{name}code"))
            if value is None:
                raise ValueError(f"DECA's code has a '{name}', but this one has only: {', '.join(code) or 'nothing'}.")
            arrays[name] = _numpy(value)
        if arrays["pose"].shape[-1] != 6:
            raise ValueError(f"pose has {arrays['pose'].shape[-1]} numbers, but DECA's has 6: global rotation and jaw.")
        pose = {"global_orient": arrays["pose"][..., :3], "jaw_pose": arrays["pose"][..., 3:]}
        return cls.from_smplx(head, {"betas": arrays["shape"], "expression": arrays["exp"], **pose})

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading axes shared by all fields."""
        return self.betas.shape[:-1]

    def joint_rotations(self) -> Array:
        """(*b, 5, 3) axis-angle in joint order: root, neck, jaw, left eye, right eye."""
        poses = (self.global_orient, self.neck_pose, self.jaw_pose, self.leye_pose, self.reye_pose)
        return jnp.stack(poses, axis=-2)


def _numpy(value: Any) -> np.ndarray:
    """Convert to float32 NumPy. Accepts torch tensors on any device, without importing torch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.atleast_1d(np.asarray(value, np.float32))
