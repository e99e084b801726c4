"""Kills a process before its n-th call that changes the file system: ptrace, so whatever library makes the call.

The trade-off: it knows the call numbers of two machines (x86-64, AArch64) and needs a kernel that lets a
parent trace its own child; `Tracing` is raised where that is refused. A call that is cut in the middle
is left to storms.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import traceback
from collections.abc import Callable

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _CLONE, _EXITKILL = 0x1, 0x8, 0x100000
_ENTRY = 1
_WALL = 0x40000000
_CREATES = os.O_CREAT | os.O_WRONLY | os.O_RDWR

_NUMBERS: dict[str, dict[int, str]] = {
    "x86_64": {
        1: "write", 2: "open", 18: "pwrite", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate",
        77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 257: "openat",
        258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 280: "utimensat", 285: "fallocate",
        296: "pwritev", 316: "renameat2",
    },
    "aarch64": {
        34: "mkdirat", 35: "unlinkat", 37: "linkat", 38: "renameat", 45: "truncate", 46: "ftruncate",
        47: "fallocate", 56: "openat", 64: "write", 66: "writev", 68: "pwrite", 70: "pwritev", 82: "fsync",
        83: "fdatasync", 88: "utimensat", 276: "renameat2",
    },
}  # fmt: skip


class Tracing(OSError):
    """This machine or kernel does not let a parent trace its child."""


def calls_until_killed(action: Callable[[], None], kill_before: int) -> tuple[list[str], bool]:
    """Run `action` in a forked child that dies before its call number `kill_before`, counted from 0.

    Returns the names of the calls that were made, and whether the child came to its end alive. Raises
    AssertionError when `action` itself failed, Tracing where tracing is refused.
    """
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise Tracing(f"the call numbers of {platform.machine()} are not known")
    child = os.fork()
    if child == 0:
        _be_traced(action)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise Tracing("ptrace is refused here")
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _CLONE | _EXITKILL)
    _ptrace(_SYSCALL, child, 0, 0)
    made: list[str] = []
    while True:
        pid, status = os.waitpid(-1, _WALL)
        if pid == child and not os.WIFSTOPPED(status):
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0, "the write failed by itself"
            return made, os.WIFEXITED(status)
        if not os.WIFSTOPPED(status):
            continue
        number = os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80 and (name := _entered(pid, numbers)):
            if len(made) == kill_before:
                os.kill(child, signal.SIGKILL)
                continue
            made.append(name)
        passed_on = 0 if number & 0x7F in (signal.SIGTRAP, signal.SIGSTOP) else number
        _ptrace(_SYSCALL, pid, 0, passed_on, may_be_gone=True)


def _be_traced(action: Callable[[], None]) -> None:
    """The child's part; never returns."""
    sys.dont_write_bytecode = True
    try:
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        action()
    except Tracing:
        os._exit(77)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _entered(pid: int, numbers: dict[int, str]) -> str | None:
    """Which changing call a stopped thread is about to make, if it is one."""
    info = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
    if info.raw[0] != _ENTRY:
        return None
    number, first, second, third = struct.unpack_from("=4Q", info.raw, 24)
    name = numbers.get(number)
    if name in ("open", "openat"):
        return name if (second if name == "open" else third) & _CREATES else None
    if name and "write" in name and first <= 2:
        return None
    return name


def _ptrace(request: int, pid: int, address: int, data: int, *, may_be_gone: bool = False) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    library.ptrace.restype = ctypes.c_long
    if library.ptrace(request, pid, address, data) == -1 and not may_be_gone:
        raise Tracing(ctypes.get_errno(), f"ptrace request {request:#x}")
