from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from darkprep.shards import Cursor, PlanError, Spool, SpoolBusy, SpoolError
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.process import ProcessId
from tests.support.any_text import any_text
from tests.support.small_spools import MakeSpool, fill, stream


def test_a_spool_returns_its_plan(make_spool: MakeSpool):
    spool = make_spool()

    again = Spool(spool.path).open()

    assert again.stream == stream()
    assert again.plan.recipe == {"pairs": ["spool"]}
    assert again.digest == spool.digest


def test_the_same_plan_is_accepted_again_with_another_root(make_spool: MakeSpool):
    spool = make_spool(ready=[0])

    Spool(spool.path).create(
        PlanRecord(
            stream=stream(), recipe={"pairs": ["spool"]}, settings=ProducerSettings(root="moved")
        )
    )

    assert Spool(spool.path).open().settings == ProducerSettings(root="moved")
    assert spool.ready_shards() == [0]


def test_another_plan_is_refused_with_the_difference(make_spool: MakeSpool):
    spool = make_spool()

    with pytest.raises(PlanError, match="seed 1 in the spool, 9 requested"):
        Spool(spool.path).create(
            PlanRecord(
                stream=stream(seed=9),
                recipe={"pairs": ["spool"]},
                settings=ProducerSettings(root="data"),
            )
        )
    assert Spool(spool.path).open().stream.seed == 1


def test_a_missing_spool_names_the_command_that_makes_one(tmp_path: Path):
    with pytest.raises(SpoolError, match="darkprep build"):
        Spool(tmp_path / "none").open()


def test_a_file_in_place_of_the_spool_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(SpoolError, match="not a directory"):
        Spool(tmp_path / "file").create(PlanRecord(stream=stream(), recipe={}))


def test_a_plan_of_another_version_is_refused(make_spool: MakeSpool):
    spool = make_spool()
    spool.plan_file.write_text(spool.plan_file.read_text().replace('"format": 1', '"format": 3'))

    with pytest.raises(PlanError, match="version 3"):
        Spool(spool.path).open()


@given(st.integers(0, 2000), st.integers(1, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_plan_file_is_refused_or_equivalent(make_spool: MakeSpool, place: int, mask: int):
    spool = make_spool()
    data = bytearray(spool.plan_file.read_bytes())
    data[place % len(data)] ^= mask
    spool.plan_file.write_bytes(data)

    try:
        read = Spool(spool.path).open()
    except PlanError:
        return
    finally:
        spool.plan_file.unlink()
    assert read.stream == stream()
    assert read.plan.recipe == {"pairs": ["spool"]}


def test_only_names_of_our_form_count_as_shards(make_spool: MakeSpool):
    spool = make_spool(ready=[0, 2])
    for name in ("1.tar", "00000001.tar.tmp", "notes.txt", ".00000001.tar", "0000000x.tar"):
        (spool.ready / name).touch()

    assert spool.ready_shards() == [0, 2]


def test_damaged_shards_are_quarantined_with_their_reason_and_few_are_kept(make_spool: MakeSpool):
    spool = make_spool(ready=range(4))

    for shard in range(4):
        spool.quarantine.add(spool.shard_path(shard), shard, f"reason {shard}")

    assert spool.ready_shards() == []
    assert [record.reason for record in spool.quarantine.records()] == [
        f"reason {n}" for n in range(4)
    ]
    assert spool.quarantine.count() == 2


def test_quarantining_a_shard_twice_does_nothing(make_spool: MakeSpool):
    spool = make_spool(ready=[0])
    spool.quarantine.add(spool.shard_path(0), 0, "first")
    spool.quarantine.add(spool.shard_path(0), 0, "second")

    assert [record.reason for record in spool.quarantine.records()] == ["first"]


def test_the_slowest_rank_decides_what_is_still_needed(make_spool: MakeSpool):
    spool = make_spool()
    assert spool.oldest_needed() == 0

    for rank, shard in ((0, 7), (1, 5)):
        spool.write_cursor(Cursor(rank=rank, world=2, batch=9, shard=shard))

    assert spool.oldest_needed() == 5


cursor_json = st.dictionaries(
    st.sampled_from(["rank", "world", "batch", "shard", "run"]),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text(3),
)


@given(cursor_json | any_text(30))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_cursor_counts_as_absent(make_spool: MakeSpool, record: object):
    spool = make_spool()
    (spool.cursors / "rank-0.json").write_text(json.dumps(record))

    for cursor in spool.read_cursors():
        assert min(cursor.rank, cursor.world, cursor.batch, cursor.shard) >= 0


@given(st.binary(max_size=60) | st.just(b'{"state": 1, "host": [], "pid": "x", "started": 1e999}'))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_heartbeat_is_left_out(make_spool: MakeSpool, data: bytes):
    spool = make_spool()
    (spool.producers / "host-1.json").write_bytes(data)

    assert spool.heartbeats() == []


def test_a_heartbeat_of_this_process_is_alive_and_of_a_reused_pid_dead(make_spool: MakeSpool):
    spool = make_spool()
    spool.write_heartbeat(ProducerStatus(state="making"))
    own = ProcessId.own()
    stale = {
        "state": "making",
        "host": own.host,
        "pid": own.pid,
        "started": own.started - 1,
        "time": 0,
    }
    (spool.producers / "stale.json").write_text(json.dumps(stale))

    assert [beat.process.is_alive() for beat in spool.heartbeats()] == [False, True]


def test_a_lock_has_one_holder_and_the_error_names_it(make_spool: MakeSpool):
    spool = make_spool()

    with spool.producer_lock():
        assert spool.has_producer()
        with pytest.raises(SpoolBusy, match=f"a producer is already running .pid {os.getpid()} on"):
            spool.producer_lock().acquire()
    assert not spool.has_producer()


def test_a_lock_is_released_when_its_holder_dies(make_spool: MakeSpool):
    spool = make_spool()
    code = f"""
import time
from darkprep.shards import Spool
Spool({str(spool.path)!r}).open().trainer_lock().acquire()
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        holder.stdout.readline()
        with pytest.raises(SpoolBusy, match=f"pid {holder.pid}"):
            spool.trainer_lock().acquire()
        holder.kill()
        holder.wait()

        with spool.trainer_lock():
            assert spool.has_trainer()


def test_stale_partial_shards_are_removed_and_no_foreign_file(make_spool: MakeSpool):
    """Also those whose writer's pid is now that of another process or of a zombie."""
    spool = make_spool()
    dead, reused = (
        spool.partial / "00000001.4194305.tar",
        spool.partial / f"00000002.{os.getppid()}.tar",
    )
    foreign = spool.partial / "notes.txt"
    for path in (dead, reused, foreign):
        path.touch()

    assert spool.remove_stale_files() == 2
    assert list(spool.partial.iterdir()) == [foreign]


def test_disk_bytes_are_what_du_counts(make_spool: MakeSpool):
    spool = make_spool(ready=range(3))

    counted = subprocess.run(
        ["du", "-s", "-B1", spool.path], capture_output=True, text=True, check=True
    )

    assert spool.disk_bytes() == int(counted.stdout.split()[0])


def test_stored_frames_are_counted_once_and_unfinished_ones_each_time(make_spool: MakeSpool):
    spool = make_spool()
    for name in ("long-1", "long-2", ".long-3.99.tmp"):
        (spool.frames / name).mkdir(parents=True)
        (spool.frames / name / "0.0.0").write_bytes(bytes(50_000))
    first = spool.disk_bytes()

    (spool.frames / ".long-3.99.tmp" / "0.0.0").write_bytes(bytes(100_000))
    grown = spool.disk_bytes()
    (spool.frames / ".long-3.99.tmp").rename(spool.frames / "long-3")
    shutil.rmtree(spool.frames / "long-1")
    looked_at = opened_while(spool.disk_bytes, spool.frames)

    assert grown > first
    assert spool.disk_bytes() == allocated_bytes(spool.path) < grown
    assert looked_at == {str(spool.frames), str(spool.frames / "long-3")}


def opened_while(work: Callable[[], object], folder: Path) -> set[str]:
    """Return the directories below `folder` that were listed."""
    seen: set[str] = set()
    listed = os.scandir

    def scandir(path: Path) -> Any:
        seen.add(str(path))
        return listed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        work()
    return {path for path in seen if path.startswith(str(folder))}


def test_deleting_shards_frees_their_bytes(make_spool: MakeSpool):
    spool = make_spool(ready=range(3))
    before = spool.disk_bytes()

    assert spool.delete(1)
    assert not spool.delete(1)
    assert spool.disk_bytes() < before
    fill(spool, [1])
    assert spool.disk_bytes() == before
