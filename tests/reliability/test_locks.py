"""One producer set and one trainer group per spool: by locks that die with their owner, never by names."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from darkprep.shards import Spool, SpoolBusy, SpoolError
from darkprep.shards.errors import MachineError
from darkprep.shards.locks import FileLock, is_held, last_holder
from darkprep.shards.process import ProcessId
from tests.support.faults import inject

MakeSpool = Callable[..., Spool]


@contextmanager
def elsewhere(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `code`, says a line and sleeps."""
    whole = f"import time\n{code}\nprint('there', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", whole], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def holding(spool: Spool, role: str) -> str:
    return f"from darkprep.shards import Spool\nheld = Spool({str(spool.path)!r}).open().{role}_lock().__enter__()"


def beat(spool: Spool, **changes: object) -> None:
    record = {"state": "making", "time": time.time()} | vars(ProcessId.own()) | changes
    (spool.producers / "some.json").write_text(json.dumps(record))


@pytest.mark.parametrize("role", ["producer", "trainer"])
def test_a_living_holder_always_blocks_and_is_named(role: str, make_spool: MakeSpool):
    spool = make_spool()

    with elsewhere(holding(spool, role)) as holder:
        for _ in range(2):
            with pytest.raises(
                SpoolBusy, match=rf"a {role} is already running \(pid {holder.pid} on"
            ):
                getattr(spool, f"{role}_lock")().acquire()
        assert getattr(spool, f"has_{role}")()


@pytest.mark.parametrize("role", ["producer", "trainer"])
def test_a_lock_is_free_as_soon_as_its_holder_is_killed(role: str, make_spool: MakeSpool):
    """Not yet waited for, the holder is a zombie: its pid is still there, its lock is not."""
    spool = make_spool()

    with elsewhere(holding(spool, role)) as holder:
        holder.kill()
        with getattr(spool, f"{role}_lock")():
            assert Path(f"/proc/{holder.pid}").exists()
            assert getattr(spool, f"has_{role}")()


@pytest.mark.parametrize(
    "changes",
    [
        {"started": 1},
        {"pid": 1, "started": 1},
        {"pid": 4194304},
        {"host": "another-host"},
        {"host": "another-host", "pid": 1},
        {"time": 0},
        {"time": 1e12, "host": "another-host"},
        {"pid": -1},
        {"pid": 0},
    ],
    ids=str,
)
def test_a_stale_heartbeat_never_blocks(changes: dict[str, object], make_spool: MakeSpool):
    """A reused pid, a pid of another host, a clock that ran wrong: a name is never believed."""
    spool = make_spool()
    beat(spool, **changes)

    assert not spool.has_producer()
    with spool.producer_lock():
        pass


def test_a_zombie_counts_as_dead(make_spool: MakeSpool):
    spool = make_spool()
    with elsewhere("") as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        beat(spool, pid=process.pid, started=started)
        assert [beat.process.is_alive() for beat in spool.heartbeats()] == [True]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert Path(f"/proc/{process.pid}").exists()
        assert [beat.process.is_alive() for beat in spool.heartbeats()] == [False]


def test_producers_of_another_host_are_shown_but_not_called_alive(
    make_spool: MakeSpool,
):
    spool = make_spool()
    beat(spool, host="another-host")

    assert [beat.process.is_alive() for beat in spool.heartbeats()] == [False]
    spool.remove_dead_heartbeats()
    assert len(spool.heartbeats()) == 1


def test_probing_a_lock_never_blocks_a_process_that_acquires_it(
    make_spool: MakeSpool,
):
    """A look holds the lock for an instant, in which a producer that started was told it was busy."""
    spool = make_spool()
    path = spool.producers / "lock"
    path.touch()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_held(path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            with spool.producer_lock():
                pass
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_a_lock_names_its_newest_holder(make_spool: MakeSpool):
    spool = make_spool()
    with elsewhere(holding(spool, "producer")) as before:
        assert last_holder(spool.producers / "lock") != ProcessId.own()
    assert spool.producer_process() is None

    with spool.producer_lock():
        assert spool.producer_process() == ProcessId.own()
        assert f"{before.pid}" not in (spool.producers / "lock").read_text()


def test_a_producer_waits_until_the_writers_of_a_dead_one_have_ended(
    make_spool: MakeSpool,
):
    spool = make_spool()
    writing = f"""
from darkprep.shards import Spool
spool = Spool({str(spool.path)!r}).open()
lock = spool.producer_lock()
lock.acquire()
work = spool.writer_lock(spool.producer_process())
work.__enter__()
lock.release()
"""
    with elsewhere(writing) as worker, spool.producer_lock():
        assert spool.has_writers()
        worker.kill()
        worker.wait()
        assert not spool.has_writers()


def test_workers_of_a_replaced_producer_write_nothing(make_spool: MakeSpool):
    spool = make_spool()
    with elsewhere(holding(spool, "producer")):
        before = spool.producer_process()
        assert before
    with (
        spool.producer_lock(),
        pytest.raises(SpoolError, match="has ended"),
        spool.writer_lock(before),
    ):
        pass
    with spool.producer_lock(), spool.writer_lock(ProcessId.own()):
        pass


def test_the_host_is_part_of_an_identity():
    own = ProcessId.own()

    assert own.host == socket.gethostname()
    assert own.is_alive()
    assert not ProcessId(host="another-host", pid=own.pid, started=own.started).is_alive()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_a_lock_that_cannot_be_tested_does_not_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    monkeypatch.setattr("darkprep.shards.machine.RETRY_AFTER_S", (0.0,))
    with FileLock(tmp_path / "lock", "a test", directory=tmp_path):
        fault = inject(monkeypatch, number, "open", lambda path: path.endswith("lock"), times=9)

        with pytest.raises(MachineError, match="cannot be read now"):
            is_held(tmp_path / "lock")

        fault.is_active = False
        assert is_held(tmp_path / "lock")
