"""Checks a call before anything heavy is imported or loaded."""

from __future__ import annotations

from experiments.command_line import UsageError
from experiments.photos import Failure, PhotoFile, expand_user, find_photos, real_path
from experiments.reconstruct.config import ReconstructConfig
from experiments.reconstruct.lock import LOCK


def find_checked_photos(config: ReconstructConfig) -> tuple[list[PhotoFile], list[Failure]]:
    """Return the photos, and the arguments that match none. Nothing is written.

    Raises:
        UsageError: a named file or folder is missing, there are no photos, or --output is a folder of photos, or is
            not empty and neither --resume nor --overwrite was given.
    """
    config.check_inputs()
    output = config.output.output
    photos, failures = find_photos(config.photos, exclude=output)
    if not photos:
        raise UsageError("no photos found. " + " ".join(f"{f.photo}: {f.reason}" for f in failures))
    if not any(photo.path.exists() for photo in photos):
        raise UsageError(f"no such file: {', '.join(str(photo.path) for photo in photos)}.")
    if any(real_path(expand_user(photo)) == real_path(output) for photo in config.photos):
        raise UsageError(f"--output {output} is also a folder of photos; choose another.")
    try:
        is_used = output.is_dir() and any(entry.name != LOCK for entry in output.iterdir())
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror or error}.") from error
    if is_used and not (config.output.resume or config.output.overwrite):
        raise UsageError(
            f"{output} is not empty. Give --resume to do only what is missing there, "
            "--overwrite to delete earlier results first, or another --output."
        )
    return photos, failures
