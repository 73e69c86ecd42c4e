"""Makes pieces of the open scans: reads one piece of work a line, answers `done`. Started by `store`."""

from __future__ import annotations

import functools
import sys

import numpy as np

from experiments import cache, runtime
from experiments.datasets.open_faces import details, photos, scans, skin, store, subjects
from flamejax.head import HeadModel, load_head


@functools.lru_cache(maxsize=1)
def prepared() -> tuple[HeadModel, details.Skin, subjects.Sources]:
    """What scans are made from: read once per process."""
    head = load_head()
    return head, details.skin_of(head), subjects.load_sources(store.sources_path())


@functools.lru_cache(maxsize=1)
def studio() -> photos.Studio:
    head, details_of_head, _ = prepared()
    return photos.Studio(head, details_of_head, skin.texels_of(head))


@functools.lru_cache(maxsize=2)
def look(subject: int) -> tuple[np.ndarray, np.ndarray]:
    """A subject's skin, kept for its next photo."""
    return skin.draw_skin(studio().head, studio().texels, subject)


def do(piece: str) -> None:
    """Make one piece: `sources`, `people SEED`, `scans SUBJECT` or `photo SUBJECT EXPRESSION`."""
    match piece.split():
        case ["sources"]:
            subjects.prepare(store.sources_path())
        case ["people", seed]:
            subjects.prepare_people(store.people_path(int(seed)), int(seed))
        case ["scans", subject]:
            made = scans.make_subject(*prepared(), int(subject))
            store.write_scans(made, store.scans_path(int(subject)))
        case ["photo", *numbers]:
            subject, expression = map(int, numbers)
            found = store.read_scans(store.scans_path(subject))
            made = photos.make_photo(studio(), found, look(subject), subject, expression)
            cache.write_arrays(store.photo_path(subject, expression), made)
        case _:
            raise ValueError(f"no such piece of work: {piece!r}")


def main() -> None:
    runtime.use_compilation_cache()
    for line in sys.stdin:
        do(line.strip())
        print(f"done {line.strip()}", flush=True)


if __name__ == "__main__":
    main()
