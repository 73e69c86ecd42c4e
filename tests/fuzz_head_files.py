"""Fuzzing of model files: `python -m tests.fuzz_head_files --edits 10000` damages small valid files and reads them.

Every damaged file must be read, or raise a HeadFileError, within seconds, within one additional gigabyte, and without
running code. The process limits its address space. An audit hook detects any attempt to start a program, to use the
network, or to import or compile code while a file is read.
"""

import argparse
import collections
import dataclasses
import io
import json
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import flamejax
from flamejax.head import FlameFiles, HeadFileError
from flamejax.head.formats import read_head, read_obj, write_head
from flamejax.head.formats.ict_files import read_indices
from tests import flame_format
from tests.flame_format import SMALL

EXTRA_MEMORY = 2**30
MAX_SECONDS = 20
FORBIDDEN = ("os.", "subprocess.", "socket.", "import", "exec", "compile", "ctypes.", "pty.", "shutil.", "marshal.")
ALLOWED = ("os.listdir", "os.scandir")
SMALL_FLAME = FlameFiles(num_betas=SMALL["betas"])


@dataclasses.dataclass(frozen=True)
class FuzzSource:
    """A valid file and the function that reads it."""

    file: Path
    read: Callable[[], object]
    repack: bool = False
    """Damage a member of the archive and repack it, since the archive's checksums would detect the damage."""


def write_sources(folder: Path) -> dict[str, FuzzSource]:
    """Write valid files. Returns format -> source."""
    flame = flame_format.write_folder(folder / "flame")
    flame_folder = flame.parent
    flame_format.write_masks(flame_folder, 50)
    flame_format.write_texture(flame_folder, 4, 3, SMALL["triangles"])
    faces = flame_format.synthetic_flame(0, **SMALL)["f"]
    lines = ["v 0 0 0"] * 50 + ["vt 0.5 0.25"] * 50 + ["f " + " ".join(f"{a + 1}/{a + 1}" for a in f) for f in faces]
    (flame_folder / "head_template.obj").write_text("\n".join(lines))
    old = flame_format.write_folder(folder / "old")
    flame_format.write_model(old, flame_format.synthetic_flame(0, **SMALL), protocol=0)
    (old.parent / "landmark_embedding.npy").unlink()
    flame_format.write_landmarks(old.parent, flame_format.synthetic_landmarks(0, SMALL["triangles"]), both=False)
    new = flame_format.write_folder(folder / "new")
    new.write_bytes(pickle.dumps(flame_format.synthetic_flame(0, **SMALL), 5))
    deca = Path(__file__).parent / "golden/deca_landmark_embedding.npy"
    torch = flame_format.write_folder(folder / "torch", SMALL | {"triangles": 9976})
    shutil.copy(deca, torch.parent / "landmark_embedding.npy")
    npz = flame_format.write_folder(folder / "npz", name="flame2023.pkl").with_suffix(".npz")
    np.savez_compressed(npz, **flame_format.synthetic_flame(0, **SMALL))
    npz.with_suffix(".pkl").unlink()
    own, stored = folder / "own.npz", folder / "stored.npz"
    arrays = read_head(flame, SMALL_FLAME)
    write_head(own, arrays)
    np.savez(stored, format_version=np.int32(1), **arrays)
    albedo = flame_format.write_folder(folder / "albedo")
    flame_format.write_albedo(albedo.parent, 4, 3)
    flame_format.write_template(albedo.parent, flame_format.synthetic_flame(0, **SMALL))
    pickled = flame_format.write_folder(folder / "numpy 2.3")
    model = flame_format.synthetic_flame(0, **SMALL)
    model["shapedirs"] = np.ascontiguousarray(model["shapedirs"].swapaxes(0, 1)).swapaxes(0, 1)
    pickled.write_bytes(pickle.dumps(model, 5))
    indices = folder / "vertex_indices.json"
    indices.write_text(json.dumps({"expressions": ["jawOpen", "x_L"], "idx_to_landmark_verts": [*range(68)]}))

    def load(model: Path) -> Callable[[], object]:
        return lambda: flamejax.load_head(model, flame=SMALL_FLAME)

    template = flame_folder / "head_template.obj"
    return {
        "pickle, Python 2": FuzzSource(flame, load(flame)),
        "pickle, protocol 0": FuzzSource(old, load(old)),
        "pickle, protocol 5": FuzzSource(new, load(new)),
        "pickle, NumPy 2.3": FuzzSource(pickled, load(pickled)),
        "pickle, static landmarks": FuzzSource(old.parent / "flame_static_embedding.pkl", load(old)),
        "pickle, masks": FuzzSource(flame_folder / "FLAME_masks.pkl", load(flame)),
        "npy, landmarks": FuzzSource(flame_folder / "landmark_embedding.npy", load(flame)),
        "npy, torch tensors": FuzzSource(torch.parent / "landmark_embedding.npy", load(torch)),
        "npz, texture": FuzzSource(flame_folder / "FLAME_texture.npz", load(flame)),
        "npz, texture, repacked": FuzzSource(flame_folder / "FLAME_texture.npz", load(flame), True),
        "npz, albedo, repacked": FuzzSource(albedo.with_name("FLAME_albedo_from_BFM.npz"), load(albedo), True),
        "npz, FLAME": FuzzSource(npz, load(npz)),
        "npz, FLAME, repacked": FuzzSource(npz, load(npz), True),
        "npz, flamejax": FuzzSource(own, load(own)),
        "npz, flamejax, stored": FuzzSource(stored, load(stored)),
        "npz, flamejax, repacked": FuzzSource(own, load(own), True),
        "obj, template": FuzzSource(template, load(flame)),
        "obj mesh": FuzzSource(template, lambda: read_obj(template)),
        "json, ICT-FaceKit": FuzzSource(indices, lambda: read_indices(indices)),
    }


def structural_positions(data: bytes) -> np.ndarray:
    """Returns positions that are more likely structure than numbers: near text, the beginning and the end."""
    codes = np.frombuffer(data, np.uint8)
    text = (codes >= 32) & (codes < 127)
    near = np.convolve(np.convolve(text, np.ones(6), "same") >= 4, np.ones(9), "same") > 0
    near[:256] = near[-256:] = True
    return np.flatnonzero(near)


def damage_member(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage one member of an archive and update the checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        target = rng.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, damage(old.read(name), rng) if name == target else old.read(name))
    return out.getvalue()


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Apply one to eight edits (change, insert or delete bytes, make a number extreme), or truncate the file."""
    out, positions = bytearray(data), structural_positions(data)
    if rng.random() < 0.05:
        return bytes(out[: rng.integers(len(out))])
    for _ in range(rng.integers(1, 9)):
        at = int(rng.choice(positions) if rng.random() < 0.7 else rng.integers(len(out)))
        at = min(at, max(len(out) - 1, 0))
        kind = rng.random()
        if kind < 0.6:
            out[at] = rng.integers(256)
        elif kind < 0.75:
            out[at] ^= 1 << rng.integers(8)
        elif kind < 0.85:
            out[at:at] = rng.bytes(int(rng.integers(1, 5)))
        elif kind < 0.95:
            del out[at : at + int(rng.integers(1, 5))]
        else:
            out[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80"])
    return bytes(out)


class AuditHook:
    """An audit hook that refuses and records forbidden events while a file is read."""

    def __init__(self) -> None:
        self.reading, self.event = False, ""
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.reading and event.startswith(FORBIDDEN) and event not in ALLOWED:
            self.event = f"{event} {str(args)[:100]}"
            raise PermissionError(self.event)


def limit_memory() -> None:
    """Limit the process to one additional gigabyte from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + EXTRA_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(edits: int, seed: int, report: Callable[[str], None]) -> int:
    """Read `edits` damaged files, evenly over the formats. Returns the number of misbehaviours."""
    rng = np.random.Generator(np.random.PCG64(seed))
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        sources = write_sources(Path(name))
        for source in sources.values():  # triggers late imports and compilation
            source.read()
        hook = AuditHook()
        limit_memory()
        signal.signal(signal.SIGALRM, _too_long)
        for number, (form, source) in enumerate(sources.items()):
            file, content = source.file, source.file.read_bytes()
            outcomes, slowest = collections.Counter(), 0.0
            for _ in range(edits // len(sources) + (number < edits % len(sources))):
                data = damage_member(content, rng) if source.repack else damage(content, rng)
                file.write_bytes(data)
                start = time.perf_counter()
                outcome = read_once(source, hook)
                slowest = max(slowest, time.perf_counter() - start)
                outcomes[outcome if outcome in ("read", "refused") else "bad"] += 1
                if outcome not in ("read", "refused"):
                    bad += 1
                    report(f"  {form}: {outcome}")
                    Path(tempfile.gettempdir(), f"fuzz-{seed}-{bad}{file.suffix}").write_bytes(data)
            file.write_bytes(content)
            report(f"{form}: {dict(outcomes)}, slowest {slowest:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report(f"{edits} edits, {bad} misbehaved; peak resident memory {peak / 2**10:.0f} MiB")
    return bad


def read_once(source: FuzzSource, hook: AuditHook) -> str:
    """Read a source. Returns "read", "refused", or a description of the misbehaviour."""
    hook.reading, hook.event = True, ""
    signal.alarm(MAX_SECONDS)
    try:
        source.read()
        outcome = "read"
    except HeadFileError as error:
        outcome = "refused" if str(error).strip() else "an empty message"
    except BaseException as error:  # any other exception is a bug
        outcome = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        hook.reading = False
    return f"tried {hook.event}" if hook.event else outcome


def _too_long(*_: object) -> None:
    raise TimeoutError(f"longer than {MAX_SECONDS} s")


def main() -> int:
    """Fuzz. Returns exit status 1 if any file misbehaved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")  # a warning from our own code counts as misbehaviour
    return 1 if fuzz(options.edits, options.seed, lambda text: print(text, flush=True)) else 0


if __name__ == "__main__":
    sys.exit(main())
