"""Other ways to feed a training run from a disk of limited size, for bench_pace.py.

webdataset and litdata hold as many samples as the budget has room for, written beforehand and read again and again;
torchdata's nodes cut fresh crops from frames that were decoded once. Each is set up as its documentation says is fastest.
The trade-off: all deliver codes, which the device converts, as darkprep does; frames of the nodes all fit the budget.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from photographs import plan_of

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.raw.source import PackedFrame

Batches = Iterator[tuple[Any, Any]]
Opened = tuple[Callable[[], None], Callable[[], Batches]]
"""What prepares the data, and what opens it."""

WORKERS = os.cpu_count() or 1
_PER_SHARD = 32
_CHUNK_BYTES = 64 << 20


def crop_of(low: Any, truth: Any, crop: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """One random crop of packed planes and of their development."""
    y, x = (2 * int(rng.integers((side - crop) // 2 + 1)) for side in truth.shape[1:])
    return (
        low[:, y // 2 : (y + crop) // 2, x // 2 : (x + crop) // 2],
        truth[:, y : y + crop, x : x + crop],
    )


def crops_of_pair(plan: Plan, number: int, samples: int) -> Iterator[tuple[PackedFrame, Any, Any]]:
    """A pair's share of so many samples: the decoded short exposure, and a crop of it and of the truth."""
    rng = np.random.default_rng(number)
    pair = plan.pairs[number].pair
    short = open_source(plan.root / pair.short).decode()
    truth = open_source(plan.root / pair.long).develop()
    for _ in range(number, samples, len(plan.pairs)):
        yield short, *crop_of(short.planes, truth, plan.stream.crop, rng)


def _as_in_a_script() -> None:
    """Let loaders start their workers as they do in a script, not as this process was; quietly."""
    multiprocessing.set_start_method("fork", force=True)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


# -- webdataset ---------------------------------------------------------------------------------------


def open_webdataset(place: Path, root: Path, crop: int | None, samples: int, batch: int) -> Opened:
    """Shards of .npy members, shards and samples shuffled, a worker per core."""
    import webdataset

    _as_in_a_script()

    def prepare() -> None:
        pattern = str(place / "%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=_PER_SHARD, verbose=0) as writer:
            plan = plan_of(root, "sony", crop=crop)
            for number in range(len(plan.pairs)):
                for turn, (_, low, gt) in enumerate(crops_of_pair(plan, number, samples)):
                    key = f"{number:04d}-{turn:04d}"
                    writer.write({"__key__": key, "low.npy": low, "gt.npy": gt})

    def batches() -> Batches:
        files = sorted(str(path) for path in place.glob("*.tar"))
        data = webdataset.WebDataset(
            files, shardshuffle=len(files), workersplitter=webdataset.split_by_worker
        )
        data = data.repeat().shuffle(2 * _PER_SHARD).decode().to_tuple("low.npy", "gt.npy")
        return iter(webdataset.WebLoader(data.batched(batch), batch_size=None, num_workers=WORKERS))

    return prepare, batches


# -- litdata ------------------------------------------------------------------------------------------


def open_litdata(place: Path, root: Path, crop: int | None, samples: int, batch: int) -> Opened:
    """`optimize` with a worker per core, then its streaming loader, shuffled."""
    import litdata

    _as_in_a_script()
    folder = place / "chunks"

    def prepare() -> None:
        plan = plan_of(root, "sony", crop=crop)
        pairs = range(len(plan.pairs))
        litdata.optimize(
            partial(_chunk_samples, root, crop, samples),
            inputs=list(pairs),
            output_dir=str(folder),
            chunk_bytes=_CHUNK_BYTES,
            num_workers=min(WORKERS, len(pairs)),
            verbose=False,
            start_method="fork",
        )

    def batches() -> Batches:
        data = litdata.StreamingDataset(str(folder), shuffle=True)
        loader = litdata.StreamingDataLoader(data, batch_size=batch, num_workers=WORKERS)
        while True:
            for one in loader:
                yield one["low"], one["gt"]

    return prepare, batches


def _chunk_samples(root: Path, crop: int | None, samples: int, number: int) -> Iterator[Any]:
    for _, low, gt in crops_of_pair(plan_of(root, "sony", crop=crop), number, samples):
        yield {"low": np.ascontiguousarray(low), "gt": np.ascontiguousarray(gt)}


# -- torchdata's nodes --------------------------------------------------------------------------------


def open_nodes(place: Path, root: Path, crop: int | None, _samples: int, batch: int) -> Opened:
    """Frames decoded once to .npy files, mapped into memory; crops are cut by a thread per core."""
    import torch
    from torchdata import nodes

    plan = plan_of(root, "sony", crop=crop)

    def prepare() -> None:
        for number, pair in enumerate(plan.pairs):
            np.save(
                place / f"{number}.low", open_source(plan.root / pair.pair.short).decode().planes
            )
            np.save(place / f"{number}.gt", open_source(plan.root / pair.pair.long).develop())

    def batches() -> Batches:
        frames = [
            tuple(np.load(place / f"{number}.{kind}.npy", mmap_mode="r") for kind in ("low", "gt"))
            for number in range(len(plan.pairs))
        ]

        def sample(index: int) -> tuple[Any, Any]:
            rng = np.random.default_rng(index)
            low, truth = frames[int(rng.integers(len(frames)))]
            cut, gt = crop_of(low, truth, plan.stream.crop, rng)
            return torch.from_numpy(cut.copy()), torch.from_numpy(gt.copy())

        def collate(samples: list[tuple[Any, Any]]) -> tuple[Any, Any]:
            return tuple(map(torch.stack, zip(*samples, strict=True)))  # type: ignore[return-value]

        node = nodes.IterableWrapper(itertools.count())
        node = nodes.ParallelMapper(
            node, sample, num_workers=WORKERS, method="thread", in_order=True
        )
        node = nodes.Prefetcher(
            nodes.Mapper(nodes.Batcher(node, batch), collate), prefetch_factor=2
        )
        return iter(nodes.Loader(node))

    return prepare, batches


RIVALS: dict[str, tuple[str, Callable[..., Opened]]] = {
    "webdataset shards, cycled": ("webdataset", open_webdataset),
    "litdata optimize, cycled": ("litdata", open_litdata),
    "torchdata nodes on decoded frames": ("torchdata", open_nodes),
}
"""Name, the package that must be there, and what sets it up."""
