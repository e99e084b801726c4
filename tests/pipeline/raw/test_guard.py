"""Reading in a process that may crash: results and errors come back, a crash or an endless file is an error of the file."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkprep.pipeline.raw import guard
from darkprep.pipeline.raw.guard import CRASHES_DECODER, GuardedReader, guarded
from darkprep.shards import RawError
from darkprep.shards.errors import MachineError

GOOD = Path("good")
SIGNALS = {"killed": signal.SIGKILL, "wrong system call": signal.SIGSYS}


def act(path: Path) -> object:
    """Do what the name of the file says."""
    if path.name == "crash":
        ctypes.string_at(0)
    if path.name == "abort":
        os.abort()
    if path.name in SIGNALS:
        signal.raise_signal(SIGNALS[path.name])
    if path.name == "endless":
        while True:
            pass
    if path.name == "bad":
        raise RawError(str(path), "is bad")
    if path.name == "odd":
        raise ValueError(lambda: None)  # cannot be copied to another process
    if path.name == "pid":
        return os.getpid()
    if path.name == "arrays":
        return {"a": np.arange(1 << 20, dtype=np.uint16), "empty": np.zeros((0, 3)), "n": 1}
    return path.name


def test_results_and_errors_come_back():
    with GuardedReader(act, seconds=5) as read:
        assert read(GOOD) == "good"
        arrays = read(Path("arrays"))
        assert isinstance(arrays, dict)
        assert np.array_equal(arrays["a"], np.arange(1 << 20, dtype=np.uint16))
        assert arrays["empty"].shape == (0, 3)
        with pytest.raises(RawError, match="bad: is bad"):
            read(Path("bad"))
        with pytest.raises(RuntimeError, match="ValueError"):
            read(Path("odd"))
        assert read(Path("pid")) == read(Path("pid")) != os.getpid()


@pytest.mark.parametrize("name", ["crash", "abort"])
def test_a_crash_is_an_error_of_the_file_and_the_next_one_is_read(name: str):
    with GuardedReader(act, seconds=5) as read:
        assert read(GOOD) == "good"
        with pytest.raises(RawError) as raised:
            read(Path(name))
        assert (raised.value.path, raised.value.reason) == (name, CRASHES_DECODER)
        assert read(GOOD) == "good"


def test_a_crash_is_noticed_in_a_program_that_handles_crashes_itself():
    before = signal.signal(signal.SIGSYS, lambda *_: None)
    try:
        with pytest.raises(RawError, match=CRASHES_DECODER):
            guarded(act, Path("wrong system call"), seconds=1)
    finally:
        signal.signal(signal.SIGSYS, before)


def test_a_file_that_takes_for_ever_is_refused():
    with pytest.raises(RawError, match=r"endless: takes more than 0\.1 s to decode"):
        guarded(act, Path("endless"), seconds=0.1)


def test_the_file_is_not_blamed_for_a_process_that_was_killed():
    with pytest.raises(MachineError, match=r"killed: cannot be read now: .*signal 9"):
        guarded(act, Path("killed"))


def test_threads_of_torch_in_the_parent_are_not_waited_for():
    """OpenMP's threads are not forked: a process that used those of its parent would wait without end."""
    before, found = torch.get_num_threads(), []

    def read() -> None:
        torch.set_num_threads(2)
        torch.ones(1 << 20).mul_(2)
        found.append(guarded(lambda _: float(torch.ones(1 << 20).mul_(2).sum()), GOOD, seconds=5))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=20)
    torch.set_num_threads(before)

    assert found == [2.0 * (1 << 20)]


def test_a_wait_for_a_slow_disk_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(guard, "_SLOW_S", 0.1)

    guarded(lambda _: time.sleep(0.3), GOOD, seconds=5)

    assert caplog.messages == ["good: takes more than 0 s to read; the disk may be slow"]


def test_requests_are_answered_until_the_pipe_is_closed(monkeypatch):
    """What the process does, in a thread: results without a copy, errors, and errors that cannot be copied."""
    limits: list[float] = []
    monkeypatch.setattr(guard, "_limit_computing", limits.append)
    ours, theirs = Pipe()
    server = threading.Thread(target=guard._answer_all, args=(theirs, act, 5.0, os.getppid()))
    server.start()

    def answer(name: str) -> Any:
        ours.send(Path(name))
        sizes, content = ours.recv()
        buffers = [ours.recv_bytes() if size else b"" for size in sizes]
        assert [len(one) for one in buffers] == sizes
        return pickle.loads(content, buffers=buffers)

    assert answer("good").result == "good"
    arrays = answer("arrays").result
    assert np.array_equal(arrays["a"], np.arange(1 << 20, dtype=np.uint16))
    assert isinstance(answer("bad").error, RawError)
    assert "ValueError" in str(answer("odd").error)
    ours.close()
    server.join(10)
    assert not server.is_alive()
    assert limits == [5.0] * 4


def test_no_process_is_left():
    read = GuardedReader(act, seconds=5)
    pid = read(Path("pid"))
    assert isinstance(pid, int)
    del read

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_waiting_command_ends_at_sigterm_and_its_reader_with_it(tmp_path: Path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom darkprep.pipeline.raw.guard import guarded\n"
        "def read(path):\n    print(os.getpid(), flush=True)\n    while True: pass\n"
        "guarded(read, Path('x'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = int(process.stdout.readline())

    process.terminate()

    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{reader}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{reader}").exists()


def test_a_call_ends_when_asked_to_and_leaves_no_process():
    stop, began = threading.Event(), time.monotonic()
    reader = GuardedReader(act, seconds=900, stop=stop)
    pid = reader(Path("pid"))
    assert isinstance(pid, int)
    threading.Timer(0.2, stop.set).start()

    with pytest.raises(MachineError, match=r"endless: .*asked to stop"):
        reader(Path("endless"))

    assert time.monotonic() - began < 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_does_not_answer_is_given_up_and_the_file_not_blamed(monkeypatch):
    monkeypatch.setattr(guard, "_MOST_WAIT_S", -4.7)

    with pytest.raises(MachineError, match=r"good: .*has not answered for 0 s; check the disk"):
        guarded(lambda _: time.sleep(600), GOOD, seconds=5)


def test_files_are_read_while_other_threads_log_and_allocate():
    """A fork copies locks as they are, those of other threads too."""
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            logging.getLogger("busy").debug("%s", bytearray(1 << 16))
            np.ones(1 << 12).sum()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            guarded(lambda _: logging.getLogger("busy").debug(str(np.ones(9).sum())), GOOD)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
