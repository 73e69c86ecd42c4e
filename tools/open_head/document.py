"""Fill `docs/results/open-head.md` from the embedded head: pictures, facts, and tables of measurements.

python -m tools.open_head.document [--output docs] [--anthropometry FILE] ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.runtime import use_compilation_cache
from flamejax.files import write_bytes, write_text
from flamejax.head import load_head, open_head_path
from tools.open_head.facts import facts, markdown_table, read_rows
from tools.open_head.pictures import PICTURES
from tools.open_head.studio import HeadStudio, jpeg

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "results/open-head.md"
PICTURE_FOLDER = Path("images") / "open-head"
TABLES = ("anthropometry", "generalisation", "landmarks")


@dataclass(frozen=True)
class DocumentConfig:
    """Fill docs/results/open-head.md from the embedded head: pictures, facts, and tables of measurements."""

    output: Path = DOCS
    """The docs folder: the page is results/open-head.md below it; the pictures go to images/open-head/."""
    anthropometry: Path | None = None
    """JSON list of row objects for the table of that name. A table without a file stays as it is."""
    generalisation: Path | None = None
    """JSON list of row objects."""
    landmarks: Path | None = None
    """JSON list of row objects."""
    only: tuple[str, ...] = ()
    """Names of the pictures to make again, such as `motion`; all when left out."""
    pictures: bool = True
    """--no-pictures fills the page only."""


def fill(page: str, name: str, body: str) -> str:
    """Replace the text between `<!-- name:begin -->` and `<!-- name:end -->`.

    Raises:
        ValueError: the markers are missing, doubled or in the wrong order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{PAGE} must hold {begin} and, after it, {end}, each once.")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{body.strip()}\n{end}{rest.split(end)[1]}"


def between(page: str, name: str) -> str:
    """Return the text between the markers, stripped."""
    return page.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def write_page(config: DocumentConfig) -> Path:
    """Fill the page. Returns its path."""
    path = config.output / PAGE
    page = (path if path.exists() else DOCS / PAGE).read_text()
    page = fill(page, "facts", facts(load_head(), open_head_path()))
    for name in TABLES:
        source: Path | None = getattr(config, name)
        if source is not None:
            page = fill(page, name, markdown_table(read_rows(source)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def write_pictures(folder: Path, names: Sequence[str] = ()) -> None:
    """Make the pictures, or those named."""
    folder.mkdir(parents=True, exist_ok=True)
    studio = HeadStudio.for_head(load_head())
    for name in names or PICTURES:
        began = time.perf_counter()
        data = jpeg(PICTURES[name](studio))
        write_bytes(folder / f"{name}.jpg", data)
        print(f"{folder / name}.jpg: {len(data) / 1e3:.0f} kB in {time.perf_counter() - began:.0f} s", flush=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 if something is missing or malformed."""
    prog = "python -m tools.open_head.document"
    config = tyro.cli(DocumentConfig, args=None if args is None else list(args), prog=prog)
    unknown = sorted(set(config.only) - set(PICTURES))
    if unknown:
        print(f"error: no picture {', '.join(unknown)}; there are {', '.join(PICTURES)}.", file=sys.stderr)
        return 2
    use_compilation_cache()
    try:
        print(write_page(config))
        if config.pictures:
            write_pictures(config.output / PICTURE_FOLDER, config.only)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
