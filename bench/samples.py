"""The sample that readers and writers are measured with: 2.1 MB of noise in the shape of a 512 crop.

The trade-off: random codes, which no format could compress; real ones would give a compressing format
10 to 25 % of the bytes.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprep.shards import Sample, SampleMeta, ShardLayout, Spool, StreamSpec, write_shard
from darkprep.shards.plan_record import PlanRecord, ProducerSettings

SAMPLE_BYTES = 2 * (4 * 256 * 256 + 3 * 512 * 512)
"""Payload of one sample: low (4, 256, 256) and gt (3, 512, 512), uint16."""
PER_SHARD = 32
META = SampleMeta(
    key="",
    pair="00001_00_0.1s",
    camera="sony",
    cfa="bayer",
    origin=(0, 0),
    black=(512.0,) * 4,
    white=16383,
    ratio=100.0,
    amplification=100.0,
    amplification_source="ratio",
    iso=800.0,
)
"""Metadata of a sample of SID's Sony, which benchmarks and tests change where they need other values."""


@functools.lru_cache(maxsize=1)
def noise() -> npt.NDArray[np.uint16]:
    """One pool of random codes that all samples are views of."""
    return np.random.default_rng(0).integers(0, 1 << 16, 4 << 20, dtype=np.uint16)


def sample(index: int) -> Sample:
    """Sample number `index`."""
    layout = ShardLayout(cfa="bayer", height=512, width=512, samples=1)
    low, gt = np.prod(layout.low_shape), np.prod(layout.gt_shape)
    start = (index * 4099) % (len(noise()) - low - gt)
    codes = noise()[start : start + low + gt]
    meta = replace(META, key=f"{index:08d}")
    return Sample(codes[:low].reshape(layout.low_shape), codes[low:].reshape(layout.gt_shape), meta)


def fill_spool(path: Path, shards: int) -> Spool:
    """A spool with `shards` full shards."""
    stream = StreamSpec(
        camera="sony",
        cfa="bayer",
        height=512,
        width=512,
        crop=512,
        samples=PER_SHARD,
        window=4,
        shards=shards,
        seed=0,
    )
    spool = Spool(path)
    spool.create(
        PlanRecord(stream=stream, recipe={"noise": 0}, settings=ProducerSettings(root=str(path)))
    )
    for shard in range(shards):
        write_shard(
            spool.shard_path(shard),
            stream.layout(),
            shard,
            [sample(shard * PER_SHARD + index) for index in range(PER_SHARD)],
            plan=spool.digest,
            partial=spool.partial,
        )
    return spool
