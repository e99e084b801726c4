"""Open a published shard: check its structure, then read samples into the caller's memory.

A plan fixes every header byte of its shards, so the check compares the headers with the expected bytes:
truncated, foreign, old, malicious and incomplete files all fail, and no name in a file is ever used as a
path. The trade-off: a tar with the same content but other headers fails too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import numpy as np

from darkprep.shards.errors import ShardDamaged
from darkprep.shards.format import (
    END_BYTES,
    META_BYTES,
    U16,
    SampleMeta,
    ShardLayout,
    checksum,
    decode_meta,
    raw_bytes,
    sample_key,
)

_NOT_A_SHARD = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EIO}
"""Errors on opening that an intact shard does not cause: a link, a socket, a device, no permission, a bad disk."""


class ShardFile:
    """An open shard file whose structure was checked. Raises FileNotFoundError or ShardDamaged.

    `plan` is the digest of the shard's plan. With `verify`, `read` checks the checksums at the first read
    of each sample.
    """

    def __init__(
        self, path: Path, layout: ShardLayout, shard: int, plan: str, *, verify: bool = True
    ) -> None:
        self.path = path
        self.shard = shard
        self._layout = layout
        self._unverified = set(range(layout.samples)) if verify else set()
        self._gap = bytearray(layout.gt_offset - layout.low_offset - layout.low_bytes)
        self._descriptor = _open_descriptor(path)
        self.seen = os.fstat(self._descriptor)
        """The status of the file when it was opened."""
        try:
            self._check_file()
            self.metas = tuple(self._check_sample(index, plan) for index in range(layout.samples))
        except BaseException:
            self.close()
            raise

    def read(self, sample: int, low: U16, gt: U16) -> None:
        """Read one sample into `low` (C, h, w) and `gt` (3, H, W), C-contiguous uint16, in one system call.

        Raises ShardDamaged when the file has become shorter or a checksum is wrong.
        """
        offset = sample * self._layout.sample_bytes + self._layout.low_offset
        pieces = [raw_bytes(low), memoryview(self._gap), raw_bytes(gt)]
        wanted = sum(len(piece) for piece in pieces)
        try:
            got = os.preadv(self._descriptor, pieces, offset)
        except OSError as error:
            raise ShardDamaged(f"{self.path}: sample {sample}: {error.strerror}") from error
        if got != wanted:
            raise ShardDamaged(f"{self.path}: ends inside sample {sample}")
        if sample in self._unverified:
            meta = self.metas[sample]
            for name, array, expected in (("low", low, meta.low), ("gt", gt, meta.gt)):
                if checksum(array) != expected:
                    raise ShardDamaged(
                        f"{self.path}: sample {sample}: the checksum of {name} is wrong"
                    )
            self._unverified.discard(sample)

    def verify_all(self) -> None:
        """Read every sample and check its checksums. Raises ShardDamaged."""
        low = np.empty(self._layout.low_shape, np.uint16)
        gt = np.empty(self._layout.gt_shape, np.uint16)
        for sample in range(self._layout.samples):
            self.read(sample, low, gt)

    def close(self) -> None:
        """Close the file; only then is the disk space of a deleted shard freed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _check_file(self) -> None:
        """Check the type of the file, its size and the end mark of the tar."""
        if not stat.S_ISREG(self.seen.st_mode):
            raise ShardDamaged(f"{self.path}: is not a regular file")
        size = self.seen.st_size
        if size != self._layout.shard_bytes:
            raise ShardDamaged(
                f"{self.path}: has {size} bytes, but shards of the plan have {self._layout.shard_bytes}"
            )
        if self._pread(END_BYTES, size - END_BYTES) != bytes(END_BYTES):
            raise ShardDamaged(f"{self.path}: the end mark is missing")

    def _check_sample(self, sample: int, plan: str) -> SampleMeta:
        start = sample * self._layout.sample_bytes
        expected = self._layout.headers(self.shard, sample)
        for name, offset, header in zip(
            ("low", "gt", "json"), self._layout.header_offsets(), expected, strict=True
        ):
            if self._pread(len(header), start + offset) != header:
                raise ShardDamaged(
                    f"{self.path}: sample {sample}: the header of {name} is not the one that the plan requires"
                )
        try:
            meta = decode_meta(self._pread(META_BYTES, start + self._layout.meta_offset), plan)
        except ShardDamaged as error:
            raise ShardDamaged(f"{self.path}: sample {sample}: {error}") from error
        found = (meta.key, meta.cfa, meta.target)
        if found != (sample_key(self.shard, sample), self._layout.cfa, self._layout.target):
            raise ShardDamaged(
                f"{self.path}: sample {sample}: contains the metadata of another sample, {meta.key} ({meta.cfa}, {meta.target})"
            )
        return meta

    def _pread(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise ShardDamaged(f"{self.path}: cannot be read: {error.strerror}") from error


def verify_shard(path: Path, layout: ShardLayout, shard: int, plan: str) -> None:
    """Check a whole shard, including its checksums. Raises the errors of ShardFile."""
    with contextlib.closing(ShardFile(path, layout, shard, plan)) as opened:
        opened.verify_all()


def _open_descriptor(path: Path) -> int:
    """Open a file for reading and return its descriptor; O_NONBLOCK avoids waiting at a named pipe."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in _NOT_A_SHARD:
            raise
        raise ShardDamaged(f"{path}: cannot be opened: {error.strerror}") from error
