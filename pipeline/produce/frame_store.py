"""Frames decoded once: a zarr group whose arrays are one uncompressed chunk each, read through memory maps.

Any zarr reader opens the store. This module writes the metadata and maps the chunk file itself, because zarr
takes 0.4 s to load, and its own read path costs 0.5 ms a call and copies the frame's chunk for every crop. The trade-off: no compression (it would
save 10-15 % of noisy frames for several times the CPU), and a crop must be copied before the frame may be
deleted.

An array is named after the content of its RAW file and the version of LibRaw that decoded it. A replaced
file and another version's development therefore have other names, and one store serves any number of
plans.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from darkprep.pipeline.plan.frame_names import FrameKind
from darkprep.shards.errors import SpoolError
from darkprep.shards.files import (
    disk_errors,
    ensure_directory,
    json_bytes,
    open_for_writing,
    parse_json_object,
    read_json,
    read_regular_file,
    remove,
    rename,
    write_json,
)
from darkprep.shards.format import U16, checksum, raw_bytes
from darkprep.shards.locks import lock_errors
from darkprep.shards.machine import with_retries

_CHUNK = "0.0.0"
_MAX_MAPPED = 256
_MAX_METADATA_BYTES = 1 << 20
_MAX_FRAME_BYTES = 1 << 32
"""More than any photograph has; the checksum of a file of holes could otherwise take hours."""
_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {"darkprep": 1}}
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_BLOCKS_PER_FRAME = 4
"""Directory, zarr.json, chunk, and growth of the parent directory, each rounded up to a block."""
_PIXELS_CHECKSUM, _ATTRIBUTES_CHECKSUM = "xxh3", "facts_xxh3"


@dataclass(frozen=True, kw_only=True)
class SensorLevels:
    """The black level, white level and ISO of a packed exposure's codes."""

    black: tuple[float, ...]
    """Black level in codes of each plane."""
    white: int
    """Code of full scale."""
    iso: float
    """ISO; 0 if the file does not state it."""


@dataclass(frozen=True, kw_only=True)
class FrameAttributes:
    """The metadata stored with a frame: the attributes of its zarr array."""

    kind: FrameKind
    raw: str
    """Name of the RAW file, for display."""
    levels: SensorLevels | None = None
    """Levels of packed codes; None for a developed long exposure."""

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as a JSON object."""
        if self.levels is None:
            return {"kind": self.kind, "raw": self.raw}
        return {
            "kind": self.kind,
            "black": list(self.levels.black),
            "white": self.levels.white,
            "iso": self.levels.iso,
            "raw": self.raw,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FrameAttributes:
        """Create attributes from a JSON object, ignoring unknown keys; raise ValueError or KeyError if invalid."""
        kind, raw = record["kind"], record["raw"]
        if kind not in ("short", "long"):
            raise ValueError("stored frame: kind must be short or long")
        if type(raw) is not str:
            raise ValueError("stored frame: raw must be a string")
        if kind == "long":
            return cls(kind=kind, raw=raw)
        black, white, iso = record["black"], record["white"], record["iso"]
        if not (isinstance(black, list) and black and all(map(_is_number, black))):
            raise ValueError("stored frame: black must be a list of numbers")
        if type(white) is not int or not _is_number(iso):
            raise ValueError("stored frame: white must be an integer and iso a number")
        levels = SensorLevels(black=tuple(map(float, black)), white=white, iso=float(iso))
        return cls(kind=kind, raw=raw, levels=levels)


@dataclass(frozen=True, eq=False)
class Frame:
    """A stored frame: a read-only array `(planes, rows, columns)` uint16, and its attributes."""

    array: U16
    attributes: FrameAttributes


class FrameStore:
    """The frames stored in one directory. Any number of processes may use it: a frame appears complete, by a rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group_file = path / "zarr.json"
        self._mapped: OrderedDict[str, Frame] = OrderedDict()
        self._mapping = threading.Lock()

    def create(self) -> None:
        """Create the directory and its zarr group.

        Raises DiskFull, or SpoolError, also if the directory is a zarr store of another program.
        """
        with disk_errors(self._group_file):
            self.path.mkdir(parents=True, exist_ok=True)
        found = read_json(self._group_file)
        if found == _GROUP:
            return
        if found is not None or (
            self._group_file.exists() and not _is_incomplete(self._group_file)
        ):
            raise SpoolError(
                f"{self.path}: holds a zarr store that darkprep did not make; choose another --frames-dir, or move it away"
            )
        write_json(self._group_file, _GROUP)

    def names(self) -> list[str]:
        """Return the names of the stored frames, sorted."""
        return sorted(
            path.name
            for path in self.path.glob("*-*")
            if (path / "zarr.json").exists() and not path.name.startswith(".")
        )

    def has(self, name: str) -> bool:
        """Return whether a frame is stored, without checking it."""
        return name in self._mapped or (self.path / name / "zarr.json").exists()

    def get(self, name: str) -> Frame | None:
        """Return a stored frame, or None when it is not stored or is damaged (`put` then replaces it).

        The checksum of the whole frame is verified when this process maps it for the first time. Raises
        MachineError when memory, disk or network fail; the frame then does not count as damaged.
        """
        with self._mapping:
            if name in self._mapped:
                self._mapped.move_to_end(name)
                return self._mapped[name]
        frame = self._map(name)
        if frame is None:
            return None
        with self._mapping:
            self._mapped[name] = frame
            while len(self._mapped) > _MAX_MAPPED:
                self._mapped.popitem(last=False)
        return frame

    def put(self, name: str, array: U16, attributes: FrameAttributes) -> Frame:
        """Store a frame `(planes, rows, columns)` under `name`. Raises DiskFull or SpoolError.

        An incomplete frame is never visible under the name. Call it inside `decode_lock` after `get`
        returned None: a damaged frame and leftovers of dead processes are removed first, so that a frame is
        never on the disk twice. If the store's directory has been removed, the frame is returned but not
        stored.
        """
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        stored = attributes.to_json() | {_PIXELS_CHECKSUM: checksum(array)}
        stored[_ATTRIBUTES_CHECKSUM] = _attributes_checksum(array.shape, stored)
        with disk_errors(self.path / name, array.nbytes):
            self.delete(name)
            try:
                for stale in self.path.glob(f".{name}.*.tmp"):
                    remove(stale)
                with contextlib.suppress(FileNotFoundError):
                    _write_metadata(temporary, array.shape, stored)
                    _write_chunk(temporary / _CHUNK, array)
                    _rename_unless_exists(temporary, self.path / name)
            finally:
                remove(temporary)
        return Frame(array, attributes)

    def is_intact(self, name: str) -> bool:
        """Return whether a frame is stored and its checksums are correct."""
        return self._map(name) is not None

    def delete(self, name: str) -> None:
        """Delete a frame; it disappears in one step."""
        self._mapped.pop(name, None)
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        with contextlib.suppress(FileNotFoundError):
            rename(self.path / name, temporary)
        remove(temporary)

    def remove_stale_files(self) -> None:
        """Remove files that dead processes left, including incomplete group metadata.

        Call it only while `Spool.has_writers` is false: a process in another container looks dead from
        here.
        """
        for path in self.path.glob(".*.tmp"):
            if not _TEMPORARY.fullmatch(path.name):
                continue
            remove(path)

    @contextlib.contextmanager
    def decode_lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of one frame during a block, so that two processes do not decode the same file.

        Yields whether the lock is held; without `wait`, this is False when another process holds it. Each
        name is one byte of a common lock file, so a process that dies leaves nothing behind. If two names
        share a byte, one process waits for the other without need.
        """
        if not self._group_file.exists():  # the directory was removed
            ensure_directory(self.path)
            self.create()
        descriptor = with_retries(str(self.path / ".lock"), self._open_lock_file, "written")
        try:
            with lock_errors(self.path):
                is_held = _lock_byte(
                    descriptor, xxhash.xxh32_intdigest(name.encode()) >> 1, wait=wait
                )
            yield is_held
        finally:
            os.close(descriptor)

    def _open_lock_file(self) -> int:
        with disk_errors(self.path / ".lock"):
            return open_for_writing(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)

    def _map(self, name: str) -> Frame | None:
        try:
            return with_retries(str(self.path / name), lambda: self._map_once(name))
        except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None

    def _map_once(self, name: str) -> Frame | None:
        record = read_regular_file(self.path / name / "zarr.json", _MAX_METADATA_BYTES)
        metadata = parse_json_object(record)
        if metadata is None or metadata["data_type"] != "uint16":
            return None
        shape = tuple(int(n) for n in metadata["shape"])
        stored = dict(metadata["attributes"])
        chunk = self.path / name / _CHUNK
        if stored[_ATTRIBUTES_CHECKSUM] != _attributes_checksum(shape, stored):
            return None
        if len(shape) != 3 or min(shape) < 1 or 2 * math.prod(shape) > _MAX_FRAME_BYTES:
            return None
        if chunk.stat().st_size != 2 * math.prod(shape):
            return None
        attributes = FrameAttributes.from_json(stored)
        array = np.memmap(chunk, dtype="<u2", mode="r", shape=shape)
        return Frame(array, attributes) if checksum(array) == stored[_PIXELS_CHECKSUM] else None


def frame_allocation(array_bytes: int, block: int) -> int:
    """Return the maximum disk space of a stored frame on a file system with blocks of `block` bytes."""
    return (-(-array_bytes // block) + _BLOCKS_PER_FRAME) * block


def _is_incomplete(group_file: Path) -> bool:
    """Return whether a file holds only the beginning of the group metadata, as a crash may leave it."""
    return json_bytes(_GROUP).startswith(read_regular_file(group_file, 4096).rstrip(b"\0"))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _attributes_checksum(shape: tuple[int, ...], stored: dict[str, Any]) -> str:
    """Return a checksum of shape and attributes, so that a changed digit in a black level is detected."""
    covered = {key: value for key, value in stored.items() if key != _ATTRIBUTES_CHECKSUM}
    text = json.dumps([list(shape), covered], sort_keys=True, separators=(",", ":"))
    return f"xxh3:{xxhash.xxh3_64_hexdigest(text.encode())}"


def _rename_unless_exists(temporary: Path, final: Path) -> None:
    """Rename a frame to its final name, unless another process has stored the same frame by now."""
    try:
        rename(temporary, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _lock_byte(descriptor: int, byte: int, *, wait: bool) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _write_metadata(directory: Path, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Write what `zarr.create_array` writes for an array of one uncompressed chunk, without half a second to load zarr."""
    metadata = {
        "shape": list(shape),
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": attributes,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    directory.mkdir()
    write_json(directory / "zarr.json", metadata, sync=False)


def _write_chunk(path: Path, array: U16) -> None:
    """Write the array as zarr's only chunk; the space is reserved first, so that a full disk is detected at once."""
    data = raw_bytes(np.ascontiguousarray(array, dtype="<u2"))
    descriptor = open_for_writing(path, os.O_WRONLY | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, len(data))
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
