"""A study's tasks run once each, whichever process runs them and however often it is interrupted."""

from __future__ import annotations

import json
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
from darkprep.studies.tasks import Stopped, StudyContext, run_tasks
from darkprep.view.live import Progress


@dataclass
class Step:
    """A task that records that it ran."""

    name: str
    needs: tuple[str, ...] = ()
    setting: int = 1
    ran: list[str] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)

    def spec(self) -> dict[str, Any]:
        return {"setting": self.setting}

    def run(self, context: StudyContext) -> dict[str, Any]:
        self.ran.append(self.name)
        if self.fails:
            raise self.fails.pop()
        return {"found": self.name}


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    return StudyContext(
        out=tmp_path, root=tmp_path, progress=Progress(quiet=True), stop=threading.Event()
    )


def test_tasks_run_once_after_what_they_need(context):
    ran: list[str] = []
    tasks = [
        Step("score", ("train",), ran=ran),
        Step("train", ("data",), ran=ran),
        Step("data", ran=ran),
    ]

    run_tasks(tasks, context)
    run_tasks(tasks, context)

    assert ran == ["data", "train", "score"]
    assert context.result("score") == {"found": "score"}


def test_a_failed_task_is_repeated_and_finished_ones_are_kept(context):
    ran: list[str] = []
    broken = Step("b", ran=ran, fails=[Stopped()])
    tasks = [Step("a", ran=ran), broken, Step("c", ("b",), ran=ran)]

    with pytest.raises(Stopped, match="the same command again"):
        run_tasks(tasks, context)
    assert context.result("b") is None
    run_tasks(tasks, context)

    assert ran == ["a", "b", "b", "c"]


def test_the_time_of_all_attempts_counts(context):
    class Slow(Step):
        def run(self, context: StudyContext) -> dict[str, Any]:
            time.sleep(0.05)
            return super().run(context)

    task = Slow("a", fails=[Stopped()])
    with pytest.raises(Stopped):
        run_tasks([task], context)
    run_tasks([task], context)

    assert 0.1 <= context.seconds("a") < 5


def test_a_study_stops_between_tasks(context):
    class Stops(Step):
        def run(self, context: StudyContext) -> dict[str, Any]:
            context.stop.set()
            return super().run(context)

    later = Step("b")
    with pytest.raises(Stopped):
        run_tasks([Stops("a"), later], context)

    assert context.result("a") == {"found": "a"}
    assert later.ran == []


def test_a_record_with_another_specification_is_refused(context):
    run_tasks([Step("a", setting=1)], context)

    with pytest.raises(OptionError, match=r"holds a with other settings .*; choose another --out"):
        run_tasks([Step("a", setting=2)], context)


def test_a_task_with_a_damaged_record_runs_again(context):
    task = Step("a")
    run_tasks([task], context)
    context.record_path("a").write_text("{")

    run_tasks([task], context)

    assert task.ran == ["a", "a"]
    assert (read_json(context.record_path("a")) or {})["result"] == {"found": "a"}


SHARED = """
import sys, threading, time
from pathlib import Path
from darkprep.view.live import Progress
from darkprep.studies.tasks import StudyContext, run_tasks

out, log = Path(sys.argv[1]), Path(sys.argv[2])

class Task:
    def __init__(self, name, needs=()):
        self.name, self.needs = name, needs
    def spec(self):
        return {}
    def run(self, context):
        with log.open("a") as file:
            file.write(self.name + "\\n")
        time.sleep(0.3)
        return {}

tasks = [Task(f"c{k}") for k in range(6)] + [Task("last", ("c5", "c0"))]
run_tasks(tasks, StudyContext(out=out, root=out, progress=Progress(quiet=True), stop=threading.Event()))
"""


def test_processes_share_a_directory_and_each_task_runs_once(tmp_path):
    log = tmp_path / "log"
    workers = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(tmp_path / "out"), str(log)])
        for _ in range(3)
    ]

    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]

    ran = log.read_text().split()
    assert sorted(ran) == ["c0", "c1", "c2", "c3", "c4", "c5", "last"]
    assert ran[-1] == "last"


def test_a_task_of_a_dead_process_is_unlocked(tmp_path, context):
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
    task = Step("a")
    waiter = threading.Thread(target=run_tasks, args=([task], context))
    waiter.start()
    time.sleep(0.3)
    assert task.ran == []

    holder.kill()
    holder.communicate()
    waiter.join(timeout=30)

    assert task.ran == ["a"]


@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}, True, 10**400, float("nan")])
def test_a_record_with_invalid_values_counts_as_not_finished(context, value):
    run_tasks([Step("data")], context)
    record = json.loads(context.record_path("data").read_text()) | {"seconds": value}
    record["result"] = value if not isinstance(value, dict) else [value]
    context.record_path("data").write_text(json.dumps(record))
    ran: list[str] = []

    run_tasks([Step("data", ran=ran)], context)

    assert ran == ["data"]
    assert 0 <= context.seconds("data") < 60
