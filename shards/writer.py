"""Writes one shard: its full size allocated first, one writev a sample, published by rename.

The trade-off: no fsync. A shard can be made again, so a power loss costs work, not data; a reader
checks every shard that it opens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from darkprep.shards.errors import SpoolError
from darkprep.shards.file_names import partial_file_name
from darkprep.shards.files import disk_errors
from darkprep.shards.format import (
    END_BYTES,
    META_BYTES,
    NPY_HEADER_BYTES,
    TAR_BLOCK,
    Sample,
    ShardLayout,
    checksum,
    encode_meta,
    raw_bytes,
    sample_key,
)

_ZEROS = bytes(TAR_BLOCK)


def write_shard(
    path: Path,
    layout: ShardLayout,
    shard: int,
    samples: Sequence[Sample],
    *,
    plan: str,
    partial: Path,
) -> None:
    """Write shard number `shard` at `path`, through a file in the folder `partial` on the same disk.

    `plan` is the digest that ties the shard to its plan. The samples get their keys and checksums here.
    Raises ValueError when a sample is not of the layout, DiskFull or SpoolError when the disk refuses;
    then nothing is left behind.
    """
    if len(samples) != layout.samples:
        raise ValueError(f"shard {shard} needs {layout.samples} samples, not {len(samples)}")
    aside = partial / partial_file_name(shard)
    with disk_errors(aside, layout.shard_bytes), _removed_on_failure(aside):
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, layout.shard_bytes)
            for index, sample in enumerate(samples):
                _write_all(descriptor, _sample_pieces(layout, shard, index, sample, plan))
            _write_all(descriptor, [bytes(END_BYTES)])
            size = os.fstat(descriptor).st_size
            if size != layout.shard_bytes:
                raise SpoolError(
                    f"{aside}: {size} bytes instead of {layout.shard_bytes}; the file system lost some"
                )
        finally:
            os.close(descriptor)
        aside.replace(path)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sample_pieces(
    layout: ShardLayout, shard: int, index: int, sample: Sample, plan: str
) -> list[bytes | memoryview]:
    low = np.ascontiguousarray(sample.low, dtype="<u2")
    gt = np.ascontiguousarray(sample.gt, dtype="<u2")
    if low.shape != layout.low_shape or gt.shape != layout.gt_shape:
        raise ValueError(
            f"sample {index}: low {low.shape} and gt {gt.shape} instead of {layout.low_shape} and {layout.gt_shape}"
        )
    meta = replace(sample.meta, key=sample_key(shard, index), low=checksum(low), gt=checksum(gt))
    low_header, gt_header, meta_header = layout.headers(shard, index)
    return [
        low_header,
        raw_bytes(low),
        _padding(layout.low_bytes),
        gt_header,
        raw_bytes(gt),
        _padding(layout.gt_bytes),
        meta_header,
        encode_meta(meta, plan),
        _ZEROS[: -META_BYTES % TAR_BLOCK],
    ]


def _padding(array_bytes: int) -> bytes:
    return _ZEROS[: -(NPY_HEADER_BYTES + array_bytes) % TAR_BLOCK]


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write every piece; the kernel may take part of them at a time."""
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
