"""A killed study continues, and several processes share one: all reach the same table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, threading
from pathlib import Path
from darkprep.view.live import Progress
from darkprep.studies.catalogue import run_study
from darkprep.studies.task_kinds import TrainingScale
from darkprep.studies.options import SmallRun, StudyOptions
from darkprep.studies.tasks import StudyContext

if __name__ == "__main__":
    out = Path(sys.argv[1])
    scale = TrainingScale(
        iterations=24, batch_size=2, crop=192, samples_per_shard=4, crops_per_visit=2, validations=4
    )
    small = SmallRun(size=(224, 288), sid_scenes=4, eld_scenes=1, shorts=1, scale=scale)
    options = StudyOptions(out=out, root=out, small=small)
    context = StudyContext(out=out, root=options.data_root(), progress=Progress(), stop=threading.Event())
    run_study("section-7", options, context)
"""
WAIT_S = 300


def study(out: Path) -> subprocess.Popen[bytes]:
    """A process that carries the study out, and the leader of a process group."""
    script = out.parent / "study.py"
    script.write_text(SCRIPT)
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(out)], stdout=log, stderr=log, start_new_session=True
        )


def rows(out: Path) -> list[list[str]]:
    """The table without the last column, which is time."""
    record = json.loads((out / "section-7" / "results.json").read_text())
    return [row[:-1] for row in record["tables"][0]["rows"]]


def record_of(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "cells" / f"{name}.json").read_text())
    return found


def wait_until_trained(run: Path, iterations: int) -> None:
    """Waits until a run's log has come so far."""
    log, until = run / "metrics.jsonl", time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if log.exists() and any(
            json.loads(line)["iteration"] >= iterations
            for line in log.read_text().splitlines()
            if line.endswith("}")
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"{log} did not come to iteration {iterations}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert study(out).wait(timeout=WAIT_S) == 0
    return rows(out)


def test_a_study_killed_in_a_training_continues_to_the_same_table(tmp_path, undisturbed):
    out = tmp_path / "out"
    first = study(out)
    run = out / "trainings" / "sony-100-redirt-2rdb" / "run"
    wait_until_trained(run, 8)
    os.kill(
        first.pid, signal.SIGKILL
    )  # it alone: its producer lives on, as after an out-of-memory kill
    first.wait()
    done = record_of(out, "train-sony-100-redirt")
    assert done["result"] and not record_of(out, "train-sony-100-redirt-2rdb")["result"]

    assert study(out).wait(timeout=WAIT_S) == 0

    assert rows(out) == undisturbed
    assert record_of(out, "train-sony-100-redirt") == done, "what was done is not done again"


def test_two_processes_share_a_study(tmp_path, undisturbed):
    out = tmp_path / "out"
    both = [study(out) for _ in range(2)]

    assert [one.wait(timeout=WAIT_S) for one in both] == [0, 0]

    assert rows(out) == undisturbed
    log = (tmp_path / "out.log").read_text()
    for path in (out / "cells").glob("*.json"):
        assert log.count(f"{path.stem} took") == 1, "each task runs once"
