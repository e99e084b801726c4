"""Records about files that crash the decoder: fixed keys, one strict decoder each, and what follows from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.produce.quarantine import (
    DecodingRecord,
    FileQuarantine,
    QuarantinedFiles,
    decoding_record,
)
from darkprep.pipeline.raw.guard import CRASHES_DECODER
from darkprep.shards import Spool
from darkprep.shards.files import read_json
from darkprep.shards.process import ProcessId, start_ticks
from tests.support.builds import planned
from tests.support.sid_tree import write_sid


@pytest.fixture
def unguarded() -> None:
    """Read files in a process that may crash, as a user's command does."""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return planned(tmp_path / "spool", write_sid(tmp_path / "data"))


def quarantine_of(spool: Spool, *crashing: str) -> tuple[FileQuarantine, list[str]]:
    """A quarantine whose crash test finds some files, and the names of the files that it tested."""
    tested: list[str] = []

    def crash_test(path: Path) -> bool:
        tested.append(path.name)
        return path.name in crashing

    quarantine = FileQuarantine(spool, crash_test, 900.0)
    quarantine.load()
    return quarantine, tested


def leave_record(spool: Spool, path: Path, pid: int = 4194304) -> None:
    """What a worker leaves that died while it decoded `path`."""
    record = {
        "path": str(path),
        "print": f"1-{path.stem}",
        "host": "here",
        "pid": pid,
        "started": 1,
    }
    (spool.producers / f"decoding-{pid}.json").write_text(json.dumps(record))


def test_each_thread_of_a_worker_has_a_record_of_its_own(spool: Spool):
    with (
        ThreadPoolExecutor(1) as thread,
        decoding_record(spool, Path("data/a.dng"), "1-a"),
    ):
        record = decoding_record(spool, Path("data/b.dng"), "1-b")
        thread.submit(record.__enter__).result()
        found = [read_json(file) for file in spool.producers.glob("decoding-*.json")]
        thread.submit(record.__exit__, None, None, None).result()

    assert {one["path"] for one in found if one} == {"data/a.dng", "data/b.dng"}
    assert not list(spool.producers.glob("decoding-*.json"))


def test_a_worker_records_what_it_decodes_and_deletes_the_record(spool: Spool):
    file = spool.producers / f"decoding-{os.getpid()}.json"

    with decoding_record(spool, Path("data/a.dng"), "1-abc"):
        stored = json.loads(file.read_text())

    assert stored == {"path": "data/a.dng", "print": "1-abc"} | asdict(ProcessId.own())
    assert DecodingRecord.from_json(stored) == DecodingRecord(
        path="data/a.dng", fingerprint="1-abc", worker=ProcessId.own()
    )
    assert not file.exists()


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"path": "a.dng"},
        {"print": "1-abc"},
        {"path": "", "print": "1-abc"},
        {"path": 3, "print": "1-abc"},
        {"path": "a.dng", "print": ["1-abc"]},
    ],
)
def test_a_damaged_decoding_record_is_ignored(record: dict[str, Any] | None):
    assert DecodingRecord.from_json(record) is None


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, set()),
        ({}, set()),
        ({"prints": "1-abc"}, set()),
        ({"prints": ["1-abc", 3, None]}, {"1-abc"}),
    ],
)
def test_a_damaged_quarantine_has_only_its_fingerprints(
    record: dict[str, Any] | None, expected: set[str]
):
    assert QuarantinedFiles.from_json(record).fingerprints == expected


def test_a_file_is_tested_after_the_second_death_and_quarantined_if_it_crashes(
    spool: Spool, tmp_path: Path
):
    bad, good = (tmp_path / f"data/Sony/short/0000{n}_00_0.1s.dng" for n in (1, 2))
    quarantine, tested = quarantine_of(spool, bad.name)

    leave_record(spool, bad)
    assert quarantine.handle_worker_death() is None
    assert not tested
    leave_record(spool, bad)
    leave_record(spool, good, pid=4194303)
    skipped = quarantine.handle_worker_death()

    assert skipped is not None
    assert (skipped.path, skipped.reason) == (str(bad), CRASHES_DECODER)
    assert tested == [bad.name]
    assert set(quarantine.decoding_at_death) == {str(bad), str(good)}
    assert not list(spool.producers.glob("decoding-*"))


def test_the_next_producer_reads_the_quarantine(spool: Spool, tmp_path: Path):
    bad = tmp_path / "data/Sony/short/00001_00_0.1s.dng"
    first, _ = quarantine_of(spool, bad.name)
    for _ in range(2):
        leave_record(spool, bad)
        first.handle_worker_death()

    second, _ = quarantine_of(spool)

    assert json.loads((spool.producers / "crashing.json").read_text()) == {
        "prints": [f"1-{bad.stem}"]
    }
    assert second.fingerprints == first.fingerprints == {f"1-{bad.stem}"}


@pytest.fixture
def stuck(spool: Spool) -> Iterator[Callable[[int], None]]:
    """Leaves the record of a process that seems to decode since 1970."""

    def leave(pid: int) -> None:
        worker = ProcessId(host=ProcessId.own().host, pid=pid, started=start_ticks(pid) or 0)
        record = DecodingRecord(path="data/a.dng", fingerprint="1-a", worker=worker)
        file = spool.producers / f"decoding-{pid}.json"
        file.write_text(json.dumps(record.to_json()))
        os.utime(file, (0, 0))

    yield leave


def sleeper(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_stuck_workers(spool: Spool, timeout_s: float) -> None:
    """As a producer does, twice: a record is timed from when it is seen first."""
    quarantine = FileQuarantine(spool, lambda path: False, timeout_s)
    quarantine.kill_stuck_workers()
    time.sleep(0.02)
    quarantine.kill_stuck_workers()


def test_a_worker_that_decodes_for_too_long_is_killed(spool: Spool, stuck: Callable[[int], None]):
    with sleeper() as worker:
        stuck(worker.pid)
        kill_stuck_workers(spool, 0.01)
        assert worker.wait(10) == -signal.SIGKILL


def test_a_process_that_the_producer_did_not_start_is_not_killed(
    spool: Spool, stuck: Callable[[int], None]
):
    """A record may come with the spool, from a stranger."""
    with sleeper("setsid", "--fork") as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.wait()  # the process has no parent here any more
        stuck(pid)
        kill_stuck_workers(spool, 0.01)
        assert start_ticks(pid) is not None
        os.kill(pid, signal.SIGKILL)


def test_a_file_server_with_a_wrong_clock_makes_no_worker_stuck(
    spool: Spool, stuck: Callable[[int], None]
):
    with sleeper() as worker:
        stuck(worker.pid)
        kill_stuck_workers(spool, 900.0)
        assert worker.poll() is None
        worker.kill()
