"""Frames decoded once: a zarr group whose arrays are one uncompressed chunk each, read through memory maps.

Any zarr reader opens the store; ours maps the chunk file, because zarr's own read path costs 0.5 ms a
call and copies the frame's chunk for every crop. The trade-off: no compression (noisy frames would give
back 10-15 % for several times the CPU), and a crop must be copied before the frame may be dropped.

An array is named after the content of its RAW file and the LibRaw that decoded it, so a replaced file and
another version's development are other frames, and one store serves any number of plans.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr

from darkprep.shards.files import disk_errors, read_json, write_json
from darkprep.shards.format import U16, checksum, raw_bytes

_CHUNK = "0.0.0"
_OPEN_FRAMES = 256
_META_BYTES = 1 << 20
_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {"darkprep": 1}}
_FILES_PER_FRAME = 4
"""Folder, zarr.json, chunk, and slack for the growth of the parent folder, each rounded up to a block."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One stored array `(planes, rows, columns)` uint16, read-only, and what is known of it."""

    array: U16
    facts: dict[str, Any]


class FrameStore:
    """The store in one folder. Safe for any number of processes: frames appear whole, by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: OrderedDict[str, Frame] = OrderedDict()

    def create(self) -> None:
        """Make the folder and its group, whole in one step; raises DiskFull or SpoolError."""
        metadata = self.path / "zarr.json"
        with disk_errors(metadata):
            self.path.mkdir(parents=True, exist_ok=True)
        if read_json(metadata) != _GROUP:
            write_json(metadata, _GROUP)

    def names(self) -> list[str]:
        """The frames that are stored, sorted."""
        return sorted(
            path.name
            for path in self.path.glob("*-*")
            if (path / "zarr.json").exists() and not path.name.startswith(".")
        )

    def get(self, name: str) -> Frame | None:
        """A stored frame, or None where there is none or it is damaged (then `put` replaces it).

        The checksum of the whole frame is checked when this process maps it first.
        """
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        frame = self._map(name)
        if frame is None:
            return None
        self._open[name] = frame
        while len(self._open) > _OPEN_FRAMES:
            self._open.popitem(last=False)
        return frame

    def put(self, name: str, array: U16, facts: dict[str, Any]) -> Frame:
        """Store a frame `(planes, rows, columns)` under `name`; raises DiskFull or SpoolError.

        Nothing half-written is ever visible under the name. Call it inside `being_made` after `get` found
        nothing: a damaged frame and what dead makers left of this one are removed first, so that it never
        lies on the disk twice.
        """
        aside = self.path / f".{name}.{os.getpid()}.tmp"
        attributes = facts | {"xxh3": checksum(array)}
        attributes["facts_xxh3"] = _facts_sum(array.shape, attributes)
        with disk_errors(self.path / name, array.nbytes):
            self.drop(name)
            try:
                for left in self.path.glob(f".{name}.*.tmp"):
                    shutil.rmtree(left, ignore_errors=True)
                _write_metadata(aside, array.shape, attributes)
                _write_chunk(aside / _CHUNK, array)
                _rename_unless_there(aside, self.path / name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return Frame(array, attributes)

    def is_whole(self, name: str) -> bool:
        """Whether a stored frame is what its checksum says."""
        return self._map(name) is not None

    def drop(self, name: str) -> None:
        """Delete a frame; it vanishes from the store in one step."""
        self._open.pop(name, None)
        doomed = self.path / f".{name}.{os.getpid()}.tmp"
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what dead writers left, and group metadata that stayed half-written.

        Only while `Spool.has_writers` is false: a pid may belong to another container.
        """
        for path in self.path.glob(".*.tmp"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def being_made(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to make one frame, so that two processes do not decode the same file.

        Yields whether it is held: without `wait` another process may have it. A byte of one lock file
        stands for each name, so nothing is left behind by whoever dies. Two names may share a byte:
        then one waits for nothing, which is harmless.
        """
        with disk_errors(self.path / ".lock"):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield _lock_byte(descriptor, xxhash.xxh32_intdigest(name.encode()) >> 1, wait=wait)
        finally:
            os.close(descriptor)

    def _map(self, name: str) -> Frame | None:
        metadata = read_json(self.path / name / "zarr.json", _META_BYTES)
        try:
            if metadata is None or metadata["data_type"] != "uint16":
                return None
            shape = tuple(int(n) for n in metadata["shape"])
            facts = dict(metadata["attributes"])
            chunk = self.path / name / _CHUNK
            if facts["facts_xxh3"] != _facts_sum(shape, facts) or len(shape) != 3:
                return None
            if min(shape) < 1 or chunk.stat().st_size != 2 * math.prod(shape):
                return None
            array = np.memmap(chunk, dtype="<u2", mode="r", shape=shape)
            whole = checksum(array) == facts["xxh3"]
        except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None
        return Frame(array, facts) if whole else None


def _facts_sum(shape: tuple[int, ...], facts: dict[str, Any]) -> str:
    """A checksum over what stands beside the pixels: a flipped digit in a black level is damage too."""
    told = {key: value for key, value in facts.items() if key != "facts_xxh3"}
    text = json.dumps([list(shape), told], sort_keys=True, separators=(",", ":"))
    return f"xxh3:{xxhash.xxh3_64_hexdigest(text.encode())}"


def _rename_unless_there(aside: Path, final: Path) -> None:
    """A frame that somebody put there meanwhile is the same one."""
    try:
        aside.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def frame_allocation(array_bytes: int, block: int) -> int:
    """Disk space that a stored frame takes at most, on a file system with blocks of `block` bytes."""
    return (-(-array_bytes // block) + _FILES_PER_FRAME) * block


def _lock_byte(descriptor: int, byte: int, *, wait: bool) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _write_metadata(folder: Path, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.create_array(
            store=str(folder),
            shape=shape,
            chunks=shape,
            dtype="uint16",
            compressors=None,
            filters=None,
            chunk_key_encoding={"name": "v2", "separator": "."},
            attributes=attributes,
        )


def _write_chunk(path: Path, array: U16) -> None:
    """The array's bytes as zarr's one chunk; the space is claimed first, so that a full disk says so at once."""
    data = raw_bytes(np.ascontiguousarray(array, dtype="<u2"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, len(data))
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
