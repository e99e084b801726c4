"""Injects errors of the operating system into a Python process whose PYTHONPATH names this directory.

A JSON file, named by DARKPREP_TEST_FAULT, says which error is raised where and until when; the storm writes it
while the process runs. DARKPREP_TEST_CLOCK sets the process's clock off by so many seconds. Errors are raised by
an audit hook, so C code that opens files by itself is not reached.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

_WRITES = {"os.rename", "os.mkdir", "os.remove"}
_CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_local = threading.local()
_forked: set[str] = set()


def _read(path: str) -> dict[str, Any] | None:
    """Return the present fault; None if there is none."""
    try:
        with open(path) as file:  # noqa: PTH123 # pathlib is slow to import
            fault = json.load(file)
    except (OSError, ValueError):
        return None
    return fault if time.monotonic() < fault["until"] else None


def _is_write(event: str, arguments: tuple[Any, ...]) -> bool:
    if event in _WRITES:
        return True
    mode, flags = arguments[1:3]
    return bool(set(mode or "") & set("wxa+")) or bool((flags or 0) & _CREATING)


def _fork(fault: dict[str, Any]) -> None:
    """Fork once for each such fault a child that lives for a while and does nothing, as a helper might."""
    if fault["id"] not in _forked:
        _forked.add(fault["id"])
        if os.fork() == 0:
            time.sleep(fault["seconds"])
            os._exit(0)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if (event != "open" and event not in _WRITES) or getattr(_local, "is_busy", False):
        return
    _local.is_busy = True
    try:
        fault = _read(os.environ["DARKPREP_TEST_FAULT"])
        if fault is None or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if not path.startswith(fault["scope"]) or (
            fault["only_writes"] and not _is_write(event, arguments)
        ):
            return
        if fault["number"] is None:
            _fork(fault)
        elif random.random() < fault["share"]:
            raise OSError(fault["number"], os.strerror(fault["number"]), path)
    finally:
        _local.is_busy = False


if "DARKPREP_TEST_FAULT" in os.environ:
    sys.addaudithook(_hook)
if "DARKPREP_TEST_CLOCK" in os.environ:
    _real_time, _off = time.time, float(os.environ["DARKPREP_TEST_CLOCK"])
    time.time = lambda: _real_time() + _off
