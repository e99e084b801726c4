"""Errors of the operating system, injected into this process where Python asks it for something.

The trade-off: errors are raised by Python's functions and not by the kernel, so that every error number can be had
at every call; C code that reads files by itself is not reached.
"""

from __future__ import annotations

import builtins
import io
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Fault:
    """An error at one kind of call, on the paths that `concerns` accepts, the first `times` times.

    It is also raised, and counted, in the processes that are forked from this one.
    """

    def __init__(
        self, number: int, operation: str, concerns: Callable[[str], bool], times: int
    ) -> None:
        self._number, self._operation, self._concerns = number, operation, concerns
        self._times = times
        self._raised = multiprocessing.RawValue("q", 0)
        self.is_active = True

    @property
    def count(self) -> int:
        """Errors raised so far."""
        return int(self._raised.value)

    def hit(self, operation: str, path: object) -> None:
        """Raise the error if this call is one of those that fail."""
        if not self.is_active or operation != self._operation or self.count >= self._times:
            return
        if isinstance(path, int):  # a descriptor
            path = Path(f"/proc/self/fd/{path}").readlink()
        if self._concerns(str(path)):
            self._raised.value += 1
            raise OSError(self._number, os.strerror(self._number), str(path))


class _FailingFile(io.FileIO):
    """A file that opens and cannot be read."""

    fault: Fault

    def readinto(self, buffer: Any) -> int | None:
        self.fault.hit("read", self.name)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.fault.hit("read", self.name)
        return super().readall()


def inject(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    operation: str,
    concerns: Callable[[str], bool],
    *,
    times: int,
) -> Fault:
    """Make calls fail: `operation` is open, read, write, map or allocate."""
    fault = Fault(number, operation, concerns, times)
    real_open, real_os_open = io.open, os.open

    def opened(path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        fault.hit("open", path) if not isinstance(path, int) else None
        if operation == "read" and mode == "rb" and not isinstance(path, int):
            raw = _FailingFile(path, "rb", opener=named.get("opener"))
            raw.fault = fault
            return io.BufferedReader(raw)
        return real_open(path, mode, *args, **named)

    def os_opened(path: Any, *args: Any, **named: Any) -> int:
        fault.hit("open", path)
        return real_os_open(path, *args, **named)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(os, "open", os_opened)
    for module, name, kind in (
        (os, "write", "write"),
        (os, "writev", "write"),
        (os, "posix_fallocate", "allocate"),
        (np, "memmap", "map"),
    ):
        monkeypatch.setattr(module, name, _failing(fault, kind, getattr(module, name)))
    return fault


def _failing(fault: Fault, operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Any, *args: Any, **named: Any) -> Any:
        fault.hit(operation, path)
        return real(path, *args, **named)

    return call
