"""The pictures in the directory of someone else's study are read as PNG files, and as nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from darkprep.shards import OptionError
from darkprep.studies.panel import read_picture_row

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 64 64 rectfill
%%EOF
"""


def test_no_program_draws_a_picture_of_another_format(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is started")
    )
    path = tmp_path / "a.png"
    path.write_bytes(EPS)

    with pytest.raises(OptionError, match="does not hold 3 pictures"):
        read_picture_row(path, 3)


def test_nobody_waits_for_the_other_end_of_a_pipe_with_the_name_of_a_picture(tmp_path: Path):
    path = tmp_path / "a.png"
    os.mkfifo(path)

    with pytest.raises(OptionError, match="is not a regular file"):
        read_picture_row(path, 3)


def test_a_picture_that_would_be_converted_is_refused_before_it_is_decoded(tmp_path: Path):
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a.png")

    with pytest.raises(OptionError, match="does not hold 3 pictures"):
        read_picture_row(tmp_path / "a.png", 3)
