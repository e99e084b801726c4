"""Small trainings on several ranks: the program that torchrun starts, and spools of coarse random pictures for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.samples import META
from darkprep.shards import Sample, Spool, StreamSpec, write_shard
from darkprep.shards.plan_record import PlanRecord

SHARDS, SAMPLES = 6, 4
PATIENCE_S = 600
"""How long torchrun may take before a test fails."""
RANK_PROGRAM = ("-m", "tests.support.rank_program")
"""Arguments of torchrun that start one rank; the next one is its settings as JSON."""


def training_spool(path: Path) -> Spool:
    """A spool of SHARDS shards of SAMPLES samples, the same bytes each time."""
    spec = StreamSpec(
        camera="sony",
        cfa="bayer",
        height=196,
        width=196,
        crop=192,
        samples=SAMPLES,
        window=2,
        shards=SHARDS,
        seed=3,
    )
    spool = Spool(path)
    spool.create(PlanRecord(stream=spec, recipe={}))
    for shard in range(SHARDS):
        samples = [_sample(shard, slot) for slot in range(SAMPLES)]
        target = spool.shard_path(shard)
        write_shard(target, spec.layout(), shard, samples, plan=spool.digest, partial=spool.partial)
    return spool


def _sample(shard: int, slot: int) -> Sample:
    """A coarse random picture and a dark recording of it."""
    rng = np.random.default_rng((shard, slot))
    picture = np.kron(rng.uniform(0.1, 0.9, (3, 14, 14)), np.ones((14, 14)))
    codes = picture.mean(0) * (16383 - 512) / 100 + 512
    low = np.stack([codes[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    meta = replace(META, pair=f"0000{slot}_00_0.1s")
    return Sample(low.astype(np.uint16), (picture * 65535).astype(np.uint16), meta)
