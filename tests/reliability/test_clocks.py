"""The times of two clocks are never compared: another host's or the file server's may be minutes off."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.produce.quarantine import DecodingRecord, FileQuarantine
from darkprep.shards import Spool, SpoolReader
from darkprep.shards.files import write_json
from darkprep.shards.heartbeat import Heartbeat, ProducerStatus
from darkprep.shards.process import ProcessId, start_ticks
from darkprep.view.read_status import spool_status
from darkprep.view.text import status_lines
from tests.support.builds import InlinePool, planned, shard_bytes
from tests.support.small_spools import MakeSpool

pytestmark = pytest.mark.usefixtures("unguarded")

OFFSETS = pytest.mark.parametrize("offset", [-900.0, 900.0, 3e6], ids="{:+.0f} s".format)
"""A clock that is 15 minutes slow, 15 minutes fast, a month fast."""
MADE = ProducerStatus(state="making", budget_bytes=7_000_000)


@contextlib.contextmanager
def decoding(spool: Spool, offset: float) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of this process with a decoding record whose time is `offset` seconds off."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as worker:
        identity = replace(ProcessId.own(), pid=worker.pid, started=start_ticks(worker.pid) or 0)
        record = DecodingRecord(path="a.dng", fingerprint="1-a", worker=identity)
        file = spool.producers / f"decoding-{worker.pid}.json"
        file.write_text(json.dumps(record.to_json()))
        os.utime(file, (time.time() + offset,) * 2)
        try:
            yield worker
        finally:
            worker.kill()


@OFFSETS
def test_a_worker_is_stuck_by_the_producers_own_clock(offset: float, make_spool: MakeSpool):
    spool = make_spool()
    patient, strict = (FileQuarantine(spool, lambda path: False, limit) for limit in (800.0, 0.3))

    with decoding(spool, offset) as worker:
        patient.kill_stuck_workers()
        strict.kill_stuck_workers()
        time.sleep(0.1)
        patient.kill_stuck_workers()
        strict.kill_stuck_workers()
        assert worker.poll() is None

        time.sleep(0.3)
        patient.kill_stuck_workers()
        assert worker.poll() is None
        strict.kill_stuck_workers()
        assert worker.wait(5) == -9


def test_a_producer_that_was_stopped_does_not_count_the_pause(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    """As by SIGSTOP, or a suspended machine: its workers were stopped as well."""
    spool, now = make_spool(), [1000.0]
    monkeypatch.setattr("darkprep.pipeline.produce.quarantine.time.monotonic", lambda: now[0])
    quarantine = FileQuarantine(spool, lambda path: False, 900.0)

    with decoding(spool, 0.0) as worker:
        quarantine.kill_stuck_workers()
        for pause in (0.5, 7200.0, 0.5):
            now[0] += pause
            quarantine.kill_stuck_workers()
        assert worker.poll() is None

        for _ in range(900):
            now[0] += 1.0
            quarantine.kill_stuck_workers()
        assert worker.wait(5) == -9


def beat(spool: Spool, offset: float, process: ProcessId, status: ProducerStatus = MADE) -> None:
    heartbeat = Heartbeat(status=status, process=process, time=time.time() + offset)
    write_json(spool.producers / heartbeat.file_name, heartbeat.to_json())


@OFFSETS
def test_no_age_is_shown_for_the_heartbeat_of_another_host(offset: float, make_spool: MakeSpool):
    spool = make_spool()
    beat(spool, offset, replace(ProcessId.own(), host="elsewhere"))

    status = spool_status(spool)

    (producer,) = status.producers
    assert producer.seconds_since is None
    assert json.loads(json.dumps(status.to_json()))["producers"][0]["seconds_since"] is None
    assert "on elsewhere" in "\n".join(status_lines(status))
    assert " s ago" not in "\n".join(status_lines(status))


def test_the_age_of_a_heartbeat_of_this_host_is_shown_and_never_negative(make_spool: MakeSpool):
    spool = make_spool()
    for offset, age in ((-5.0, 5.0), (900.0, 0.0)):
        beat(spool, offset, ProcessId.own())
        (producer,) = spool_status(spool).producers
        assert producer.seconds_since == pytest.approx(age, abs=2.0)


@OFFSETS
def test_the_budget_is_that_of_the_producer_at_work_whatever_its_clock(
    offset: float, make_spool: MakeSpool
):
    spool = make_spool()
    ended = replace(ProcessId.own(), host="elsewhere")
    beat(spool, -offset, ended, replace(MADE, budget_bytes=1))

    with spool.producer_lock():
        beat(spool, 0.0, ProcessId.own())
        assert spool_status(spool).budget_bytes == 7_000_000


@OFFSETS
def test_a_clock_that_jumps_changes_no_byte(
    offset: float, raw_spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All that this process writes has another time than what it reads."""
    whole = planned(tmp_path / "whole", tmp_path / "data")
    config = ProducerConfig(budget_bytes=1 << 30, jobs=1, until=9)
    Producer(whole, config, InlinePool()).run()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + offset)

    Producer(raw_spool, config, InlinePool()).run()

    assert shard_bytes(raw_spool) == shard_bytes(whole)
    with SpoolReader(raw_spool, batch_size=8) as reader:
        assert sum(len(batch.metas) for batch in reader) == 72
