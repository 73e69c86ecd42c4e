"""Make a benchmark by CO-545's protocol: `python -m experiments.datasets.occluded_frames OUTPUT`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from experiments import runtime
from experiments.command_line import message_console
from experiments.datasets.observations import evenly_spaced_indices
from experiments.datasets.occluded_frames import sequences, store
from experiments.datasets.open_faces.subjects import ConfigName, subjects
from experiments.datasets.registered_scans import Unit
from experiments.datasets.scans import OPEN_HEAD
from experiments.progress import progress_counter
from flamejax.files import remove_unfinished
from flamejax.head import HeadFileError, HeadModel, geometry_hash, load_head

MAX_NOTES = 10
"""Number of notes that are printed."""


@dataclass(frozen=True)
class OccludedFramesConfig:
    """Make occluded photos of expressive heads with their visible vertices; an interrupted run is continued."""

    output: Annotated[Path, tyro.conf.Positional]
    """Folder for the benchmark."""
    scans: Path | None = None
    """Registered sequences in the head's topology (CoMA): DIR/<subject>/<expression>/*.ply|obj|npy|npz. By default the
    open faces."""
    unit: Unit = "m"
    """Unit of these files."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the open faces."""
    config: ConfigName | None = None
    """Part of the open faces; by default `test` for the test split, `full` for the others."""
    head: Path | None = None
    """Head model file; by default the open head."""
    limit: int | None = None
    """Number of frames to use, evenly spaced; by default all."""
    seed: int = 0
    """Seed of occluders, cameras, lights and backgrounds."""


def make(options: OccludedFramesConfig, console: Console) -> Path:
    """Make the frames that are missing.

    Returns:
      The benchmark's folder.

    Raises:
      ValueError: there are no frames, or the folder has other contents. OSError: it cannot be written.
    """
    from experiments.datasets.occluded_frames.pictures import FrameRenderer

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: at least one frame.")
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed}: must not be negative.")
    head = load_head(options.head)
    settings = {
        "source": f"open faces, {options.split}" if options.scans is None else str(options.scans.resolve()),
        "unit": options.unit, "seed": options.seed, "head": head.name, "head_hash": geometry_hash(head),
    }  # fmt: skip
    frames = _frames(head, options, console)
    store.begin(options.output, settings)
    remove_unfinished(options.output)
    render_frame = FrameRenderer(head, options.seed)
    with progress_counter("occluded frames", len(frames)) as advance:
        for frame in frames:
            if not store.is_made(options.output, frame):
                store.write_frame(options.output, frame, render_frame(frame))
            advance()
    store.finish(options.output, settings, frames)
    return options.output


def _frames(head: HeadModel, options: OccludedFramesConfig, console: Console) -> list[sequences.SequenceFrame]:
    if options.scans is None:
        if head.name != OPEN_HEAD:
            raise ValueError(f"the open faces are scans of the open head, not of '{head.name}'. Give --scans DIR.")
        config = options.config or ("test" if options.split == "test" else "full")
        if not subjects(config, options.split):
            raise ValueError(
                f"no frames: `{config}` of the open faces has no {options.split} split. Give --config full."
            )
        frames = sequences.open_frames(options.split, config)
        return [frames[k] for k in evenly_spaced_indices(len(frames), options.limit)]
    files, notes = sequences.middle_files(options.scans)
    chosen = [files[k] for k in evenly_spaced_indices(len(files), options.limit)]
    frames, frame_notes = sequences.folder_frames(head, options.scans, chosen, options.unit, console)
    notes += frame_notes
    for line in notes[:MAX_NOTES]:
        console.print(line, markup=False)
    if len(notes) > MAX_NOTES:
        console.print(f"and {len(notes) - MAX_NOTES} more of such notes")
    return frames


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.datasets.occluded_frames") -> int:
    """Run the command. Returns the exit status: 1 when the benchmark cannot be made."""
    options = tyro.cli(OccludedFramesConfig, args=args, prog=prog)
    runtime.use_compilation_cache()
    try:
        folder = make(options, message_console())
    except (OSError, ValueError, RuntimeError, ImportError, HeadFileError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
