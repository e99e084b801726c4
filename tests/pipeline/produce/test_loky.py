"""Worker processes of this machine."""

from __future__ import annotations

import subprocess
import sys

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
