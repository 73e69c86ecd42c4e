"""Checks the head models and companion files in a folder: whether they are readable, which release, what is missing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flamejax.head import HeadFileError
from flamejax.head.formats import COMPANIONS, ICT_HOME, ICT_NEUTRAL, LINEAR_TEXTURE, FlameFiles, describe_ict

FLAME_MODELS = (
    "generic_model.pkl",
    "female_model.pkl",
    "male_model.pkl",
    "FLAME_*.pkl",
    "flame20*.pkl",
    "flame20*.npz",
)
"""File names of FLAME's releases: of 2017 to 2020 (generic, female, male), in smplx, and of 2023."""
FLAME_HOME = "https://flame.is.tue.mpg.de"
DECA_HOME = "https://github.com/yfeng95/DECA"
RINGNET_HOME = "https://github.com/soubhiksanyal/RingNet (flame_model/)"
SOURCES = {
    "landmarks": ("FLAME landmarks", f"needed to fit FLAME to photos; {DECA_HOME} (data/landmark_embedding.npy)"),
    "static_landmarks": ("FLAME landmarks, inner", f"with the contour, instead of the above; {RINGNET_HOME}"),
    "dynamic_landmarks": ("FLAME landmarks, contour", f"with the inner ones; {RINGNET_HOME}"),
    "masks": ("FLAME vertex masks", f"without them regions are estimated; {FLAME_HOME}, 'FLAME Vertex Masks'"),
    "texture": ("FLAME texture space", f"without it heads are grey; {FLAME_HOME}, 'FLAME texture space'"),
    "template": ("FLAME template", f"for texture coordinates; {DECA_HOME} (data/head_template.obj)"),
}
REQUIRED_KEYS = {
    "landmarks": ("static_lmk_faces_idx", "dynamic_lmk_faces_idx"),
    "static_landmarks": ("lmk_face_idx", "lmk_b_coords"),
    "dynamic_landmarks": ("lmk_face_idx", "lmk_b_coords"),
    "masks": ("face", "left_eyeball", "scalp"),
}
"""Arrays that a companion file must contain."""
SEARCH_LEVELS = ("", "*/", "*/*/")
"""Folder levels that are searched, few enough not to walk through whole data sets."""

State = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class CheckResult:
    """One line of the doctor's report."""

    group: str
    item: str
    state: State
    detail: str
    needed: bool = False
    """Whether flamejax requires it."""

    @classmethod
    def from_file(cls, group: str, item: str, describe: Callable[[], str], needed: bool = False) -> CheckResult:
        """Describe a file with `describe`; the state is broken if it cannot be read."""
        try:
            return cls(group, item, "ok", describe(), needed)
        except (OSError, ValueError) as error:
            return cls(group, item, "broken", str(error), needed)


def examine_models(folder: Path) -> list[CheckResult]:
    """Check all FLAME models, their companions and ICT-FaceKit folders in a folder, down to two levels below it.

    flamejax may not redistribute them, and never needs them. Models are read, which takes about a second each. Of
    ICT-FaceKit only file names and the list of indices are read.
    """
    results: list[CheckResult] = []

    def add(item: str, files: Iterable[Path], describe: Callable[[Path], str], absent: str) -> None:
        files = list(files)
        results.extend(CheckResult.from_file("models", item, functools.partial(describe, file)) for file in files)
        if absent and not files:
            results.append(CheckResult("models", item, "absent", absent))

    companions = {name for names in COMPANIONS.values() for name in names}
    models = [file for name in FLAME_MODELS for file in find_files(folder, name) if file.name not in companions]
    hint = f"optional, research only, by registration: {FLAME_HOME}; place generic_model.pkl or flame2023.pkl in"
    add("FLAME head model", dict.fromkeys(models), _describe_flame, f"{hint} {folder}")
    has_landmarks = bool(find_files(folder, COMPANIONS["landmarks"][0]))
    for field, (item, source) in SOURCES.items():
        names = COMPANIONS[field] + ((LINEAR_TEXTURE,) if field == "texture" else ())
        files = [file for name in names for file in find_files(folder, name)]
        absent = f"{source}; place {COMPANIONS[field][0]} beside the model"
        unneeded = has_landmarks and field.endswith("_landmarks")
        add(item, files, functools.partial(_describe_companion, field), "" if unneeded else absent)
    hint = f"optional, MIT licence, no registration: {ICT_HOME}; place its folder FaceXModel in"
    neutral = [file.parent for file in find_files(folder, ICT_NEUTRAL)]
    add("ICT-FaceKit", neutral, lambda path: f"{describe_ict(path)}; {path}", f"{hint} {folder}")
    return results


def find_files(folder: Path, name: str) -> list[Path]:
    """List files of a name or pattern in a folder, down to two levels below it."""
    return [file for level in SEARCH_LEVELS for file in sorted(folder.glob(level + name)) if file.is_file()]


def _describe_flame(file: Path) -> str:
    from flamejax.head.formats import read_head

    # The texture takes seconds to read, so it is checked separately.
    with warnings.catch_warnings(action="ignore"):  # companions are listed on their own
        arrays = read_head(file, FlameFiles(texture_components=0))
    present = [field for field, names in COMPANIONS.items() if any((file.parent / name).is_file() for name in names)]
    others = ", ".join(present) or "no other files"
    components = arrays["shapedirs"].shape[-1]
    return (
        f"{arrays['name']} {arrays['version']}; {len(arrays['v_template'])} vertices, {int(arrays['num_betas'])} "
        f"identity and {components - int(arrays['num_betas'])} expression components; with {others}; {file}"
    )


def _describe_companion(field: str, file: Path) -> str:
    """Read a companion file by itself; reading its model checks that they match. Raises: HeadFileError."""
    from flamejax.head.formats import load_pickle, read_bytes, read_npy, read_obj, texture_entries

    if file.suffix == ".npy":
        content = read_npy(file)
    elif file.suffix == ".npz":
        texture_entries(file)
        return str(file)
    elif file.suffix == ".pkl":
        content, _ = load_pickle(read_bytes(file), str(file))
    else:
        content = {"mesh": read_obj(file)}
    for name in REQUIRED_KEYS.get(field, ()):
        if not isinstance(content, dict) or name not in content:
            raise HeadFileError(f"{file}: '{name}' is missing. Fetch it again.")
    return str(file)
