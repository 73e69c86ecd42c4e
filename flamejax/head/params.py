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
    """What poses and shapes a head (names as in smplx). Rotations are axis-angle in radians."""

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
        """The mean head in its rest pose, `batch` times. Raises: TypeError if `batch` is not a tuple of ints."""
        rotation = jnp.zeros((*batch, 3))
        betas, expression = jnp.zeros((*batch, head.num_betas)), jnp.zeros((*batch, head.num_expression))
        return cls(betas, expression, rotation, rotation, rotation, rotation, rotation, rotation)

    @classmethod
    def from_smplx(cls, head: HeadModel, values: Mapping[str, Any]) -> Self:
        """From the arguments of smplx's FLAME, which has the same names, joints and units.

        Args:
          head: its S and E are filled up with zeros: smplx's own default is 10 and 10 coefficients.
          values: any of this class's fields, as numpy, JAX or torch arrays (*b, n); what is missing is zero.

        Raises:
          ValueError: a name that is no field, batch axes that differ, or more coefficients than the head has.
        """
        widths = {"betas": head.num_betas, "expression": head.num_expression}
        arrays = {name: _numpy(value) for name, value in values.items()}
        unknown = set(arrays) - {field.name for field in dataclasses.fields(cls)}
        if unknown or len({array.shape[:-1] for array in arrays.values()}) != 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"not the parameters of a FLAME model, of one batch: {shapes or 'none are given'}.")
        batch = next(iter(arrays.values())).shape[:-1]
        filled = {}
        for field in dataclasses.fields(cls):
            width = widths.get(field.name, 3)
            array = arrays.get(field.name, np.zeros((*batch, 0 if field.name in widths else 3), np.float32))
            lack = width - array.shape[-1]
            if lack < 0 or (lack and field.name not in widths):
                raise ValueError(f"{field.name} has {array.shape[-1]} numbers, but this head takes {width}.")
            filled[field.name] = jnp.pad(jnp.asarray(array), [(0, 0)] * len(batch) + [(0, lack)])
        return cls(**filled)

    def to_smplx(self) -> dict[str, np.ndarray]:
        """The keyword arguments of smplx's FLAME, float32 (B, n): smplx takes exactly one batch axis.

        Make that FLAME with `num_betas=S, num_expression_coeffs=E`, and give it `torch.as_tensor` of each.
        """
        # Copies: torch warns of arrays that cannot be written, as JAX's are.
        return {name: np.array(value, np.float32).reshape(-1, value.shape[-1]) for name, value in vars(self).items()}

    @classmethod
    def from_deca(cls, head: HeadModel, code: Mapping[str, Any]) -> Self:
        """From the code of DECA (EMOCA's has other names: `shapecode`, `expcode`, `posecode`; both are understood).

        Args:
          head: a FLAME model; DECA's is FLAME 2020. Its S and E are filled up with zeros.
          code: `shape` (*b, 100), `exp` (*b, 50) and `pose` (*b, 6), which is the global rotation, then the jaw's.
            DECA has no neck and moves no eyes, nor a translation: those are zero. `cam` (see
            `OrthographicCamera.from_deca`), `tex`, `light` and others are not looked at.

        Raises:
          ValueError: one of the three is missing, or of another width than the head can take.
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
    """float32; torch tensors on any device, also those that carry gradients, without importing torch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.atleast_1d(np.asarray(value, np.float32))
