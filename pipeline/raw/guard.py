"""Read files in a process that may crash: LibRaw is C++ and gets files from strangers.

A forked process reads; a crash or a file that takes for ever then costs one RawError. It is forked and not
started, because it then needs no second to import numpy and LibRaw. The trade-off: results are copied from
one process to the other. A hostile file that takes over the process is not stopped by this.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import pickle
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, NoReturn, Self, TypeVar, cast

from darkprep.shards.errors import MachineError, RawError
from darkprep.shards.machine import machine_errors
from darkprep.shards.process import end_with_parent

Result = TypeVar("Result")

CRASHES_DECODER = "crashes the decoder; replace the file"
"""The message about a file whose reading kills its process."""
CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)
"""Signals of a crash; others come from outside, for example SIGKILL when memory is short."""
HEADER_S = 20.0
"""Seconds of computing for a header, which takes a millisecond."""
DECODE_S = 900.0
"""Seconds of computing to decode and develop a file; the slowest file known takes 20."""
_SLOW_S = 60.0
"""Seconds after which a line says which file is waited for."""
_MOST_WAIT_S = 900.0
"""Seconds that may pass in addition to those of computing before the process is given up: the disk hangs."""
_POLL_S = 0.1
_KILLED_S = 5.0
"""Seconds within which a killed process ends, unless it waits for a disk that hangs."""

log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    """What `read` returned, or the error that it raised."""

    result: object
    error: Exception | None


class GuardedReader(Generic[Result]):
    """Calls `read` on paths in a forked process, for at most `seconds` of computing each.

    Only time of the processor counts: a slow disk or a busy machine is not the file's fault. The process
    starts with the first call and ends with `close`, with this object or with this process; after a crash
    the next call starts another. Setting `stop` in another thread ends a call with MachineError. Not for use
    in several threads at once.
    """

    def __init__(
        self,
        read: Callable[[Path], Result],
        *,
        seconds: float,
        stop: threading.Event | None = None,
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._stop = stop or threading.Event()
        self._child: _Child[Result] | None = None

    def __call__(self, path: Path) -> Result:
        """Return `read(path)`, or raise what it raises.

        Raises RawError if the file crashes the process or takes too long, MachineError if the process was
        killed for another reason or does not answer.
        """
        if self._child is None:
            with machine_errors(str(path)):
                self._child = _Child(self._read, self._seconds)
            weakref.finalize(self, self._child.end)
        child = self._child
        try:
            answer = child.ask(path, self._seconds + _MOST_WAIT_S, self._stop)
        except (EOFError, OSError, pickle.UnpicklingError) as gone:
            self._child = None
            raise self._reason(path, child.end()) from gone
        except BaseException:
            self.close()
            raise
        if answer.error is not None:
            raise answer.error
        return cast("Result", answer.result)

    def close(self) -> None:
        """End the child process that reads."""
        child, self._child = self._child, None
        if child:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _reason(self, path: Path, number: int) -> RawError | MachineError:
        """Return the error for a process that was ended by signal `number` (0: it ended by itself)."""
        if number in CRASH_SIGNALS:
            return RawError(str(path), CRASHES_DECODER)
        if number == signal.SIGXCPU:
            return RawError(
                str(path), f"takes more than {self._seconds:g} s to decode; replace the file"
            )
        how = f"by signal {number}" if number else "by itself"
        return MachineError(
            str(path), f"the process that read it ended {how}; check that memory is not short"
        )


def guarded(
    read: Callable[[Path], Result],
    path: Path,
    *,
    seconds: float = DECODE_S,
    stop: threading.Event | None = None,
) -> Result:
    """Call `read` on one path in a process of its own; arguments and errors are those of GuardedReader."""
    with GuardedReader(read, seconds=seconds, stop=stop) as reader:
        return reader(path)


def guarded_call(
    function: Callable[[], Result], path: Path, *, seconds: float = DECODE_S
) -> Result:
    """Call a function that reads `path` in a process of its own. Raises the errors of GuardedReader."""
    return guarded(lambda _: function(), path, seconds=seconds)


class _Child(Generic[Result]):
    """A forked process that reads the files it is asked for."""

    def __init__(self, read: Callable[[Path], Result], seconds: float) -> None:
        self._connection, theirs = Pipe()
        self._parent = os.getpid()
        self._is_ended = False
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(theirs, read, seconds, self._parent)
        theirs.close()
        self._ended = os.pidfd_open(self._pid)

    def ask(self, path: Path, seconds: float, stop: threading.Event) -> _Answer:
        """Return the answer for a path.

        Raises EOFError if the process dies, MachineError if there is no answer after `seconds` or when `stop` is set.
        """
        self._connection.send(path)
        self._wait_for_answer(path, seconds, stop)
        sizes, content = self._connection.recv()
        buffers = [bytearray(size) for size in sizes]
        for buffer in buffers:
            if buffer:
                self._connection.recv_bytes_into(buffer)
        answer = pickle.loads(content, buffers=buffers)  # noqa: S301 # from our own process
        assert isinstance(answer, _Answer)
        return answer

    def _wait_for_answer(self, path: Path, seconds: float, stop: threading.Event) -> None:
        waited, is_reported = 0.0, False  # without pauses in which this process is suspended
        while not self._connection.poll():
            # A process that was forked meanwhile may have a copy of the pipe, which then stays open.
            ready = wait([self._connection, self._ended], timeout=_POLL_S)
            if self._ended in ready and not self._connection.poll():
                raise EOFError
            if stop.is_set():
                raise MachineError(str(path), "this process was asked to stop")
            waited += _POLL_S
            if waited > seconds:
                raise MachineError(
                    str(path),
                    f"the process that reads it has not answered for {waited:.0f} s; check the disk or the network it is mounted from",
                )
            if waited >= _SLOW_S and not is_reported:
                is_reported = True
                log.warning(
                    "%s: takes more than %.0f s to read; the disk may be slow", path, _SLOW_S
                )

    def end(self) -> int:
        """Kill the process if it runs; return the number of the signal that ended it before, or 0.

        Does nothing the second time, and in a process that was forked from the parent.
        """
        if self._is_ended or os.getpid() != self._parent:
            return 0
        self._is_ended = True
        with contextlib.suppress(OSError):
            self._connection.close()
        if self._ended not in wait([self._ended], timeout=0):
            os.kill(self._pid, signal.SIGKILL)
        has_ended = self._ended in wait([self._ended], timeout=_KILLED_S)
        os.close(self._ended)
        if not has_ended:  # it ends when the disk answers, and nobody waits for this
            return 0
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:  # SIGCHLD is ignored, so the kernel has forgotten it
            return 0
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _serve(
    connection: Connection, read: Callable[[Path], Result], seconds: float, parent: int
) -> NoReturn:
    """Answer the requests until the parent closes the pipe or ends."""
    try:
        faulthandler.disable()  # the parent reports the crash in one line
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A program's own handlers of crashes would let this process end without the signal, or continue.
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, *CRASH_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A new thread gets OpenMP threads of its own. Those of the thread that was forked do not exist in this process, and
        # torch would wait for them without end.
        thread = threading.Thread(target=_answer_all, args=(connection, read, seconds, parent))
        thread.start()
        thread.join()
    except OSError:
        pass
    finally:
        os._exit(0)


def _answer_all(
    connection: Connection, read: Callable[[Path], Result], seconds: float, parent: int
) -> None:
    with contextlib.suppress(Exception):  # the parent reports that the process has ended
        while os.getppid() == parent:
            path = connection.recv()
            _limit_computing(seconds)
            _answer(connection, read, path)


def _limit_computing(seconds: float) -> None:
    """Let the kernel send SIGXCPU to this process when it has computed for `seconds` more."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + seconds)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _answer(connection: Connection, read: Callable[[Path], Result], path: Path) -> None:
    result, error = None, None
    try:
        result = read(path)
    except Exception as raised:  # noqa: BLE001 # the parent raises it
        error = raised
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(_Answer(result, error), protocol=5, buffer_callback=buffers.append)
    except Exception as raised:  # noqa: BLE001 # a library's error with parts that cannot be copied
        buffers.clear()
        text = RuntimeError(f"{type(error or raised).__name__}: {error or raised}")
        content = pickle.dumps(_Answer(None, text))
    raw = [buffer.raw() for buffer in buffers]
    connection.send(([part.nbytes for part in raw], content))
    for part in raw:
        if part.nbytes:
            connection.send_bytes(part)
