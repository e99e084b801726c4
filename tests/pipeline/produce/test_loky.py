"""Worker processes of this machine."""

from __future__ import annotations

import threading
import time

from darkprep.pipeline.produce.executors.loky import LokyPool


def test_a_pool_is_closed_without_error_while_tasks_wait(monkeypatch):
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    pool = LokyPool(1)
    futures = [
        pool.submit(time.sleep, 30) for _ in range(12)
    ]  # more than loky hands to its workers

    pool.close()

    assert not errors
    assert all(future.done() for future in futures[-5:])
