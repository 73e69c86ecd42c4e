"""Damaged and hostile output folders are read, refused and resumed. `python -m tests.fuzz_results` tests more."""

import os
import sys

import pytest

from tests.fuzz_results import fuzz

FOLDERS = int(os.environ.get("FLAMEJAX_FUZZ_EDITS", "200"))
"""Number of damaged results; 2,000 take some minutes."""


@pytest.mark.skipif(sys.platform != "linux", reason="makes pipes and sockets")
def test_damaged_results_are_refused_or_done_again():
    problems, counts = fuzz(FOLDERS, seed=1, write_share=1.0 if FOLDERS > 200 else 0.1)
    print(counts)
    assert not problems, "\n".join(problems)
    assert counts["folders"] == FOLDERS and counts["load_results of a face: refused"] > FOLDERS / 5
