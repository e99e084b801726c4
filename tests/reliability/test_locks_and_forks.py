"""A lock belongs to the process that acquired it: no forked child keeps it, and no process number decides who lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from darkprep.jobs.background import stop_producers
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.shards import Spool, SpoolBusy, SpoolError, locks as locks_module
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.locks import has_shared_holders, holds_lock, is_held, shared_lock
from darkprep.shards.process import ProcessId, start_ticks
from darkprep.view.read_status import spool_status
from tests.support.processes import wait_until
from tests.support.small_spools import MakeSpool

Lock = Callable[[Spool], AbstractContextManager[object]]
LOCKS: dict[str, Lock] = {
    "producer": lambda spool: spool.producer_lock(),
    "trainer": lambda spool: spool.trainer_lock(),
    "workers": lambda spool: shared_lock(spool.producers / "workers"),
}


def is_free(name: str, spool: Spool) -> bool:
    if name == "workers":
        return not has_shared_holders(spool.producers / "workers")
    path = (spool.producers if name == "producer" else spool.cursors) / "lock"
    return not is_held(path)


@contextlib.contextmanager
def forked(code: Callable[[], object]) -> Iterator[int]:
    """A forked child that runs `code`, reports, and sleeps until the block ends."""
    ready, report = os.pipe()
    child = os.fork()
    if not child:
        try:
            code()
            os.write(report, b"ready")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(report)
    try:
        assert os.read(ready, 5) == b"ready", "the child failed"
        yield child
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def nothing() -> None:
    """What a forked child does that knows nothing of locks."""


@pytest.mark.parametrize("name", LOCKS)
def test_a_forked_child_keeps_no_lock_that_its_parent_released(name: str, make_spool: MakeSpool):
    spool = make_spool()

    with contextlib.ExitStack() as child:
        with LOCKS[name](spool):
            child.enter_context(forked(nothing))
            assert not is_free(name, spool)
        assert is_free(name, spool)


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("start", ["os.fork()", "Process", "Popen"])
def test_no_child_keeps_the_lock_of_a_parent_that_was_killed(
    name: str, start: str, make_spool: MakeSpool
):
    spool = make_spool()
    program = f"""
import multiprocessing, os, subprocess, sys, time
from darkprep.shards import Spool
from darkprep.shards.locks import shared_lock
spool = Spool({str(spool.path)!r})
held = dict(
    producer=spool.producer_lock, trainer=spool.trainer_lock, workers=lambda: shared_lock(spool.producers / "workers")
)[{name!r}]()
held.__enter__()
if {start!r} == "os.fork()":
    child = os.fork() or time.sleep(60)
elif {start!r} == "Process":
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    child = process.pid
else:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False).pid
print(child, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        try:
            assert not is_free(name, spool)
            parent.kill()
            parent.wait()
            wait_until(lambda: is_free(name, spool), 5)
            os.kill(child, 0)  # it lives on
        finally:
            parent.kill()
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", ["producer", "trainer"])
def test_a_forked_child_that_leaves_the_block_takes_no_lock_from_its_parent(
    name: str, make_spool: MakeSpool
):
    spool = make_spool()
    lock = getattr(spool, f"{name}_lock")()

    def leave() -> None:
        lock.release()
        with pytest.raises(SpoolBusy, match=f"{name} is already running"):
            lock.acquire()

    with lock, forked(leave):
        assert not is_free(name, spool)
        with forked(lambda: lock.__exit__(None, None, None)):
            assert not is_free(name, spool)


def test_a_probe_that_is_cut_short_by_a_fork_leaves_no_lock(make_spool: MakeSpool):
    """A thread may fork while another one probes a lock, and so holds it for a moment."""
    spool = make_spool()
    with spool.producer_lock():
        pass
    probe = locks_module._LockFile(spool.producers / "lock", os.O_RDONLY)
    assert probe.try_lock(fcntl.LOCK_SH)

    with forked(nothing):
        probe.close()
        with spool.producer_lock():
            pass


def test_the_lock_of_a_removed_file_is_not_taken_for_the_lock(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    """Between opening and locking, the file may be removed and made anew by another process."""
    spool, path = make_spool(), make_spool().producers / "lock"
    flock, removed = fcntl.flock, list[Path]()

    def remove_first(descriptor: int, operation: int) -> None:
        if not removed and operation & fcntl.LOCK_EX:
            path.unlink()
            removed.append(path)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with spool.producer_lock():
        assert removed
        assert spool.has_producer()


# -- who lives is decided by the lock -------------------------------------------------------------


@contextlib.contextmanager
def producer_elsewhere(spool: Spool, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[ProcessId]:  # fmt: skip
    """This process holds the producer lock under the identity that it would have elsewhere."""
    identity = replace(ProcessId.own(), **changes)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessId, "own", classmethod(lambda cls: identity))
        with spool.producer_lock():
            spool.write_heartbeat(ProducerStatus(state="making", running_s=1.0, blocked_s=0.0))
            patch.undo()
            yield identity


ELSEWHERE = [{"pid": 4194303, "started": 5}, {"host": "another-host"}, {"host": "c", "pid": 1}]
"""Another pid namespace with this host's name, another host, another container."""


@pytest.mark.parametrize("changes", ELSEWHERE, ids=str)
def test_a_producer_that_holds_its_lock_is_shown_as_running_wherever_it_runs(
    changes: dict[str, object], make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool()

    with producer_elsewhere(spool, monkeypatch, **changes) as identity:
        (shown,) = spool_status(spool).producers
        assert (shown.alive, shown.pid) == (True, identity.pid)
    assert [shown.alive for shown in spool_status(spool).producers] == [False]


def test_a_process_that_lives_and_holds_no_lock_is_not_shown_as_a_producer(make_spool: MakeSpool):
    spool = make_spool()
    spool.write_heartbeat(ProducerStatus(state="making"))

    assert [shown.alive for shown in spool_status(spool).producers] == [False]


@pytest.mark.parametrize("changes", ELSEWHERE, ids=str)
def test_stop_names_a_producer_that_it_cannot_reach_and_signals_no_process(
    changes: dict[str, object], make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool()
    monkeypatch.setattr(
        signal, "pidfd_send_signal", lambda *_: pytest.fail("it signalled a process")
    )

    with (
        producer_elsewhere(spool, monkeypatch, **changes) as identity,
        pytest.raises(SpoolError, match=f"its producer \\({identity}\\) runs on another host or"),
    ):
        stop_producers(spool)


def test_stop_ends_the_process_that_holds_the_lock_even_without_a_heartbeat(make_spool: MakeSpool):
    spool = make_spool()
    code = f"""
import time
from darkprep.shards import Spool
held = Spool({str(spool.path)!r}).producer_lock()
held.acquire()
print(flush=True)
time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as producer:
        assert producer.stdout and producer.stdout.readline()
        assert stop_producers(spool) == [producer.pid]
    assert producer.returncode == -signal.SIGTERM


def test_stop_signals_no_process_for_a_lock_that_is_free(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    """The last holder may live and do other things by now."""
    spool = make_spool()
    monkeypatch.setattr(
        signal, "pidfd_send_signal", lambda *_: pytest.fail("it signalled a process")
    )
    with spool.producer_lock():
        spool.write_heartbeat(ProducerStatus(state="making"))

    assert stop_producers(spool) == []


def test_stop_signals_no_process_that_merely_stands_in_the_lock(make_spool: MakeSpool):
    """A spool may come from a stranger, with any pid in its files."""
    spool = make_spool()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        with spool.producer_lock():
            record = asdict(ProcessId.own()) | {
                "pid": bystander.pid,
                "started": start_ticks(bystander.pid),
            }
            (spool.producers / "lock").write_text(json.dumps(record))

            with pytest.raises(
                SpoolError, match=r"according to the kernel that process does not hold the lock"
            ):
                stop_producers(spool)

        assert bystander.poll() is None
        bystander.communicate()
    assert bystander.returncode == 1  # the end of its input


def test_the_kernel_reports_the_holder_and_not_its_forked_child(make_spool: MakeSpool):
    lock = make_spool().producers / "lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        assert not holds_lock(os.getpid(), lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert holds_lock(os.getpid(), lock)
        assert not holds_lock(child.pid, lock)
    finally:
        os.close(descriptor)
        child.kill()
        child.wait()


# -- file systems without locks ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_the_remedy(
    number: int, make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool()
    with spool.producer_lock(), spool.trainer_lock():
        pass

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(fcntl, "lockf", fail)
    store = FrameStore(spool.frames)
    store.create()
    attempts: list[tuple[AbstractContextManager[object], Path]] = [
        (spool.producer_lock(), spool.path),
        (spool.trainer_lock(), spool.path),
        (shared_lock(spool.producers / "workers"), spool.producers),
        (store.decode_lock("long-1"), spool.frames),
    ]
    for lock, directory in attempts:
        with pytest.raises(SpoolError) as caught, lock:
            pass
        assert str(caught.value).startswith(f"{directory}: the file system does not support locks")
        assert "local disk" in str(caught.value)
        assert "\n" not in str(caught.value)

    assert not spool.has_producer()
    assert not spool.has_trainer()
    assert not spool_status(spool).trainer.alive
