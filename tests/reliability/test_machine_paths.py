"""What the machine lacks is named by its path, with what is needed and what to do, and never as "a file"."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from darkprep.commands import errors
from darkprep.jobs.background import last_log_line
from darkprep.pipeline.produce.executors import loky
from darkprep.shards import DiskFull, Spool, SpoolError
from darkprep.shards.errors import MachineError
from darkprep.shards.files import disk_errors
from tests.support.command_line import SMALL
from tests.support.small_spools import MakeSpool

BUILD = ("build", "--camera", "sony", "--quiet", *SMALL)
PARTS = ("ready", "partial", "damaged", "cursors", "producers", "frames")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass


# -- shared memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT]
)
def test_shared_memory_that_workers_lack_is_named(number: int, monkeypatch: pytest.MonkeyPatch):
    """A semaphore's error names no file."""

    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(loky, "get_reusable_executor", fail)

    with pytest.raises(MachineError) as caught:
        loky.LokyPool(1).submit(str, None)

    text = str(caught.value)
    assert text.startswith(f"/dev/shm: cannot be written now: {os.strerror(number)}; worker")
    assert "--shm-size" in text


MOUNTS = {
    "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
    "full": "mount -t tmpfs -o size=4k tmpfs /dev/shm && ! head -c 100000 /dev/zero >/dev/shm/x",
    "absent": "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9",
}


def in_namespace(mount: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `darkprep` where only it sees what is mounted."""
    words = [sys.executable, "-m", "darkprep", *map(str, arguments)]
    # 99: the mount failed, not darkprep.
    script = f'({mount}) 2>/dev/null || exit 99\nexec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 99 or done.stderr.startswith("unshare: "):
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize(
    "state",
    ["read-only", *(pytest.param(state, marks=pytest.mark.slow) for state in ("full", "absent"))],
)
def test_a_build_without_shared_memory_ends_with_one_line(state: str, small_data: Path):
    if not shutil.which("unshare"):
        pytest.skip("the command unshare is not installed")

    done = in_namespace(MOUNTS[state], *BUILD, "--root", small_data)

    (line,) = done.stderr.splitlines()
    assert line.startswith("darkprep: /dev/shm: cannot be written now: ")
    assert done.returncode == 1


@pytest.mark.parametrize(
    "background",
    [pytest.param((), marks=pytest.mark.slow), ("--background",)],
    ids=["foreground", "background"],
)
def test_a_read_only_spool_is_named(
    background: tuple[str, ...], small_spool: Path, small_data: Path
):
    if not shutil.which("unshare"):
        pytest.skip("the command unshare is not installed")
    mount = f"mount --bind {small_spool} {small_spool} && mount -o remount,bind,ro {small_spool}"

    done = in_namespace(mount, *BUILD, "--root", small_data, *background)

    (line,) = done.stderr.splitlines()
    assert line.startswith("darkprep: spool/producers: cannot be written (Read-only file system); ")


# -- links to what does not exist -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        BUILD,
        (*BUILD, "--background"),
        ("status",),
        ("verify",),
        ("stop",),
        ("stream-train", "--device", "cpu", "--iterations", "1"),
    ],
    ids=lambda command: f"{command[0]}{' --background' * (command[-1] == '--background')}",
)
@pytest.mark.parametrize("above", [False, True], ids=["spool", "directory above"])
def test_a_spool_that_is_a_broken_link_is_named_with_its_target(
    command: tuple[str, ...], above: bool, complaint: Callable[..., str], small_data: Path
):
    Path("link").symlink_to("/gone/disk")
    root = ("--root", small_data) if command[0] == "build" else ()

    told = complaint(*command, *root, "--spool", "link/spool" if above else "link")

    assert told == (
        "link: is a link to /gone/disk, which does not exist; create or mount /gone/disk, or remove the link"
    )


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    "command",
    [BUILD, *(pytest.param((name,), marks=pytest.mark.slow) for name in ("status", "verify"))],
    ids=lambda words: words[0],
)
def test_a_broken_link_in_a_spool_is_not_taken_for_an_empty_directory(
    command: tuple[str, ...],
    name: str,
    small_spool: Path,
    complaint: Callable[..., str],
    small_data: Path,
):
    shutil.rmtree(small_spool / name)
    (small_spool / name).symlink_to("/gone/disk")
    root = ("--root", small_data) if command[0] == "build" else ()

    told = complaint(*command, *root)

    assert told.startswith(f"spool/{name}: is a link to /gone/disk, which does not exist; create")


def test_a_link_to_a_directory_works(small_spool: Path, call: Any):
    shutil.move(small_spool / "ready", "elsewhere")
    (small_spool / "ready").symlink_to(Path("elsewhere").absolute())

    assert "3 shards and 9 frames checked, 0 damaged" in call("verify").output


# -- full disks ---------------------------------------------------------------------------------------


def test_a_background_producer_that_cannot_write_its_reason_is_explained(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool()
    found = SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: found)

    assert last_log_line(spool).startswith(f"{spool.producers}: the disk is full, so that")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_by_the_directory(number: int, tmp_path: Path):
    with pytest.raises(DiskFull, match=rf"^{tmp_path}: the disk is full, 2\.5 MB are needed; free"):
        with disk_errors(tmp_path / "file", 2_500_000):
            raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENOENT]
)
def test_an_error_without_a_path_is_never_called_a_file(number: int):
    try:
        raise OSError(number, os.strerror(number))
    except OSError as error:
        text = errors._describe(error)

    assert text.startswith(f"{os.strerror(number)}; ")
    assert "file:" not in text
    assert "start again" in text
    assert ("is full" in text) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_a_writer_in_a_broken_link_names_it(tmp_path: Path):
    (tmp_path / "link").symlink_to("gone")

    with pytest.raises(SpoolError, match=r"/link: is a link to gone, which does not exist; create"):
        Spool(tmp_path / "link").restore_directories()
