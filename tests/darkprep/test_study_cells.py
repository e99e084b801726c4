"""A study's cells are carried out once each, whoever does it and however often it is interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from darkprep.shards import OptionError
from darkprep.shards.files import read_json
from darkprep.studies.work import Stopped, Work, carry_out
from darkprep.view.live import Progress


@dataclass
class Step:
    """A cell that remembers that it ran."""

    name: str
    needs: tuple[str, ...] = ()
    setting: int = 1
    ran: list[str] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)

    def spec(self) -> dict[str, Any]:
        return {"setting": self.setting}

    def run(self, work: Work) -> dict[str, Any]:
        self.ran.append(self.name)
        if self.fails:
            raise self.fails.pop()
        return {"found": self.name}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(out=tmp_path, root=tmp_path, progress=Progress(quiet=True), stop=threading.Event())


def test_cells_run_once_after_what_they_need(work):
    ran: list[str] = []
    cells = [
        Step("score", ("train",), ran=ran),
        Step("train", ("data",), ran=ran),
        Step("data", ran=ran),
    ]

    carry_out(cells, work)
    carry_out(cells, work)

    assert ran == ["data", "train", "score"]
    assert work.result("score") == {"found": "score"}


def test_a_failed_cell_is_tried_again_and_the_finished_are_kept(work):
    ran: list[str] = []
    broken = Step("b", ran=ran, fails=[Stopped()])
    cells = [Step("a", ran=ran), broken, Step("c", ("b",), ran=ran)]

    with pytest.raises(Stopped, match="the same command again"):
        carry_out(cells, work)
    assert work.result("b") is None
    carry_out(cells, work)

    assert ran == ["a", "b", "b", "c"]


def test_the_time_of_all_attempts_counts(work):
    class Slow(Step):
        def run(self, work: Work) -> dict[str, Any]:
            time.sleep(0.05)
            return super().run(work)

    cell = Slow("a", fails=[Stopped()])
    with pytest.raises(Stopped):
        carry_out([cell], work)
    carry_out([cell], work)

    assert 0.1 <= work.seconds("a") < 5


def test_a_stop_is_heeded_between_cells(work):
    class Stops(Step):
        def run(self, work: Work) -> dict[str, Any]:
            work.stop.set()
            return super().run(work)

    later = Step("b")
    with pytest.raises(Stopped):
        carry_out([Stops("a"), later], work)

    assert work.result("a") == {"found": "a"}
    assert later.ran == []


def test_a_folder_of_another_study_is_refused(work):
    carry_out([Step("a", setting=1)], work)

    with pytest.raises(
        OptionError, match="holds a made with another setting; choose another --out"
    ):
        carry_out([Step("a", setting=2)], work)


def test_a_damaged_record_is_made_anew(work):
    cell = Step("a")
    carry_out([cell], work)
    work.record_path("a").write_text("{")

    carry_out([cell], work)

    assert cell.ran == ["a", "a"]
    assert (read_json(work.record_path("a")) or {})["result"] == {"found": "a"}


SHARED = """
import sys, threading, time
from pathlib import Path
from darkprep.view.live import Progress
from darkprep.studies.work import Work, carry_out

out, log = Path(sys.argv[1]), Path(sys.argv[2])

class Cell:
    def __init__(self, name, needs=()):
        self.name, self.needs = name, needs
    def spec(self):
        return {}
    def run(self, work):
        with log.open("a") as file:
            file.write(self.name + "\\n")
        time.sleep(0.3)
        return {}

cells = [Cell(f"c{k}") for k in range(6)] + [Cell("last", ("c5", "c0"))]
carry_out(cells, Work(out=out, root=out, progress=Progress(quiet=True), stop=threading.Event()))
"""


def test_processes_share_a_folder_and_each_cell_runs_once(tmp_path):
    log = tmp_path / "log"
    workers = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(tmp_path / "out"), str(log)])
        for _ in range(3)
    ]

    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]

    ran = log.read_text().split()
    assert sorted(ran) == ["c0", "c1", "c2", "c3", "c4", "c5", "last"]
    assert ran[-1] == "last"


def test_a_cell_of_a_dead_process_is_free_again(tmp_path, work):
    code = (
        "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.lockf(d, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "cells").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "cells" / "a.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    cell = Step("a")
    waiter = threading.Thread(target=carry_out, args=([cell], work))
    waiter.start()
    time.sleep(0.3)
    assert cell.ran == []

    holder.kill()
    holder.communicate()
    waiter.join(timeout=30)

    assert cell.ran == ["a"]
