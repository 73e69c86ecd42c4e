"""The options of `flamejax benchmark`. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import tyro

from experiments.command_line import OptionalFile, take_option

Group = Literal["head", "render", "memory", "fit", "mesh_conv", "diversity", "ofer"]
ALL_GROUPS: tuple[Group, ...] = get_args(Group)


@dataclasses.dataclass(frozen=True)
class PeerOptions:
    """Other libraries that do the same work, timed alternately with ours (docs/results/benchmark.md)."""

    peers: bool = False
    """head: smplx, flame-pytorch and body-models. render: deodr. Needs pip install 'flamejax[bench]'."""
    jaxrenderer_python: OptionalFile = None
    """render: an interpreter that has jaxrenderer, which needs another JAX than ours."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time the parts of flamejax on this machine, as medians and as ratios to a reference.

    Each part and its reference run alternately; on shared machines only the ratios are meaningful. Groups:
      head       vertices of the head model, and their gradient
      render     rasterizing and rendering, and their gradients
      memory     memory that gradients of renders need
      fit        fits of photos, and automatic masks
      mesh_conv  mesh convolutions, and a training step of the Mesh-VAE
      diversity  the DPP loss, and Algorithm 2
      ofer       a step of OFER's U-Nets, and its hypotheses
    """

    groups: Annotated[
        tyro.conf.Positional[tuple[Group, ...]], tyro.conf.arg(metavar="GROUP...", help_behavior_hint="")
    ] = ALL_GROUPS
    """What to time; all groups unless given."""
    json: OptionalFile = None
    """File to write: the rows as a list of objects."""
    limit: int = 7
    """Timed runs of each row; a third of it, at least 2, for rows that take seconds."""
    seed: int = 0
    """Seed of the random heads."""
    head: OptionalFile = None
    """Head model; the open head unless given."""
    comparison: PeerOptions = dataclasses.field(default_factory=PeerOptions)


def parse(args: Sequence[str], prog: str) -> BenchmarkConfig:
    """Return the command line as options; `--group NAME` and `--table NAME` also name a group. Raises: UsageError."""
    groups, rest = take_option(args, "--group", "--table")
    return tyro.cli(BenchmarkConfig, args=[*groups, *rest], prog=prog, config=(tyro.conf.OmitArgPrefixes,))
