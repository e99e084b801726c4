"""Worker processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from darkprep.pipeline.produce.executors.loky import LokyPool, worker_started
from tests.support.processes import is_running, wait_until, workers_of

CLOSED_WHILE_A_TASK_WAITS = """
import time
from darkprep.pipeline.produce.executors.loky import LokyPool

if __name__ == "__main__":
    pool = LokyPool(1)
    running = pool.submit(time.sleep, 60)
    while not running.running():
        time.sleep(0.01)
    time.sleep(0.5)  # loky's thread is asleep now
    thread = pool._executor._executor_manager_thread_wakeup
    thread.wakeup = lambda: None  # as if it had not been woken yet
    waiting = pool.submit(time.sleep, 60)
    del thread.wakeup
    pool.close()
    print("closed", waiting.done())
"""


def test_a_pool_is_closed_without_error_while_a_task_waits(tmp_path):
    """A task that was submitted a moment ago has not been seen by loky's thread."""
    script = tmp_path / "script.py"
    script.write_text(CLOSED_WHILE_A_TASK_WAITS)

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=50
    )

    assert (done.stdout, done.stderr) == ("closed True\n", "")


class TwoThreads:
    """A task that uses the CPUs of two workers."""

    threads = 2


def threads_of(task: TwoThreads) -> int:
    return task.threads


def test_a_pool_takes_over_the_worker_that_was_started_early():
    with worker_started():
        early = set(workers_of(os.getpid()))
        pool = LokyPool(2)
        assert pool.submit(threads_of, TwoThreads()).result() == 2
        assert set(workers_of(os.getpid())) == early
        assert pool.submit(abs, -3).result() == 3
        assert early < set(workers_of(os.getpid()))
        assert pool.submit(threads_of, TwoThreads()).result() == 2
        assert len(set(workers_of(os.getpid()))) == 2

    assert not list(workers_of(os.getpid()))


WAITS_WITH_A_WORKER = """
import time
from darkprep.pipeline.produce.executors.loky import worker_started

if __name__ == "__main__":
    with worker_started():
        print("started", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_was_started_early_ends_with_their_process(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(WAITS_WITH_A_WORKER)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        workers = list(workers_of(process.pid))
        # Ctrl-C reaches all processes of a terminal, here while the workers still import.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, said = process.communicate(timeout=20)

    assert len(workers) == 1
    wait_until(lambda: not any(is_running(pid) for pid in workers), 5)
    assert "LokyProcess" not in said
