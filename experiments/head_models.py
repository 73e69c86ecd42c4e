"""Which head models and companion files a folder holds: whether they can be read, of which release, and what lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flamejax.head import HeadFileError
from flamejax.head.formats import COMPANIONS, ICT_HOME, ICT_NEUTRAL, FlameFiles, describe_ict

FLAME_MODELS = (
    "generic_model.pkl",
    "female_model.pkl",
    "male_model.pkl",
    "FLAME_*.pkl",
    "flame20*.pkl",
    "flame20*.npz",
)
"""Names of FLAME's releases: 2017 to 2020 in the first row, smplx's and 2023's names in the others."""
FLAME_HOME = "https://flame.is.tue.mpg.de"
DECA_HOME = "https://github.com/yfeng95/DECA"
RINGNET_HOME = "https://github.com/soubhiksanyal/RingNet (flame_model/)"
SOURCES = {
    "landmarks": ("FLAME landmarks", f"needed with FLAME; {DECA_HOME} (data/landmark_embedding.npy)"),
    "static_landmarks": ("FLAME landmarks, inner", f"with the contour, instead of the above; {RINGNET_HOME}"),
    "dynamic_landmarks": ("FLAME landmarks, contour", f"with the inner ones; {RINGNET_HOME}"),
    "masks": ("FLAME vertex masks", f"without them regions are guessed; {FLAME_HOME}, 'FLAME Vertex Masks'"),
    "texture": ("FLAME texture space", f"without it heads are grey; {FLAME_HOME}, 'FLAME texture space'"),
    "template": ("FLAME template", f"for texture coordinates; {DECA_HOME} (data/head_template.obj)"),
}
NEEDED = {
    "landmarks": ("static_lmk_faces_idx", "dynamic_lmk_faces_idx"),
    "static_landmarks": ("lmk_face_idx", "lmk_b_coords"),
    "dynamic_landmarks": ("lmk_face_idx", "lmk_b_coords"),
    "masks": ("face", "left_eyeball", "scalp"),
    "texture": ("mean", "tex_dir"),
}
"""What a companion holds."""
LEVELS = ("", "*/", "*/*/")
"""How deep files are looked for: not through whole data sets."""

State = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of doctor's report."""

    group: str
    item: str
    state: State
    detail: str
    needed: bool = False
    """Whether flamejax is broken without it."""

    @classmethod
    def of(cls, group: str, item: str, describe: Callable[[], str], needed: bool = False) -> Finding:
        """What `describe` says of a file; a file that it cannot read is broken."""
        try:
            return cls(group, item, "ok", describe(), needed)
        except (OSError, ValueError) as error:
            return cls(group, item, "broken", str(error), needed)


def examine_models(folder: Path) -> list[Finding]:
    """All FLAME models, their companions and ICT-FaceKit folders in a folder, down to two levels below it.

    flamejax may not pass them on, and never needs them. Models are read, which takes about a second each; of
    ICT-FaceKit only names and the list of indices are looked at.
    """
    found: list[Finding] = []

    def add(item: str, files: Iterable[Path], describe: Callable[[Path], str], absent: str) -> None:
        files = list(files)
        found.extend(Finding.of("models", item, functools.partial(describe, file)) for file in files)
        if absent and not files:
            found.append(Finding("models", item, "absent", absent))

    companions = {name for names in COMPANIONS.values() for name in names}
    models = [file for name in FLAME_MODELS for file in look(folder, name) if file.name not in companions]
    where = f"optional, research only, by registration: {FLAME_HOME}; place generic_model.pkl or flame2023.pkl in"
    add("FLAME head model", dict.fromkeys(models), _describe_flame, f"{where} {folder}")
    both = bool(look(folder, COMPANIONS["landmarks"][0]))
    for field, (item, source) in SOURCES.items():
        files = [file for name in COMPANIONS[field] for file in look(folder, name)]
        absent = f"{source}; place {COMPANIONS[field][0]} beside the model"
        spare = both and field.endswith("_landmarks")
        add(item, files, functools.partial(_describe_companion, field), "" if spare else absent)
    where = f"optional, MIT licence, no registration: {ICT_HOME}; place its folder FaceXModel in"
    neutral = [file.parent for file in look(folder, ICT_NEUTRAL)]
    add("ICT-FaceKit", neutral, lambda path: f"{describe_ict(path)}; {path}", f"{where} {folder}")
    return found


def look(folder: Path, name: str) -> list[Path]:
    """Files of that name, or pattern, in a folder and down to two levels below it."""
    return [file for level in LEVELS for file in sorted(folder.glob(level + name)) if file.is_file()]


def _describe_flame(file: Path) -> str:
    from flamejax.head.formats import read_head

    # The texture takes seconds to read, so it is looked at by itself.
    arrays = read_head(file, FlameFiles(texture_components=0))
    beside = [field for field, names in COMPANIONS.items() if any((file.parent / name).is_file() for name in names)]
    components = arrays["shapedirs"].shape[-1]
    return (
        f"{arrays['name']} {arrays['version']}; {len(arrays['v_template'])} vertices, {int(arrays['num_betas'])} "
        f"identity and {components - int(arrays['num_betas'])} expression components; with {', '.join(beside)}; {file}"
    )


def _describe_companion(field: str, file: Path) -> str:
    """Read a companion by itself; whether it fits a model is told by the model beside it. Raises: HeadFileError."""
    from flamejax.head.formats import load_pickle, npz_names, read_bytes, read_npy, read_obj

    if file.suffix == ".npy":
        content = read_npy(file)
    elif file.suffix == ".npz":
        content = dict.fromkeys(npz_names(file))
    elif file.suffix == ".pkl":
        content, _ = load_pickle(read_bytes(file), str(file))
    else:
        content = {"mesh": read_obj(file)}
    for name in NEEDED.get(field, ()):
        if not isinstance(content, dict) or name not in content:
            raise HeadFileError(f"{file}: '{name}' is missing. Fetch it again.")
    return str(file)
