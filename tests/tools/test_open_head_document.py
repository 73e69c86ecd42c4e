"""The open head's page: its tables are filled, and its facts agree with the shipped file."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from flamejax.head import REGION_NAMES, HeadParams, load_head, open_head_path
from tools.open_head import document, facts, studio
from tools.open_head.pictures import PAINT, PICTURES

RERUN = "docs/results/open-head.md is out of date: run `python -m tools.open_head.document` and commit what it writes"
PAGE = (document.DOCS / document.PAGE).read_text()


@pytest.fixture(scope="module")
def head():
    return load_head()


def test_page_names_the_shipped_file():
    digest = hashlib.sha256(open_head_path().read_bytes()).hexdigest()
    assert digest in document.between(PAGE, "facts"), RERUN


def test_page_states_the_facts_of_the_shipped_file(head):
    assert document.between(PAGE, "facts") == facts.facts(head, open_head_path()), RERUN


def test_page_shows_all_pictures_in_order():
    shown = re.findall(r"!\[[^]]+\]\(\.\./images/open-head/([a-z-]+)\.jpg\)", PAGE)
    assert shown == list(PICTURES)
    assert PAGE.count("![") == len(shown)


def test_all_regions_have_a_colour():
    assert sorted(PAINT) == sorted(REGION_NAMES)


def test_variance_shares_sum_to_one(head):
    shares = facts.variance_shares(head)
    assert shares.shape == (head.num_betas,)
    assert np.isclose(shares.sum(), 1) and (shares > 0).all() and shares[0] == shares.max()


def test_template_has_the_size_of_a_head(head):
    sizes = facts.template_sizes_mm(head)
    assert 180 < sizes["chin (landmark 8) to crown"] < 260
    assert 120 < sizes["head breadth, without ears"] < 190
    assert 160 < sizes["head length, between the brows to the back"] < 230
    assert 55 < sizes["between the eyeballs' middles"] < 72


def test_fill_replaces_only_its_block():
    page = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb <!-- y:begin --><!-- y:end -->"
    once = document.fill(page, "x", "new\n| 1 |\n")
    assert once == "a\n<!-- x:begin -->\nnew\n| 1 |\n<!-- x:end -->\nb <!-- y:begin --><!-- y:end -->"
    assert document.fill(once, "x", "new\n| 1 |") == once
    assert document.between(once, "x") == "new\n| 1 |"


@pytest.mark.parametrize(
    "page", ["", "<!-- x:begin -->", "<!-- x:end --> <!-- x:begin -->", 2 * "<!-- x:begin --><!-- x:end -->"]
)
def test_damaged_markers_are_refused(page):
    with pytest.raises(ValueError, match="x:begin"):
        document.fill(page, "x", "new")


def test_markdown_table_escapes_and_aligns_cells():
    rows = [{"measure": "a|b", "ours": 1.23456, "n": 3}, {"measure": "c\nd", "ours": None, "ok": True}]
    assert facts.markdown_table(rows).splitlines() == [
        "| measure | ours | n | ok |",
        "|---|---:|---:|---|",
        "| a\\|b | 1.235 | 3 | - |",
        "| c d | - | - | yes |",
    ]


def test_numbers_are_written_without_exponents():
    row = {"a": 123456.0, "b": float("nan"), "c": 0.00012, "d": 12.0, "e": -143.52}
    assert facts.markdown_table([row]).splitlines()[-1] == "| 123456 | - | 0.00012 | 12 | -143.5 |"


def test_command_fills_page_and_tables(tmp_path):
    source = tmp_path / "rows.json"
    source.write_text(json.dumps([{"size": "head breadth", "published": 153.0, "ours": 152.1}]))
    assert document.main(["--output", str(tmp_path), "--no-pictures", "--anthropometry", str(source)]) == 0
    page = (tmp_path / document.PAGE).read_text()
    assert "| head breadth | 153 | 152.1 |" in document.between(page, "anthropometry")
    for name in ("generalisation", "landmarks"):
        assert document.between(page, name) == document.between(PAGE, name)
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", "not json"])
def test_malformed_rows_are_refused(tmp_path, content, capsys):
    source = tmp_path / "rows.json"
    source.write_text(content)
    assert document.main(["--output", str(tmp_path), "--no-pictures", "--landmarks", str(source)]) == 2
    assert "error" in capsys.readouterr().err
    assert not (tmp_path / document.PAGE).exists()


def test_unknown_picture_is_refused(tmp_path, capsys):
    assert document.main(["--output", str(tmp_path), "--only", "nose"]) == 2
    assert "motion" in capsys.readouterr().err


def test_a_rotated_head_stays_inside_the_picture(head):
    scene = studio.HeadStudio.for_head(head)
    one = HeadParams.zeros(head, (1,))
    for yaw in (-90.0, 0.0, 35.0, 180.0):
        view = studio.StudioView((40, 50), yaw=yaw)
        points = scene.project_landmarks(one, view)
        assert (points > 0).all() and (points < [[[40, 50]]]).all()


@pytest.mark.slow
def test_a_picture_has_a_head_in_its_middle_and_grey_around(head):
    picture = studio.HeadStudio.for_head(head).render(HeadParams.zeros(head, (1,)), studio.StudioView((40, 50)))[0]
    assert picture.shape == (50, 40, 3)
    grey = round(255 * studio.BACKGROUND)
    assert (picture[[0, 0, -1, -1], [0, -1, 0, -1]] == grey).all()  # the corners are background
    assert (picture[25, 20] != grey).any()


def test_pictures_stay_small():
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    assert len(studio.jpeg(Image.fromarray(noise))) <= 2 * studio.MAX_BYTES
    plain = studio.blank(300, 200)
    assert len(studio.jpeg(plain)) < 10_000 and studio.jpeg(plain) == studio.jpeg(plain)
