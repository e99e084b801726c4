"""Small spools with known samples: 12 pixels wide, random codes, a few shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.samples import META
from darkprep.shards import Sample, Spool, StreamSpec, Target, write_shard

MakeSpool = Callable[..., Spool]
"""Type of the fixture `make_spool`."""


def stream(
    *,
    samples: int = 4,
    window: int = 2,
    shards: int | None = 6,
    seed: int = 1,
    target: Target = "srgb",
) -> StreamSpec:
    return StreamSpec(
        camera="sony",
        cfa="bayer",
        height=12,
        width=16,
        crop=12,
        samples=samples,
        window=window,
        shards=shards,
        seed=seed,
        target=target,
    )


def sample(shard: int, index: int, spec: StreamSpec) -> Sample:
    """Random codes keyed by (shard, index)."""
    layout = spec.layout()
    rng = np.random.default_rng((shard, index))
    meta = replace(META, pair=f"0000{index}_00_0.1s", origin=(2 * shard, 4 * index))
    if spec.target == "raw":
        meta = replace(meta, target="raw", gt_black=(500.0, 501.0, 502.0, 503.0), gt_white=16000)
    return Sample(
        rng.integers(0, 65536, layout.low_shape, dtype=np.uint16),
        rng.integers(0, 65536, layout.gt_shape, dtype=np.uint16),
        meta,
    )


def fill(spool: Spool, shards: range | list[int]) -> None:
    spec = spool.stream
    for shard in shards:
        samples = [sample(shard, index, spec) for index in range(spec.samples)]
        write_shard(
            spool.shard_path(shard),
            spec.layout(),
            shard,
            samples,
            plan=spool.digest,
            partial=spool.partial,
        )
