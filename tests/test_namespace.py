"""A user's own files may have the names of our folders: neither side imports the other's."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from darkprep.shards import Spool
from tests.support.command_line import SMALL

OURS = ("model", "trainer", "pipeline", "shards", "synth")
THIRD_PARTY = ("click", "joblib")

USERS_MODULE = """
import __main__
if not getattr(__main__, "__file__", "").endswith("mine.py"):
    raise RuntimeError(f"{__name__}.py of the user was imported by {__main__}")
OWNER = "user"
"""
USERS_SCRIPT = """
import model, trainer, pipeline, shards, synth
import darkprep.synth
from darkprep.pipeline import read_raw
from darkprep.shards import Spool
from darkprep.trainer import TrainConfig

print({one.OWNER for one in (model, trainer, pipeline, shards, synth)}, Spool("spool").open().ready_shards())
"""
TRAIN = (
    *("stream-train", "--iterations", "1", "--batch-size", "2", "--model", "redirt-2rdb"),
    *("--device", "cpu", "--producers", "0", "--evaluate-every", "0", "--run-dir", "run"),
)


@pytest.fixture(autouse=True)
def users_directory(empty_directory: None) -> None:
    """The current directory holds modules with the names of our folders, which only mine.py may import."""
    for name in OURS:
        Path(f"{name}.py").write_text(USERS_MODULE)
    Path("mine.py").write_text(USERS_SCRIPT)


def run(*arguments: object) -> str:
    """Run Python in the user's directory, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_and_a_command_find_their_own_modules(small_spool):
    assert run("mine.py") == "{'user'} [0, 1, 2]\n"
    assert "3 ready" in run("-m", "darkprep", "status")


@pytest.mark.parametrize(
    "background", [pytest.param((), marks=pytest.mark.slow), ("--background",)]
)
def test_producers_import_nothing_from_the_current_directory(small_data, background):
    """Neither do their worker processes; -P is how an installed `darkprep` starts."""
    for name in THIRD_PARTY:
        Path(f"{name}.py").write_text("raise RuntimeError('imported from the current directory')\n")
    build = ("build", "--camera", "sony", "--root", small_data, *SMALL)
    run("-P", "-m", "darkprep", *build, *background)

    spool = Spool("spool").open()
    deadline = time.monotonic() + 60
    while spool.has_producer() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert spool.ready_shards() == [0, 1, 2]


@pytest.mark.slow
def test_a_training_runs(large_spool):
    assert "finished after 1 iteration," in run("-m", "darkprep", *TRAIN)


@pytest.mark.slow
def test_a_training_on_two_ranks_runs(large_spool):
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

    assert "finished after 1 iteration," in run(*ranks, "-m", "darkprep", *TRAIN)
