"""Reports what is installed, what is missing, and where to get it."""

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
from rich.text import Text

from experiments import runtime
from experiments.command_line import OptionalFile, OptionalFolder, message_console
from experiments.head_models import CheckResult, State, examine_models, find_files
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
"""File names under which the weights are published."""
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
    """Report what is installed, what is missing and where to get it. Exit status 1: something required is broken."""

    head: OptionalFile = None
    """Head model to check: a file, or the folder of ICT-FaceKit; by default the open head."""
    models: OptionalFolder = None
    """Folder to search for FLAME and ICT-FaceKit models, down to two levels below; by default $FLAMEJAX_DATA."""


def main(args: Sequence[str] | None = None, prog: str = "flamejax doctor") -> int:
    """Print the report. Returns 0, or 1 when something required is missing or broken."""
    config = tyro.cli(DoctorConfig, args=None if args is None else list(args), prog=prog)
    results = examine(config)
    # In a log or an issue report, lines need not be folded at 80 columns.
    _print(results, message_console(stderr=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160))
    broken = [result.item for result in results if result.needed and result.state != "ok"]
    print(f"\nBroken: {', '.join(broken)}." if broken else "\nEverything required is installed.")
    return 1 if broken else 0


def examine(config: DoctorConfig) -> list[CheckResult]:
    """Run all checks of the report."""
    checks = [*check_core(), *check_devices(), check_head(config.head), *check_detector(), *check_extras()]
    try:
        data_folder = runtime.data_folder()
    except OSError as error:
        models = examine_models(config.models) if config.models else []
        return [*checks, *models, CheckResult("folders", "data folder", "broken", str(error))]
    return [*checks, *examine_models(config.models or data_folder), *check_encoders(data_folder), *check_folders()]


def check_core() -> list[CheckResult]:
    """Check Python and the main packages that flamejax requires."""
    results = [CheckResult("core", "python", "ok", f"{platform.python_version()} on {platform.platform()}", True)]
    for package in ("flamejax", *CORE):
        version = _version(package)
        # flamejax runs from a checkout without being installed.
        state: State = "ok" if version else "absent"
        results.append(CheckResult("core", package, state, version or "not installed", package != "flamejax"))
    return results


def check_devices() -> list[CheckResult]:
    """Check the devices of JAX."""
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a broken driver may raise any exception
        return [CheckResult("devices", "jax devices", "broken", " ".join(str(error).split()), True)]
    detail = f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"
    return [CheckResult("devices", "jax devices", "ok", detail, True)]


def check_head(path: Path | None) -> CheckResult:
    """Check that the head model loads, and describe it."""
    import flamejax

    def describe() -> str:
        head, file = flamejax.load_head(path), Path(path or open_head_path())
        return (
            f"{head.name} {head.version}, {head.licence}; {head.num_vertices} vertices, {head.num_betas} identity and "
            f"{head.num_expression} expression components; sha256 {head_digest(file)[:16]}; {file}"
        )

    return CheckResult.from_file("head", "head model", describe, needed=True)


def check_detector() -> list[CheckResult]:
    """Check the weights of the face detector, which the package ships."""
    from fitting.mediapipe_models import ASSETS

    results = []
    for file in (ASSETS / name for name in DETECTOR_MODELS):
        state: State = "ok" if file.is_file() else "absent"
        details = state == "ok" and f"{file.stat().st_size} bytes; sha256 {head_digest(file)[:16]}"
        results.append(CheckResult("detector", file.name, state, details or "install flamejax again", True))
    return results


def check_extras() -> list[CheckResult]:
    """Check the main packages of each optional extra."""
    results = []
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        installed = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
        advice = f"no {', '.join(missing)}: pip install 'flamejax[{extra}]'" if missing else ""
        state: State = "absent" if missing else "ok"
        results.append(CheckResult("extras", extra, state, "; ".join(part for part in (installed, advice) if part)))
    return results


def check_encoders(folder: Path) -> list[CheckResult]:
    """Check the image encoders, which are optional and which flamejax may not redistribute."""
    from models.encoders.files import TITLES, describe_encoder, encoder_path

    results = []
    for name, title in TITLES.items():
        path, item = encoder_path(name), f"{title} encoder"
        sources = [file for pattern in ENCODER_SOURCES[name] for file in find_files(folder, pattern)]
        if path.is_file():
            results.append(
                CheckResult.from_file("encoders", item, lambda: f"{describe_encoder(name, path)}; {path}")  # noqa: B023
            )
            continue
        detail = f"optional, {ENCODER_HOMES[name]}; then: flamejax convert FILE --to {name} (writes {path})"
        if sources:
            detail = f"found {sources[0]}; run: flamejax convert {sources[0]} --to {name}"
        results.append(CheckResult("encoders", item, "absent", detail))
    return results


def check_folders() -> list[CheckResult]:
    """Check that flamejax's data folder is writable."""
    folder = runtime.data_folder()
    source = "$FLAMEJAX_DATA" if os.environ.get("FLAMEJAX_DATA") else "default; set $FLAMEJAX_DATA to change it"
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    state: State = "ok" if writable else "broken"
    detail = f"{folder} ({source})" + ("" if writable else "; not writable: choose another, or change its permissions")
    return [CheckResult("folders", "data folder", state, detail)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print(results: Sequence[CheckResult], console: Console) -> None:
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    columns = (Column(name, overflow="fold") for name in ("", "item", "state", "detail"))
    table = Table(*columns, box=None, pad_edge=False)
    previous = ""
    for result in results:
        state = Text(result.state, style=colours[result.state])
        table.add_row(result.group if result.group != previous else "", result.item, state, result.detail)
        previous = result.group
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
