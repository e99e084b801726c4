"""A shard of any bytes is refused by ShardDamaged, or its samples are what they were."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from darkprep.shards.errors import ShardDamaged
from darkprep.shards.format import META_BYTES, Sample, SampleMeta, ShardLayout
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.writer import write_shard
from fuzz.choices import Choices
from fuzz.memory import new_folder

_LAYOUT = ShardLayout(cfa="bayer", height=8, width=12, samples=2)
_PLAN = "0123456789abcdef"
_SHARD = 42


PARTS = ("bytes", "metadata")


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one shard file; raise AssertionError or anything else that is not ShardDamaged."""
    folder, good = _prepared()
    choices = Choices(data)
    kind = choices.below(8)
    path = folder / "00000042.tar"
    part = "metadata" if 4 <= kind < 7 else "bytes"
    if kind < 4:
        path.write_bytes(choices.edited(good))
    elif kind < 7:
        path.write_bytes(_with_other_metadata(good, choices))
    else:
        path.write_bytes(choices.rest())
    try:
        shard = ShardFile(path, _LAYOUT, _SHARD, _PLAN)
    except ShardDamaged as error:
        assert str(path) in str(error), error
        return part, False
    try:
        _compare(shard)
    except ShardDamaged:
        return part, False
    finally:
        shard.close()
    return part, True


def _with_other_metadata(good: bytes, choices: Choices) -> bytes:
    """The JSON of one sample replaced where it stands."""
    start = choices.below(_LAYOUT.samples) * _LAYOUT.sample_bytes + _LAYOUT.meta_offset
    record = json.loads(good[start : start + META_BYTES])
    meta = choices.json(record)[:META_BYTES].ljust(META_BYTES)
    return good[:start] + meta + good[start + META_BYTES :]


def _compare(shard: ShardFile) -> None:
    for index, wanted in enumerate(_samples()):
        low, gt = np.empty(_LAYOUT.low_shape, np.uint16), np.empty(_LAYOUT.gt_shape, np.uint16)
        shard.read(index, low, gt)
        assert np.array_equal(low, wanted.low)
        assert np.array_equal(gt, wanted.gt)
        meta = shard.metas[index]
        numbers = [*meta.black, meta.white, meta.ratio, meta.amplification, meta.iso]
        assert np.isfinite(numbers).all()
        assert meta.amplification > 0


@functools.cache
def _prepared() -> tuple[Path, bytes]:
    """A folder in memory, and the bytes of a good shard."""
    folder = new_folder()
    write_shard(folder / "good.tar", _LAYOUT, _SHARD, _samples(), plan=_PLAN, partial=folder)
    return folder, (folder / "good.tar").read_bytes()


@functools.cache
def _samples() -> tuple[Sample, ...]:
    meta = SampleMeta(
        key="", pair="00001_00_0.1s", camera="sony", cfa="bayer", origin=(2, 4), black=(512.0,) * 4, white=16383,
        ratio=100.0, amplification=100.0, amplification_source="ratio", iso=800.0,
    )  # fmt: skip
    made = []
    for index in range(_LAYOUT.samples):
        rng = np.random.default_rng(index)
        low = rng.integers(0, 65536, _LAYOUT.low_shape, dtype=np.uint16)
        made.append(Sample(low, rng.integers(0, 65536, _LAYOUT.gt_shape, dtype=np.uint16), meta))
    return tuple(made)
