"""Write one shard: allocate its full size, write each sample by one writev, publish the file by a rename.

The trade-off: no fsync. A shard can be rebuilt, so a power failure costs time but no data; a reader checks
every shard that it opens.
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
from darkprep.shards.files import disk_errors, open_for_writing, remove, rename
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
    """Write shard number `shard` to `path`, through a temporary file in the directory `partial` on the same disk.

    `plan` is the digest of the shard's plan. Keys and checksums of the samples are filled in. Missing
    directories are created. Raises ValueError when a sample does not fit the layout, DiskFull or SpoolError
    when writing fails; no file is left behind then.
    """
    if len(samples) != layout.samples:
        raise ValueError(f"shard {shard} needs {layout.samples} samples, not {len(samples)}")
    temporary = partial / partial_file_name(shard)
    for last_attempt in (False, True):
        with disk_errors(temporary, layout.shard_bytes), _removed_on_failure(temporary):
            try:
                _write_tar(temporary, layout, shard, samples, plan)
                rename(temporary, path)
            except FileNotFoundError:
                if last_attempt:
                    raise
                path.parent.mkdir(exist_ok=True)
            else:
                return


def _write_tar(
    path: Path, layout: ShardLayout, shard: int, samples: Sequence[Sample], plan: str
) -> None:
    descriptor = open_for_writing(path, os.O_WRONLY | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, layout.shard_bytes)
        for index, sample in enumerate(samples):
            write_all(descriptor, _sample_buffers(layout, shard, index, sample, plan))
        write_all(descriptor, [bytes(END_BYTES)])
        size = os.fstat(descriptor).st_size
        if size != layout.shard_bytes:
            raise SpoolError(
                f"{path}: has {size} bytes instead of {layout.shard_bytes}: the file system lost data; check the disk"
            )
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        remove(path)
        raise


def _sample_buffers(
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


def write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write all pieces; repeat writev, which may write only some of the bytes."""
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
