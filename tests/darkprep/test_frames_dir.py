"""`darkprep build --frames-dir`: decoded frames on another disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.command_line import SMALL, Call


def test_frames_are_stored_there_and_shown_by_status_and_verify(call: Call, small_data: Path):
    words = ("build", "--camera", "sony", "--root", small_data, "--quiet", *SMALL)

    assert call(*words, "--frames-dir", "frames", "--frames-budget", "50MB").exit_code == 0

    said = json.loads(call("status", "--json").stdout)["frames_elsewhere"]
    assert said["path"] == str(Path("frames").absolute())
    assert 0 < said["disk_bytes"] <= said["budget_bytes"] == 50_000_000
    assert "of 50 MB in" in call("status").stdout
    assert "3 shards and 9 frames checked, 0 damaged" in call("verify").stdout
    assert not Path("spool/frames").exists()


def test_a_damaged_frame_is_named_with_its_directory(call: Call, small_data: Path):
    words = ("build", "--camera", "sony", "--root", small_data, "--quiet", *SMALL)
    call(*words, "--frames-dir", "frames")
    chunk = next(Path("frames").glob("long-*/0.0.0"))
    chunk.write_bytes(bytes(chunk.stat().st_size))

    result = call("verify")

    assert result.exit_code == 1
    assert f"damaged frame {chunk.parent.absolute()}" in result.stdout


def test_a_file_is_refused_as_the_directory_of_frames(
    complaint: Callable[..., str], small_data: Path
):
    Path("frames").touch()
    words = ("build", "--camera", "sony", "--root", small_data, *SMALL)

    assert "is not a directory" in complaint(*words, "--frames-dir", "frames")
    assert not Path("spool").exists()


def test_a_budget_for_frames_needs_a_directory(complaint: Callable[..., str], small_data: Path):
    words = ("build", "--camera", "sony", "--root", small_data, *SMALL)

    said = complaint(*words, "--frames-budget", "50MB")

    assert said == "frames-budget can be used only together with --frames-dir"
