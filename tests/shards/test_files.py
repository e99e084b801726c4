from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from darkprep.shards import files
from darkprep.shards.errors import DiskFull, SpoolError
from darkprep.shards.files import (
    kinds_of_files,
    read_json,
    remove_stale_temporaries,
    replace_atomically,
    write_bytes,
    write_json,
)


def test_a_file_is_replaced_atomically(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    write_json(path, {"n": 2})

    assert read_json(path) == {"n": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="the disk is full"):
        replace_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_directory_that_is_not_writable_is_named(tmp_path: Path):
    def refuse(file: BinaryIO) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(SpoolError, match="cannot be written"):
        replace_atomically(tmp_path / "a", refuse)


def test_a_directory_that_was_removed_is_created_but_not_the_one_above_it(tmp_path: Path):
    write_bytes(tmp_path / "missing" / "a", b"x")
    with pytest.raises(SpoolError, match="other/missing: does not exist"):
        write_bytes(tmp_path / "other" / "missing" / "a", b"")

    assert (tmp_path / "missing" / "a").read_bytes() == b"x"
    assert not (tmp_path / "other").exists()


def test_other_operating_system_errors_are_not_translated(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "a", b"")


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"NaN"])
def test_damaged_json_reads_as_none(tmp_path: Path, data: bytes):
    (tmp_path / "a.json").write_bytes(data)

    assert read_json(tmp_path / "a.json") is None


def test_missing_json_reads_as_none(tmp_path: Path):
    assert read_json(tmp_path / "a.json") is None


def test_only_temporary_files_of_dead_writers_are_removed(tmp_path: Path):
    alive, dead = tmp_path / f".a.{os.getpid()}.tmp", tmp_path / ".b.4194305.tmp"
    alive.touch()
    dead.touch()

    assert remove_stale_temporaries(tmp_path, "[ab]") == 1
    assert alive.exists()
    assert not dead.exists()


def test_the_kinds_of_files_are_counted_up_to_a_bound(tmp_path: Path, monkeypatch):
    assert kinds_of_files(tmp_path) == "no files"
    (tmp_path / "short").mkdir()
    for name in ("short/1.ARW", "short/2.arw", "list"):
        (tmp_path / name).touch()
    assert kinds_of_files(tmp_path) == "2 .arw, 1 no extension"

    monkeypatch.setattr(files, "_MOST_COUNTED", 2)

    assert kinds_of_files(tmp_path) == "1 no extension, 1 .arw"
