"""Convert a head model, or an image encoder's weights, into one file of flamejax's own format.

`flamejax convert IN OUT.npz`; `flamejax convert IN [OUT.npz] --to arcface`.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flamejax.head import FlameFiles, HeadFileError


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a head model, or an image encoder's weights, into one file of flamejax's own format.

    The converted head model loads faster and needs no companions; encoders are only read in this format
    (docs/how-to/encoders.md).
    Exit status: 0 when it is written, 1 when the source cannot be read, 2 when it cannot be written.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """FLAME's .pkl or .npz with its companions in its folder, ICT-FaceKit's folder FaceXModel, or a flamejax .npz; an
    iResNet's .pth, .tar or .onnx for --to arcface; FaRL's .pth for --to farl."""
    output: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="OUT.npz", help_behavior_hint="")] = None
    """The .npz to write; optional for encoders, whose default is in $FLAMEJAX_DATA/encoders. Its licence is that of
    the source: do not redistribute weights of FLAME, ArcFace or FaRL."""
    to: Literal["head", "arcface", "farl"] = "head"
    """What the source is: a head model, or an encoder's weights."""
    flame: Annotated[FlameFiles, tyro.conf.arg(name="")] = field(default_factory=FlameFiles)
    """Companions of a FLAME model that are not in its folder."""
    overwrite: bool = False
    """Replace an output that exists."""


def main(args: Sequence[str] | None = None, prog: str = "flamejax convert") -> int:
    """Run the command. Returns the exit status."""
    config = tyro.cli(ConvertConfig, args=None if args is None else list(args), prog=prog)
    output = config.output
    if output is None and config.to != "head":  # encoders have a default path
        from models.encoders import encoder_path

        try:
            output = encoder_path(config.to)
        except OSError as error:
            print(f"{prog}: {error}", file=sys.stderr)
            return 2
    if output is None:
        print(f"{prog}: give OUT.npz, the file to write.", file=sys.stderr)
        return 2
    if output.suffix != ".npz" or (output.exists() and not config.overwrite):
        reason = "exists (give --overwrite)" if output.suffix == ".npz" else "must end in .npz"
        print(f"{prog}: {output} {reason}.", file=sys.stderr)
        return 2
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as notes:  # of files that are not used
            warnings.simplefilter("always")
            write, summary = _read_head(config) if config.to == "head" else _read_encoder(config.source, config.to)
    except (HeadFileError, OSError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    for note in notes:
        print(f"{prog}: {note.message}", file=sys.stderr)
    try:
        write(output)
    except OSError as error:
        print(f"{prog}: {output} cannot be written ({error}).", file=sys.stderr)
        return 2
    print(f"{output}: {summary}; {time.perf_counter() - started:.1f} s")
    return 0


def _read_head(config: ConvertConfig) -> tuple[Callable[[Path], None], str]:
    """Read a head model. Returns a function that writes it, and a summary."""
    from flamejax.head.formats import read_head, write_head

    arrays = read_head(config.source, config.flame)
    count, betas = arrays["shapedirs"].shape[-1], int(arrays["num_betas"])
    landmarks = "" if arrays["landmark_face"].size else "no landmarks (see docs/how-to/own-head-model-files.md), "
    summary = (
        f"{arrays['name']} {arrays['version']}; {len(arrays['v_template'])} vertices, {landmarks}"
        f"{betas} identity and {count - betas} expression components, {len(arrays['albedo_basis'])} of albedo; "
        f"licence: {arrays['licence']}"
    )
    contents = {name: value for name, value in arrays.items() if name != "format_version"}
    return lambda path: write_head(path, contents), summary


def _read_encoder(source: Path, name: Literal["arcface", "farl"]) -> tuple[Callable[[Path], None], str]:
    """Read an encoder. Returns a function that writes it, and a summary."""
    from models.encoders import encoder_path
    from models.encoders.convert import provenance, read_arcface, read_farl
    from models.encoders.files import TITLES, architecture, write_encoder

    encoder = read_arcface(source) if name == "arcface" else read_farl(source)
    notes, default = provenance(source), None
    with contextlib.suppress(OSError):  # without a home folder there is no default path
        default = encoder_path(name)

    def write(path: Path) -> None:
        if path == default:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_encoder(path, encoder, notes)

    return write, f"{TITLES[name]}, {architecture(encoder.config)}; licence: {notes['licence']}"


if __name__ == "__main__":
    sys.exit(main(prog="python -m experiments.convert"))
