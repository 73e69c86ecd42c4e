"""The documentation: Python blocks run, commands are accepted, links and names exist, sentences are short."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
import tyro

import fitting
import flamejax
import sampling
from experiments import cli
from fitting.config import FitConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
PAGES = [ROOT / "README.md", DOCS / "quickstart.md", *HOW_TO]
"""Pages whose Python blocks are run and whose commands are parsed."""
SLOW_PAGES = {"rendering", "choose-a-method"}
"""Pages whose blocks are all slow: they compile many programs."""
BLOCK = re.compile(r"(<!-- test: slow -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LONG_SENTENCE, LONG_SHARE = 30, 0.03
FIT_STEPS = 8
SHORT_FIT = FitConfig(photometric_steps=FIT_STEPS)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    slow: bool


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    matches = BLOCK.findall(page.read_text())
    return [Block(language, text, bool(slow) or page.stem in SLOW_PAGES) for slow, language, text in matches]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files that the pages name: a photo, arrays to train on, and results of `reconstruct`."""
    from PIL import Image
    from skimage.data import astronaut

    folder = tmp_path_factory.mktemp("docs")
    Image.fromarray(astronaut()).save(folder / "portrait.jpg")
    rng = np.random.default_rng(0)
    sphere = trimesh.creation.icosphere(2, 0.1)
    head = flamejax.load_head()
    betas = rng.normal(size=(48, head.num_betas)).astype(np.float32)
    params = dataclasses.replace(flamejax.HeadParams.zeros(head, (48,)), betas=jnp.asarray(betas))
    people = jax.tree.map(lambda leaf: leaf[:8], params)
    scans = np.asarray(flamejax.vertices(head, people))
    arrays = {
        "points": rng.uniform((190, 80), (280, 190), (68, 2)),
        "faces": np.asarray(sphere.faces),
        "meshes": np.asarray(sphere.vertices) * rng.uniform(0.8, 1.2, (12, 1, 3)),
        "scans": scans + rng.normal(scale=3e-4, size=scans.shape).astype(np.float32),
        "subjects": np.arange(8) // 2,
        "betas": betas,
        "landmarks": np.asarray(flamejax.landmarks(head, params))[..., :2] * [1.0, -1.0],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    options = f"--method complete --num-samples 2 --iterations {FIT_STEPS}"
    photo, output = folder / "portrait.jpg", folder / "heads"
    assert cli.main(["reconstruct", str(photo), "--output", str(output), *options.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def cached_results() -> dict:
    """Results of the slow functions by their inputs: the pages fit the same photo with the same head."""
    return {}


@pytest.fixture
def quick_runs(folder, cached_results, monkeypatch) -> None:
    """Run in the folder, with few steps in fits and samplers; otherwise the pages' code runs unchanged."""

    def cache_results(module, name, key, **changes):
        function = getattr(module, name)

        def call(*args, **options):
            inputs = (name, *key(*args, **options))
            if inputs not in cached_results:
                cached_results[inputs] = function(*args, **(options | changes))
            return cached_results[inputs]

        monkeypatch.setattr(module, name, call)

    def photo_key(observation):
        return observation.image.shape, float(jnp.sum(observation.image)), float(jnp.sum(observation.occlusion_mask))

    def fit_key(model, observation):
        return model.head.num_betas, *photo_key(observation)

    def diversify_key(vae, model, fit, observation, key, num_samples, config=None):
        return model.head.num_betas, *photo_key(observation)

    few_steps = sampling.DiversifyConfig(iterations=4)
    cache_results(fitting, "load_local_model", lambda head: (head.name, head.num_betas))
    cache_results(fitting, "prepare", lambda head, local: (head.name, local.num_shape, local.num_betas))
    cache_results(fitting, "auto_masks", lambda head, observation: (head.name, *photo_key(observation)))
    cache_results(fitting, "fit", fit_key, config=SHORT_FIT)
    cache_results(sampling, "diversify", diversify_key, num_samples=4, config=few_steps)
    monkeypatch.chdir(folder)


def run_blocks(page: Path, slow: bool) -> dict:
    """Run the Python blocks of a page one after the other. Returns their variables."""
    variables: dict = {}
    for number, block in enumerate(blocks(page)):
        if block.language == "python" and (slow or not block.slow):
            exec(compile(block.text, f"{page_name(page)}, block {number}", "exec"), variables)
    return variables


def pages_with_python(slow: bool) -> list[Path]:
    """Return the pages with quick Python blocks, or with slow ones."""
    return [page for page in PAGES if any(b.language == "python" and b.slow == slow for b in blocks(page))]


@pytest.mark.parametrize("page", pages_with_python(slow=False), ids=page_name)
def test_python_blocks_run(page, quick_runs):
    variables = run_blocks(page, slow=False)
    check = CHECKS.get(page.stem)
    if check is not None:
        check(variables)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_python(slow=True), ids=page_name)
def test_slow_python_blocks_run(page, quick_runs):
    variables = run_blocks(page, slow=True)
    if page.stem in SLOW_PAGES and page.stem in CHECKS:
        CHECKS[page.stem](variables)


def check_fit(names: dict) -> None:
    np.testing.assert_allclose(names["vertices"], names["fit"].vertices, atol=1e-5)
    assert names["flame"].betas.shape[-1] == names["head"].num_betas


def check_rendering(names: dict) -> None:
    assert abs(names["with_outline"]).max() > 0 and abs(names["without"]).max() == 0
    assert names["errors"][-1] < 0.5 * names["errors"][0]
    assert float(names["depth"].min()) == pytest.approx(0.5)
    assert names["images"].shape == (3, 64, 64, 4)
    alpha = np.asarray(names["profile"][..., 3]) > 0.5
    rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
    assert 180 < np.ptp(rows) < 240 and columns[0] > 10 and columns[-1] < 245  # the head fills the picture
    np.testing.assert_allclose(0.1 * names["pose"]["shift"], [0.02, -0.01], atol=3e-3)
    assert float(jnp.exp(names["pose"]["log_zoom"])) == pytest.approx(1.1, abs=0.02)


def check_detector(names: dict) -> None:
    confidence = names["observation"].confidence[0]
    assert (confidence[:17] == 0).all() and confidence[17:].max() > 0.8
    again = flamejax.load_head("ibug_head.npz")
    own, calibrated = names["ibug_head"].landmark_embedding.barycentric, names["head"].landmark_embedding.barycentric
    assert again.dense is None and not np.array_equal(own, calibrated)
    np.testing.assert_array_equal(again.landmark_embedding.barycentric, own)


def check_head_model(names: dict) -> None:
    assert Path("mine.npz").is_file() and names["again"].num_betas == 5


def check_results(names: dict) -> None:
    saved = names["faces"][0].fit.vertices
    np.testing.assert_allclose(names["vertices"], saved, atol=1e-4)


CHECKS = {
    "reconstruct-photos": check_fit,
    "rendering": check_rendering,
    "own-detector": check_detector,
    "own-head-model": check_head_model,
    "read-results": check_results,
}
"""Page -> check of the variables after its blocks have run."""


class Parsed(BaseException):
    """Raised in place of running a command whose options were accepted."""


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks that call a command of ours."""
    lines = [
        line.split(" #")[0].strip().removeprefix(".venv/bin/")
        for block in blocks(page)
        if block.language in ("", "bash", "sh", "console")
        for line in block.text.splitlines()
    ]
    return [line for line in lines if re.match(r"flamejax\b|python -m (experiments|flamejax|tools)\b", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=page_name)
def test_commands_are_accepted(page, monkeypatch, capsys):
    parse = tyro.cli

    def parse_only(*args, **options):
        parse(*args, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_only)
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "flamejax":
            main, args = cli.main, words[1:]
        else:
            main, args = module_main(words[2]), words[3:]
        try:
            status = main(args)
        except (Parsed, SystemExit) as end:
            status = "accepted" if isinstance(end, Parsed) or end.code == 0 else end.code
        assert status == "accepted", f"{page_name(page)}: {command}\n{''.join(capsys.readouterr())}"


def module_main(name: str):
    """Return the function that `python -m NAME` calls."""
    module = importlib.import_module(name)
    return module.main if inspect.isfunction(getattr(module, "main", None)) else module_main(f"{name}.__main__")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=page_name)
def test_links_to_files_exist(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 500


def sentences(page: Path) -> list[str]:
    """Return the sentences of a page, without code, tables, headings and addresses of links."""
    text = BLOCK.sub("\n\n", page.read_text())
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(\||#|!\[).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"`[^`]*`", "code", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    return [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?:;])\s+", paragraph) if part.split()]


def test_sentences_of_instructions_are_short():
    all_sentences = [(page_name(page), part) for page in PAGES for part in sentences(page)]
    long = [(name, part) for name, part in all_sentences if len(part.split()) > LONG_SENTENCE]
    assert len(long) <= LONG_SHARE * len(all_sentences), long


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project["version"] == flamejax.__version__ == newest.group(1)


def public_names() -> set[str]:
    """Return the public names that tests/surface.txt lists, as dotted paths."""
    lines = (ROOT / "tests" / "surface.txt").read_text().splitlines()
    return {line.split("(")[0] for line in lines} - {"flamejax.__version__"}


def test_the_site_builds_and_has_every_public_name(tmp_path, monkeypatch):
    """Strictly: a broken link, a missing anchor or a page outside the navigation is an error."""
    pytest.importorskip("mkdocstrings")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.chdir(ROOT)
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    inventory = (tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)[-1]
    documented = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for page in (DOCS / "api").glob("*.md"):  # what static analysis does not see is written there by hand
        documented |= set(re.findall(r"^- `([\w.]+)`", page.read_text(), re.MULTILINE))
    assert not public_names() - documented
    loaded = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"https?://"
    assert not [page for page in (tmp_path / "site").rglob("*.html") if re.search(loaded, page.read_text())]
