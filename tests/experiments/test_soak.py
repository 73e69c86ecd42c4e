"""The soak test's own files, and a short soak of the real command."""

import json

import numpy as np
import pytest

from experiments.soak import command, files
from flamejax.io.images import ImageError, load_image


def test_every_kind_of_broken_file_is_written_and_only_no_face_can_be_read(tmp_path):
    portrait = np.random.default_rng(0).integers(0, 256, (300, 320, 3), np.uint8)
    photos, broken = files.write_photos(tmp_path, portrait, 40, 17 / 40, seed=0)
    assert len(photos) == 23 and {path.stem.split("_", 1)[1] for path in broken} == set(files.BROKEN)
    assert all(load_image(path).shape == (files.SIDE, files.SIDE, 3) for path in photos)
    assert len({path.read_bytes() for path in photos}) == len(photos)
    for path in broken:
        if path.is_fifo():  # opening it would wait for a writer
            continue
        if "no_face" in path.name:
            load_image(path)
        else:
            with pytest.raises((ImageError, OSError)):
                load_image(path)


def test_a_result_that_is_written_again_is_counted(tmp_path):
    watch = command.Watch()
    for turn in range(2):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "metrics.json").write_text(json.dumps(turn))
        (tmp_path / ".writing-b").mkdir(exist_ok=True)
        (tmp_path / ".writing-b" / "metrics.json").write_text("0")
        command._observe_results(tmp_path, watch)
        assert list(watch.complete) == ["a"] and watch.repeated == ({"a"} if turn else set())


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_when_the_command_is_killed_and_resumed(tmp_path):
    counts_file = tmp_path / "counts.json"
    arguments = ["--files", "40", "--broken", "0.425", "--kills", "2", "--workdir", str(tmp_path / "soak")]
    assert command.main([*arguments, "--json", str(counts_file)]) == 0
    counts = json.loads(counts_file.read_text())
    assert counts["photos"] == 23 and counts["kills"] == 2 and not any(counts[name] for name in command.FAULTS)
