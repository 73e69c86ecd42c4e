"""Fuzzing of output folders: `python -m tests.fuzz_results --folders 2000` damages results of a fake run and uses them.

Each result gets one to three of the damages below: entries of its JSON files that are missing, of another type, huge,
deep, not finite or with hostile paths; files that are cut off, replaced by links, pipes or folders; hostile names of
folders. Then the folder is read by `load_results` and the viewer's explorer, and resumed. Nothing but a ResultError may
be raised, nothing outside the output folder may change, no file of the user's may be lost, and in the end each photo
must have a complete result.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.reconstruct.pipeline import Pipeline
from experiments.reconstruct.store import Store
from experiments.view.explorer import Explorer
from flamejax.io import ResultError, load_results
from tests.experiments.fakes import HEAD, IDENTITY, reconstruct, write_photo
from tests.experiments.results import KnownTools, write_networks

PER_ROUND = 20
MAX_SECONDS = 120
"""Longer rounds have blocked."""
MAX_MEMORY = 16 * 2**30
"""Bytes of address space, when run as a command; libraries reserve most of it."""
NOTE = "a note of the user's"
JSON_FILES = ("metrics.json", "camera.json", "landmarks.json")
FOLDER_NAMES = ("-rf", "a\nb", "\x1b[31mred", "<b>bold", "%2e%2e", "CON", "x" * 250, "~", "$HOME", "\udcff", "'\"&")


@dataclasses.dataclass(frozen=True)
class World:
    """A folder with photos, a result to copy, and a tree that must not change."""

    root: Path
    template: Path
    networks: tuple[Path, Path]
    rng: random.Random

    @property
    def victim(self) -> Path:
        return self.root / "victim"


def make_world(root: Path, seed: int) -> World:
    """Write the photo, a result with two hypotheses, and a tree of the same content that must not change."""
    networks = write_networks(root / "networks")
    write_photo(root / "first" / "a.png")
    options = {"local": str(networks[0]), "mesh_vae": networks[1], "method": "complete", "num_samples": 2}
    assert reconstruct(root / "first", root / "template", KnownTools(*networks), **options) == 0
    shutil.copytree(root / "template" / "a", root / "victim" / "a")
    (root / "victim" / "note.txt").write_text(NOTE)
    (root / "victim" / "a.jpg").write_text(NOTE)
    (root / "victim" / ".writing-0123456789abcdef").mkdir()
    return World(root, root / "template" / "a", networks, random.Random(seed))


def hostile_value(world: World) -> Any:
    deep: Any = []
    for _ in range(world.rng.choice([30, 40, 400])):
        deep = [deep]
    victim = str(world.victim / "a")
    return world.rng.choice(
        [None, True, 0, -1, 3, 10**9, 2**63, 10**30, 0.5, -1e300, "", "..", "../victim", "../victim/a", victim,
         "/dev/zero", "a/../../victim/a", "\0", "\x1b[31m", "\ud800", "x" * 100_000, "<script>alert(1)</script>",
         "[red]", "nan", [], {}, [None], {"": None}, deep, {"a": deep}, [[1, 2], [3]], [1e300] * 68, "0" * 64, "auto",
         "none /dev/zero 0123"]
    )  # fmt: skip


def json_file(world: World, folder: Path) -> Path:
    """Return one of the JSON files. Raises: ValueError, an earlier damage has replaced it."""
    path = folder / world.rng.choice(JSON_FILES)
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        raise ValueError
    return path


def change_entries(world: World, folder: Path) -> None:
    """Delete or replace entries of a JSON file."""
    path = json_file(world, folder)
    record = json.loads(path.read_text())
    for _ in range(world.rng.choice([1, 1, 3])):
        parent = record
        while True:
            key = world.rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if not isinstance(parent[key], dict | list) or not parent[key] or world.rng.random() < 0.5:
                break
            parent = parent[key]
        if isinstance(parent, dict) and world.rng.random() < 0.3:
            del parent[key]
        else:
            parent[key] = hostile_value(world)
        if not record:
            break
    path.write_text(json.dumps(record))


def replace_text(world: World, folder: Path) -> None:
    """Replace or cut off the text of a JSON file."""
    path = json_file(world, folder)
    text = path.read_text()
    numbers = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "-1e400"]
    replaced = text.replace(world.rng.choice(["1,", "0,", ": "]), world.rng.choice(numbers) + ",", 1)
    texts = ["", "[" * 100_000, '{"a":' * 50_000, "null", "[]", "{}", "\ufeff" + text, text[: len(text) // 2], replaced]
    path.write_text(world.rng.choice([*texts, text + text, '{"format_version": 1, "x": "' + "x" * 9_000_000 + '"}']))


def damage_file(world: World, folder: Path) -> None:
    """Cut off, empty, change or delete a file, or replace it by something else."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return
    path = world.rng.choice(files)
    data = bytearray(path.read_bytes())
    ways = "cut cut empty flip flip delete folder link outside loop fifo socket device"
    way = world.rng.choice(ways.split())
    if way == "cut":
        path.write_bytes(data[: world.rng.randrange(len(data) + 1)])
        return
    if way == "flip" and data:
        for _ in range(8):
            data[world.rng.randrange(len(data))] ^= 1 << world.rng.randrange(8)
        path.write_bytes(data)
        return
    path.unlink()
    if way == "empty":
        path.touch()
    elif way == "folder":
        (path / "inner").mkdir(parents=True)
    elif way in ("link", "outside", "loop", "device"):
        inside = world.victim / "a" / path.name
        path.symlink_to({"link": "gone", "outside": inside, "loop": path.name, "device": "/dev/zero"}[way])
    elif way == "fifo":
        os.mkfifo(path)
    elif way == "socket":
        with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):  # its path may be too long
            server.bind(str(path))


def link_folder(world: World, folder: Path) -> None:
    """Replace the folder or its hypotheses by a link."""
    path = world.rng.choice([folder, folder / "hypotheses", folder / "hypotheses" / "00"])
    target = world.victim / "a" / path.relative_to(folder)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        path.symlink_to(world.rng.choice([target, target, world.victim, "gone", path.name]))


def add_note(world: World, folder: Path) -> None:
    """Put a user's own file into the folder."""
    path = folder / world.rng.choice(["", "hypotheses", "mine/deep", "hypotheses/00"]) / "note.txt"
    if folder.is_symlink() or any(parent.is_symlink() for parent in path.parents):
        return
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTE)


DAMAGES: dict[Callable[[World, Path], None], int] = {
    change_entries: 10, replace_text: 4, damage_file: 8, link_folder: 2, add_note: 2
}  # fmt: skip
"""Damage -> weight."""


def damage_lists(world: World, output: Path) -> None:
    """Damage files about all photos."""
    for name in ("run.json", "summary.jsonl", "failures.jsonl", "index.html", "contact_sheet.png"):
        texts = ["[" * 100_000, '{"photo": "a", "sta', '{"photo": 1, "stage": [], "reason": {}}\n[]\n\0', "{}"]
        if world.rng.random() < 0.3:
            (output / name).unlink(missing_ok=True)
            way = world.rng.choice([*texts, "link", "fifo"])
            if way == "link":
                (output / name).symlink_to(world.victim / "note.txt")
            elif way == "fifo":
                os.mkfifo(output / name)
            else:
                (output / name).write_text(way)
    if world.rng.random() < 0.2:
        shutil.rmtree(output / "thumbnails")
        (output / "thumbnails").symlink_to(world.victim)


def make_round(world: World, output: Path, photos: Path, count: int) -> None:
    """Write an output folder of `count` damaged results, and their photos."""
    (output / "thumbnails").mkdir(parents=True)
    shutil.copy(world.template.parent / "run.json", output / "run.json")
    names = [f"p{i:02d}" for i in range(count)]
    for i, name in zip(world.rng.sample(range(count), 2), world.rng.sample(FOLDER_NAMES, 2), strict=True):
        names[i] = name
    for i, name in enumerate(names):
        folder = output / name
        shutil.copytree(world.template, folder)
        photo = write_photo(photos / f"p{i:02d}.png", colour=100 + i)
        record = json.loads((folder / "metrics.json").read_text())
        record |= {"photo": str(photo), "photo_path": str(photo), "name": name}
        record["photo_sha256"] = hashlib.sha256(photo.read_bytes()).hexdigest()
        (folder / "metrics.json").write_text(json.dumps(record))
        whole = (world.template.parent / "thumbnails" / "a.jpg").read_bytes()
        thumbnail = world.rng.choice([b"", whole[:99], whole[:-99]]) if world.rng.random() < 0.02 else whole
        (output / "thumbnails" / f"{name[:200]}.jpg").write_bytes(thumbnail)
        for damage in world.rng.choices(list(DAMAGES), DAMAGES.values(), k=world.rng.choice([1, 1, 2, 3])):
            with contextlib.suppress(Exception):
                damage(world, folder)  # an earlier damage may leave nothing to damage
    damage_lists(world, output)


def snapshot(*folders: Path) -> dict[str, Any]:
    """Return path -> type, time and content of everything in the folders."""
    tree = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            tree[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return tree


def notes(output: Path) -> set[str]:
    files = (path for path in output.rglob("note.txt") if path.is_file() and not path.is_symlink())
    return {str(path) for path in files if path.read_text() == NOTE}


def use(world: World, output: Path, photos: Path, write: bool, counts: collections.Counter) -> list[str]:
    """Read and resume a folder. Returns what went wrong."""
    problems, before, own = [], snapshot(world.victim, photos), notes(output)

    def attempt(kind: str, action: Callable[[], object]) -> None:
        try:
            action()
            counts[f"{kind}: fine"] += 1
        except ResultError:
            counts[f"{kind}: refused"] += 1
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            problems.append(f"{kind}: {type(error).__name__}: {str(error)[:200]} ({frame.filename}:{frame.lineno})")

    attempt("load_results of the folder", lambda: load_results(output))
    names = []
    for entry in sorted(output.iterdir()):
        if entry.name != "thumbnails" and entry.is_dir():
            names.append(entry.name)
            attempt("load_results of a face", lambda entry=entry: load_results(entry))
    attempt("listing", lambda: names.extend(Explorer(output, HEAD, IDENTITY).names))
    explorer = Explorer(output, HEAD, IDENTITY)
    for name in explorer.names:
        attempt("viewing a face", lambda name=name: explorer.face(name))
    options = {"local": str(world.networks[0]), "resume": True}
    status: list[int] = []
    tools = KnownTools(*world.networks)
    without_writing = contextlib.nullcontext() if write else mock.patch.object(Pipeline, "run", lambda *a: None)
    kind = "resuming" if write else "planning"
    with without_writing:
        attempt(kind, lambda: status.append(reconstruct(photos, output, tools, **options)))
    if write and status:
        counts["photos done again"] += len(tools.observed)
        done = {(metrics["photo_path"], metrics["face"]) for metrics in Store(output).results().values()}
        for photo in photos.iterdir():
            if (str(photo), 0) not in done:
                problems.append(f"{photo.name} has no complete result: {sorted(done)}")
    if snapshot(world.victim, photos) != before:
        problems.append("something outside the output folder changed")
    problems += [f"{note} is lost" for note in own - notes(output)]
    return problems


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("blocked")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def fuzz(folders: int, seed: int, write_share: float = 1.0) -> tuple[list[str], collections.Counter]:
    """Damage and use this many results. write_share: part of the output folders in which photos are done again.

    Returns what went wrong, and counts of outcomes.
    """
    problems, counts = [], collections.Counter()
    heads = [mock.patch(f"{module}.load_head", lambda path: (HEAD, IDENTITY)) for module in
             ("experiments.reconstruct.command", "experiments.results")]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, heads[0], heads[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = make_world(Path(folder).resolve(), seed)
        rounds = -(-folders // PER_ROUND)
        for i in range(rounds):
            output, photos = world.root / f"out{i}", world.root / f"in{i}"
            make_round(world, output, photos, PER_ROUND)
            write = int((i + 1) * write_share) > int(i * write_share)
            with time_limit(MAX_SECONDS):
                problems += [f"round {i}: {problem}" for problem in use(world, output, photos, write, counts)]
            counts["folders"] += PER_ROUND
            shutil.rmtree(output)
            shutil.rmtree(photos)
    return problems, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    problems, counts = fuzz(options.folders, options.seed)
    print("\n".join(problems))
    for kind, count in sorted(counts.items()):
        print(f"{count:7} {kind}")
    print(f"{counts['folders']} damaged results, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
