"""Worker process of `store`: reads one task per line from its standard input and answers `done`."""

from __future__ import annotations

import functools
import sys

import numpy as np

from experiments import cache, runtime
from experiments.datasets.open_faces import details, photos, scans, skin, store, subjects
from flamejax.head import HeadModel, load_head


@functools.lru_cache(maxsize=1)
def subject_inputs() -> tuple[HeadModel, details.DetailField, subjects.PeopleAndUnits]:
    """Returns the inputs of `make_subject`, which are read once per process."""
    head = load_head()
    return head, details.detail_field(head), subjects.load_sources(store.sources_path())


@functools.lru_cache(maxsize=1)
def photo_assets() -> photos.PhotoAssets:
    """Returns the inputs that all photos share, which are prepared once per process."""
    head, field, _ = subject_inputs()
    return photos.PhotoAssets(head, field, skin.texture_layout(head))


@functools.lru_cache(maxsize=2)
def subject_skin(subject: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the subject's skin of `draw_skin`, cached for its next photo."""
    return skin.draw_skin(photo_assets().head, photo_assets().layout, subject)


def run_task(task: str) -> None:
    """Run one task: `sources`, `people SEED`, `scans SUBJECT` or `photo SUBJECT EXPRESSION`."""
    match task.split():
        case ["sources"]:
            subjects.write_sources(store.sources_path())
        case ["people", seed]:
            subjects.write_people(store.people_path(int(seed)), int(seed))
        case ["scans", subject]:
            store.write_scans(scans.make_subject(*subject_inputs(), int(subject)), store.scans_path(int(subject)))
        case ["photo", *numbers]:
            subject, expression = map(int, numbers)
            meshes = store.read_scans(store.scans_path(subject))
            photo = photos.make_photo(photo_assets(), meshes, subject_skin(subject), subject, expression)
            cache.write_arrays(store.photo_path(subject, expression), photo)
        case _:
            raise ValueError(f"no such task: {task!r}")


def main() -> None:
    runtime.use_compilation_cache()
    for line in sys.stdin:
        run_task(line.strip())
        print(f"done {line.strip()}", flush=True)


if __name__ == "__main__":
    main()
