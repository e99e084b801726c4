"""What the machine does while a file is read is never taken for a property of the file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import rawpy

import darkprep.shards.machine as machine
from darkprep.pipeline.raw.develop import develop, develop_amplified
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.errors import MachineError, RawError

OF_THE_MACHINE = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT, errno.ENOMEM]
READS = [
    read_header, read_raw, develop, lambda path: develop_amplified(path, 2.0),
    lambda path: RawFile(path).fingerprint(),
]  # fmt: skip
MEMORY = [MemoryError(), rawpy._rawpy.LibRawUnsufficientMemoryError(b"Unsufficient memory"),
          rawpy._rawpy.LibRawMemPoolOverflowError(b"Libraw internal mempool overflowed")]  # fmt: skip


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(machine, "RETRY_AFTER_S", (0.0, 0.0, 0.0))


def fail(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: Exception, *, times: int
) -> None:
    """Make the first `times` calls of a function raise an error."""
    real, left = getattr(target, name), [times]

    def call(*args: Any, **named: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return real(*args, **named)

    monkeypatch.setattr(target, name, call)


@pytest.mark.parametrize("number", OF_THE_MACHINE)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", ["open", "stat"])
def test_an_error_that_stays_names_the_machines_reason(write_raw, monkeypatch, number, read, name):
    path = write_raw()
    if name == "stat" and read is READS[-1]:
        return  # a fingerprint opens only
    fail(monkeypatch, Path, name, OSError(number, os.strerror(number)), times=99)

    with pytest.raises(MachineError, match=os.strerror(number)) as caught:
        read(path)

    assert type(caught.value) is MachineError
    assert str(caught.value).startswith(f"{path}: cannot be read now: ")


@pytest.mark.parametrize("number", OF_THE_MACHINE)
@pytest.mark.parametrize("read", READS)
def test_an_error_that_passes_changes_nothing(write_raw, monkeypatch, number, read):
    path = write_raw()
    fail(monkeypatch, Path, "open", OSError(number, os.strerror(number)), times=1)

    assert read(path) is not None


@pytest.mark.parametrize("error", MEMORY)
@pytest.mark.parametrize("read", READS[:4])
def test_short_memory_is_not_a_damaged_file(write_raw, monkeypatch, error, read):
    path = write_raw()
    fail(monkeypatch, rawpy, "imread", error, times=99)

    with pytest.raises(MachineError, match="use fewer --jobs"):
        read(path)


@pytest.mark.parametrize("read", [read_raw, develop])
@pytest.mark.parametrize("is_short", [False, True])
def test_a_file_that_asks_for_more_memory_than_its_pixels_take_is_damaged(
    write_raw, monkeypatch, read, is_short
):
    """As a tile of damaged width does, for which LibRaw finds no memory."""
    path = write_raw()
    real = rawpy.imread
    fault = rawpy._rawpy.LibRawUnsufficientMemoryError(b"Unsufficient memory")

    class Unpacked:
        def __init__(self, raw: Any) -> None:
            side = 1 << 28 if is_short else 64
            self.sizes = raw.sizes._replace(raw_height=side, raw_width=side)
            self.close = raw.close

        def unpack(self) -> None:
            raise fault

    monkeypatch.setattr(rawpy, "imread", lambda source: Unpacked(real(source)))
    monkeypatch.setattr("darkprep.pipeline.raw.libraw_file._MAX_PIXELS", 1 << 60)

    with pytest.raises(MachineError if is_short else RawError) as caught:
        read(path)

    what = "use fewer --jobs" if is_short else "damaged or truncated (Unsufficient memory)"
    assert what in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_an_error_of_the_path_stays_the_files(write_raw, monkeypatch, number):
    path = write_raw()
    fail(monkeypatch, Path, "open", OSError(number, os.strerror(number)), times=99)

    with pytest.raises(RawError):
        read_raw(path)


def test_an_error_that_libraw_hides_is_not_the_files(write_raw, monkeypatch):
    """A short read inside a decoder would give made up codes, so decoders read from memory alone."""
    path = write_raw()
    sources: list[Any] = []
    monkeypatch.setattr(rawpy, "imread", sources.append)

    with pytest.raises(AttributeError):
        read_raw(path)

    assert sources[0].getvalue() == path.read_bytes()


def test_retries_end_when_asked_to(write_raw, monkeypatch):
    monkeypatch.setattr(machine, "RETRY_AFTER_S", (60.0,))
    path, stop = write_raw(), threading.Event()
    fail(monkeypatch, Path, "open", OSError(errno.EIO, "Input/output error"), times=99)
    threading.Timer(0.05, stop.set).start()

    with machine.retries_end_with(stop), pytest.raises(MachineError):
        read_raw(path)


def test_retries_within_retries_do_not_multiply():
    tries: list[int] = []

    def operation() -> None:
        tries.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(MachineError):
        machine.with_retries("outer", lambda: machine.with_retries("inner", operation))

    assert len(tries) == 4
