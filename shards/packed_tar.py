"""Write the tars of a packed data set: samples of a spool under keys that no other spool has (FORMAT.md).

The trade-off: a shard's metadata have a fixed length, so that its size is known beforehand. Here they are as
long as they need to be, and only an upper bound of the size is known.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.shards.files import disk_errors, open_for_writing
from darkprep.shards.format import (
    END_BYTES,
    NPY_HEADER_BYTES,
    TAR_BLOCK,
    U16,
    SampleMeta,
    ShardLayout,
    member_header,
    meta_json,
    npy_header,
    padded,
    raw_bytes,
)
from darkprep.shards.writer import write_all


def packed_key(plan: str, meta: SampleMeta) -> str:
    """Return the key of a sample in a data set, such as `f3f58ce8c2080408-00000042-0003`; `plan` is the digest."""
    return f"{plan}-{meta.key}"


def packed_sample_bytes(layout: ShardLayout) -> int:
    """Return the largest number of bytes that a sample needs in a packed tar."""
    return layout.sample_bytes + TAR_BLOCK  # a longer key may make the metadata longer by a block


def packed_tar_bytes(layout: ShardLayout, samples: int) -> int:
    """Return the largest number of bytes of a packed tar with so many samples, and of the index beside it."""
    return samples * packed_sample_bytes(layout) + END_BYTES + (samples + 1) * 8


@dataclass(frozen=True, kw_only=True)
class PackedTar:
    """A finished tar."""

    name: str
    size_bytes: int
    sha256: str
    """64 hex digits."""
    offsets: tuple[int, ...]
    """Offset in bytes of each sample, then that of the end mark."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.offsets) - 1

    def index(self) -> bytes:
        """Return the content of Energon's `.tar.idx` file: the offsets as 64-bit integers, little endian."""
        return struct.pack(f"<{len(self.offsets)}Q", *self.offsets)


class PackedTarWriter:
    """Writes one tar of a packed data set. `plan` is the digest of the plan; the file is created or replaced.

    Raises DiskFull or SpoolError when writing fails; the caller removes the unfinished file.
    """

    def __init__(self, path: Path, layout: ShardLayout, plan: str) -> None:
        self._path = path
        self._layout = layout
        self._plan = plan
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._offsets: list[int] = []
        with disk_errors(path):
            self._descriptor = open_for_writing(path, os.O_WRONLY | os.O_EXCL, 0o644)

    @property
    def samples(self) -> int:
        """Number of samples written so far."""
        return len(self._offsets)

    def add(self, meta: SampleMeta, low: U16, gt: U16) -> None:
        """Append a sample with the metadata of its shard; `low` (C, h, w) and `gt` as the layout states, C-contiguous."""
        layout, key = self._layout, packed_key(self._plan, meta)
        record = meta_json(replace(meta, key=key), self._plan)
        self._offsets.append(self._position)
        self._write(
            [
                member_header(f"{key}.low.npy", NPY_HEADER_BYTES + layout.low_bytes),
                npy_header(layout.low_shape),
                raw_bytes(low),
                _padding(NPY_HEADER_BYTES + layout.low_bytes),
                member_header(f"{key}.gt.npy", NPY_HEADER_BYTES + layout.gt_bytes),
                npy_header(layout.gt_shape),
                raw_bytes(gt),
                _padding(NPY_HEADER_BYTES + layout.gt_bytes),
                member_header(f"{key}.json", len(record)),
                record,
                _padding(len(record)),
            ]
        )

    def finish(self) -> PackedTar:
        """Write the end mark, flush the file to the disk and close it; return what was written."""
        self._offsets.append(self._position)
        self._write([bytes(END_BYTES)])
        with disk_errors(self._path):
            os.fsync(self._descriptor)
        self.close()
        return PackedTar(
            name=self._path.name,
            size_bytes=self._position,
            sha256=self._sha256.hexdigest(),
            offsets=tuple(self._offsets),
        )

    def close(self) -> None:
        """Close the file, finished or not."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        for piece in pieces:
            self._sha256.update(piece)
        size = sum(map(len, pieces))
        with disk_errors(self._path, size):
            write_all(self._descriptor, pieces)
        self._position += size


def _padding(size: int) -> bytes:
    return bytes(padded(size) - size)
