"""Convert a head model into one file of flamejax's own format: `flamejax convert IN OUT.npz`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from flamejax.head import FlameFiles, HeadFileError


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a head model into one file of flamejax's own format, which loads faster and needs no companions.

    Exit status: 0 when it is written, 1 when the model cannot be read, 2 when it cannot be written.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """FLAME's .pkl or .npz with its companions beside it, ICT-FaceKit's folder FaceXModel, or a flamejax .npz."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.npz")]
    """The .npz to write. Its licence is that of the source: do not pass FLAME on."""
    flame: Annotated[FlameFiles, tyro.conf.arg(name="")] = field(default_factory=FlameFiles)
    """Companions of a FLAME model that do not lie beside it."""
    overwrite: bool = False
    """Replace an output that exists."""


def main(args: Sequence[str] | None = None, prog: str = "flamejax convert") -> int:
    """Convert. Returns the exit status."""
    config = tyro.cli(ConvertConfig, args=None if args is None else list(args), prog=prog)
    from flamejax.head.load import read_head
    from flamejax.head.save import write_head

    if config.output.suffix != ".npz" or (config.output.exists() and not config.overwrite):
        reason = "exists (give --overwrite)" if config.output.suffix == ".npz" else "must end in .npz"
        print(f"{prog}: {config.output} {reason}.", file=sys.stderr)
        return 2
    began = time.perf_counter()
    try:
        arrays = read_head(config.source, config.flame)
    except (HeadFileError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    try:
        write_head(config.output, {name: value for name, value in arrays.items() if name != "format_version"})
    except OSError as error:
        print(f"{prog}: {config.output} cannot be written ({error}).", file=sys.stderr)
        return 2
    count, betas = arrays["shapedirs"].shape[-1], int(arrays["num_betas"])
    print(
        f"{config.output}: {arrays['name']} {arrays['version']}; {len(arrays['v_template'])} vertices, "
        f"{betas} identity and {count - betas} expression components, {len(arrays['albedo_basis'])} of albedo; "
        f"licence: {arrays['licence']}; {time.perf_counter() - began:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(prog="python -m experiments.convert"))
