"""What is installed, what is missing, and where to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Column, Table

from experiments import runtime
from experiments.head_models import Finding, State, examine_models, look
from flamejax.head import head_digest, open_head_path

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "trimesh", "pillow", "tyro", "rich")
EXTRAS = {
    "photos": ("ai-edge-litert", "scikit-image"),
    "data": ("tensorflow-datasets", "grain", "array-record"),
    "view": ("viser",),
    "encoders": ("onnx",),
    "bench": ("body-models", "smplx", "torch"),
    "dev": ("pytest", "ruff", "mypy"),
}
DETECTOR_MODELS = ("face_landmark.tflite", "face_detection_back.tflite", "face_detection_short_range.tflite")

ENCODER_SOURCES = {
    "arcface": ("mica.tar", "backbone.pth", "w600k_r50.onnx", "glint*r*.onnx"),
    "farl": ("FaRL-Base-Patch16-*.pth",),
}
"""Names under which weights are published."""
ENCODER_HOMES = {
    "arcface": (
        "non-commercial research only, not to be passed on: w600k_r50.onnx or a backbone.pth of "
        "https://github.com/deepinsight/insightface (model_zoo), or mica.tar of https://zielon.github.io/mica"
    ),
    "farl": (
        "for research, read its terms, not to be passed on: FaRL-Base-Patch16-LAIONFace20M-ep16.pth of "
        "https://github.com/FacePerceiver/FaRL"
    ),
}


@dataclass(frozen=True)
class DoctorConfig:
    """Say what is installed, what is missing and where to get it. Exit status 1 when something needed is broken."""

    head: Path | None = None
    """Head model to check: a file, or ICT-FaceKit's folder; the embedded open head unless given."""
    models: Path | None = None
    """Folder to look for FLAME and ICT-FaceKit models in, down to two folders below; $FLAMEJAX_DATA unless given."""


def main(args: Sequence[str] | None = None, prog: str = "flamejax doctor") -> int:
    """Print the report. Returns 0, or 1 when something needed is missing or broken."""
    config = tyro.cli(DoctorConfig, args=None if args is None else list(args), prog=prog)
    findings = examine(config)
    # Outside a terminal (a log, an issue report) lines need not fold at 80 columns.
    _print(findings, Console(highlight=False, width=None if sys.stdout.isatty() else 160))
    broken = [finding for finding in findings if finding.needed and finding.state != "ok"]
    print("\nAll that is needed is there." if not broken else f"\nBroken: {', '.join(f.item for f in broken)}.")
    return 1 if broken else 0


def examine(config: DoctorConfig) -> list[Finding]:
    """Everything the report says."""
    return [
        *check_core(),
        *check_devices(),
        check_head(config.head),
        *check_detector(),
        *check_extras(),
        *examine_models(config.models or runtime.data_folder()),
        *check_encoders(runtime.data_folder()),
        *check_folders(),
    ]


def check_core() -> list[Finding]:
    """Python and the packages that flamejax always needs."""
    found = [Finding("core", "python", "ok", f"{platform.python_version()} on {platform.platform()}", True)]
    for package in ("flamejax", *CORE):
        version = _version(package)
        # From a checkout flamejax runs without being installed.
        state: State = "ok" if version else "absent"
        found.append(Finding("core", package, state, version or "not installed", package != "flamejax"))
    return found


def check_devices() -> list[Finding]:
    """What JAX computes on."""
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a broken driver raises what it likes
        return [Finding("devices", "jax devices", "broken", " ".join(str(error).split()), True)]
    detail = f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"
    return [Finding("devices", "jax devices", "ok", detail, True)]


def check_head(path: Path | None) -> Finding:
    """The head model's file: whether it loads, and what it is."""
    import flamejax

    def describe() -> str:
        head, file = flamejax.load_head(path), Path(path or open_head_path())
        return (
            f"{head.name} {head.version}, {head.licence}; {head.num_vertices} vertices, {head.num_betas} identity and "
            f"{head.num_expression} expression components; sha256 {head_digest(file)[:16]}; {file}"
        )

    return Finding.of("head", "head model", describe, needed=True)


def check_detector() -> list[Finding]:
    """The face detector's weights, shipped with the package."""
    from fitting.mediapipe_models import ASSETS

    found = []
    for file in (ASSETS / name for name in DETECTOR_MODELS):
        state: State = "ok" if file.is_file() else "absent"
        there = state == "ok" and f"{file.stat().st_size} bytes; sha256 {head_digest(file)[:16]}"
        found.append(Finding("detector", file.name, state, there or "install flamejax again", True))
    return found


def check_extras() -> list[Finding]:
    """Optional packages, by the extra that brings them."""
    found = []
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        have = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
        lack = f"no {', '.join(missing)}: pip install 'flamejax[{extra}]'" if missing else ""
        state: State = "absent" if missing else "ok"
        found.append(Finding("extras", extra, state, "; ".join(part for part in (have, lack) if part)))
    return found


def check_encoders(folder: Path) -> list[Finding]:
    """Image encoders, which flamejax may not pass on either: never needed."""
    from models.encoders.files import TITLES, describe_encoder, encoder_path

    found = []
    for name, title in TITLES.items():
        path, item = encoder_path(name), f"{title} encoder"
        sources = [file for pattern in ENCODER_SOURCES[name] for file in look(folder, pattern)]
        if path.is_file():
            found.append(Finding.of("encoders", item, lambda: f"{describe_encoder(name, path)}; {path}"))  # noqa: B023
            continue
        detail = f"optional, {ENCODER_HOMES[name]}; then: flamejax convert FILE --to {name} (writes {path})"
        if sources:
            detail = f"found {sources[0]}; run: flamejax convert {sources[0]} --to {name}"
        found.append(Finding("encoders", item, "absent", detail))
    return found


def check_folders() -> list[Finding]:
    """Where flamejax keeps data, and whether it may."""
    folder = runtime.data_folder()
    source = "$FLAMEJAX_DATA" if os.environ.get("FLAMEJAX_DATA") else "default; set $FLAMEJAX_DATA to change it"
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    state: State = "ok" if writable else "broken"
    detail = f"{folder} ({source})" + ("" if writable else "; it cannot be written")
    return [Finding("folders", "data folder", state, detail)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print(findings: Sequence[Finding], console: Console) -> None:
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    columns = (Column(name, overflow="fold") for name in ("", "item", "state", "detail"))
    table = Table(*columns, box=None, pad_edge=False)
    last = ""
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        detail = finding.detail.replace("[", r"\[")
        table.add_row(finding.group if finding.group != last else "", finding.item, state, detail)
        last = finding.group
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
