"""darkprep as a process: closed streams, file names, readers that end, a deleted directory, Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from darkprep.shards import Spool
from tests.support.command_line import SMALL

Done = subprocess.CompletedProcess[str]

NO_TEXT = os.fsdecode(b"caf\xe9")
"""A file name that is not valid UTF-8."""


def command(
    *words: object,
    stdout: int | BinaryIO = subprocess.PIPE,
    stderr: int | BinaryIO = subprocess.PIPE,
) -> Done:
    """Run `darkprep` to its end, and capture both streams unless others are given."""
    line = [sys.executable, "-W", "error", "-m", "darkprep", *map(str, words)]
    return subprocess.run(line, text=True, errors="surrogateescape", stdout=stdout, stderr=stderr)


# -- closed streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("<&-", ">&-", "2>&-")),
        "<&- >&- 2>&-",
    ],
)
def test_a_build_works_with_closed_streams(small_data, closed):
    line = f'exec "$0" -m darkprep build --camera sony "$@" {closed}'

    done = subprocess.run(
        ["sh", "-c", line, sys.executable, "--root", small_data, *SMALL],
        capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert len(Spool("spool").open().ready_shards()) == 3
    assert "Traceback" not in done.stderr


# -- names that are no text -------------------------------------------------------------------------


def test_file_names_that_are_not_text_are_escaped(small_spool):
    small_spool.rename(NO_TEXT)

    done = command("status", "--spool", NO_TEXT)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(r"spool      caf\udce9 (sony")
    missing = command("status", "--spool", Path(NO_TEXT, "new"))
    assert r"caf\udce9/new: no spool there" in missing.stderr


# -- whoever reads ----------------------------------------------------------------------------------

PRINTING = [
    (["status"], ""),
    (["--help"], "1"),
    pytest.param(["status"], "1", marks=pytest.mark.slow),
    pytest.param(["--help"], "", marks=pytest.mark.slow),
]
"""Commands that print something, and the value of PYTHONUNBUFFERED."""


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [
        *PRINTING,
        pytest.param(["status", "--help"], "", marks=pytest.mark.slow),
        pytest.param(["status", "--help"], "1", marks=pytest.mark.slow),
    ],
)
def test_a_command_ends_quietly_when_its_reader_ends(small_spool, words, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reading, writing = os.pipe()
    os.close(reading)

    done = command(*words, stdout=writing)

    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("words", "unbuffered"), PRINTING)
def test_a_full_disk_behind_the_output_is_reported(small_spool, words, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("wb") as full:
        done = command(*words, stdout=full)
        unheard = command("nonsense", stderr=full)

    assert done.returncode == 1
    assert done.stderr == (
        "darkprep: standard output: No space left on device; redirect it elsewhere\n"
    )
    assert unheard.returncode == 2


# -- the current directory --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["build", "--camera", "sony"], ["demo"], ["restore", "a", "--weights", "w"]])  # fmt: skip
def test_a_deleted_current_directory_is_reported(small_data, words):
    Path("gone").mkdir()
    line = 'cd gone && rmdir ../gone && exec "$0" -m darkprep "$@"'
    words = [*words, "--root", small_data] if words[0] == "build" else words

    done = subprocess.run(
        ["sh", "-c", line, sys.executable, *words], capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr == (
        "darkprep: the current directory no longer exists; change to one that does\n"
    )


# -- Ctrl-C -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        "import runpy; runpy.run_module('darkprep', run_name='__main__')",
        "from darkprep.__main__ import main; main()",
    ],
)
def test_ctrl_c_while_modules_load_is_one_line(start):
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'darkprep.commands.main':\n"
        "            raise KeyboardInterrupt\n"
        f"sys.meta_path.insert(0, Interrupting())\n{start}"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (130, "darkprep: interrupted\n")
