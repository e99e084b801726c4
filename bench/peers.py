"""The loaders that ours is measured against, each set up as its documentation says is fastest.

For each: how it writes samples, and how it reads them back as batches, with so many worker processes.
The trade-off: only what they share is measured, whole samples in, batches out; what they can do beyond
that (remote storage, compression) is not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import logging
import multiprocessing
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import has
from samples import PER_SHARD, SAMPLE_BYTES, sample

Batches = Iterator[tuple[Any, Any]]
"""low and gt of each batch, as arrays or tensors."""
Passes = Callable[[], Batches]

_LOW, _GT = (4, 256, 256), (3, 512, 512)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another way to keep samples on disk."""

    package: str
    """What must be importable."""
    write: Callable[[Path, int, int], None]
    """Writes samples `first` .. `first + count - 1` into a folder of their own."""
    read: Callable[[Path, int, int], Passes]
    """Opens a folder: batch size, worker processes. What it returns makes one pass each time."""
    workers: tuple[int, ...] = (0, 1, 2)
    """What to try for its best."""


# -- webdataset ---------------------------------------------------------------------------------------


def write_webdataset(folder: Path, first: int, count: int) -> None:
    """ShardWriter, members as arrays."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0) as writer:
        for index in range(first, first + count):
            one = sample(index)
            writer.write(
                {
                    "__key__": one.meta.key,
                    "low.npy": one.low,
                    "gt.npy": one.gt,
                    "json": {"pair": one.meta.pair, "white": one.meta.white},
                }
            )


def read_webdataset(folder: Path, batch: int, workers: int) -> Passes:
    """The fluent interface; reads our shards, whose headers are cheaper to parse than its own."""
    import webdataset

    files = sorted(str(path) for path in folder.glob("*.tar"))
    data = webdataset.WebDataset(
        files, shardshuffle=False, workersplitter=webdataset.split_by_worker
    )
    data = data.decode().to_tuple("low.npy", "gt.npy").batched(batch)
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=workers)
    return lambda: iter(loader)


# -- MDS ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _any_torchvision() -> Iterator[None]:
    """Import streaming where torchvision is missing or of another build of torch; MDS needs none of it."""
    try:
        import torchvision  # noqa: F401
    except Exception:  # noqa: BLE001 # it raises what it likes
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name, attribute in (
            ("torchvision", "transforms"),
            ("torchvision.datasets", "VisionDataset"),
            ("torchvision.transforms", "functional"),
            ("torchvision.transforms.functional", "to_tensor"),
        ):
            sys.modules[name] = module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            setattr(module, attribute, object)
    yield


def _streaming() -> Any:
    with _any_torchvision():
        import streaming

    return streaming


def write_mds(folder: Path, first: int, count: int) -> None:
    """MDSWriter, columns of fixed type and shape, shards of 64 MiB."""
    columns = {
        "low": f"ndarray:uint16:{','.join(map(str, _LOW))}",
        "gt": f"ndarray:uint16:{','.join(map(str, _GT))}",
        "pair": "str",
    }
    with _streaming().MDSWriter(out=str(folder), columns=columns, exist_ok=True) as writer:
        for index in range(first, first + count):
            one = sample(index)
            writer.write({"low": one.low, "gt": one.gt, "pair": one.meta.pair})


def read_mds(folder: Path, batch: int, workers: int) -> Passes:
    """StreamingDataset on a local folder."""
    from torch.utils.data import DataLoader

    streaming = _streaming()
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=batch)
    loader = DataLoader(data, batch_size=batch, num_workers=workers, drop_last=True)
    return lambda: ((one["low"], one["gt"]) for one in loader)


# -- litdata ------------------------------------------------------------------------------------------


def write_litdata(folder: Path, first: int, count: int) -> None:
    """Its writer's own loop, chunks of 64 MiB; tensors lie flat, for those have no header to parse."""
    import torch
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = BinaryWriter(str(folder), chunk_bytes=64 << 20)
    for index in range(count):
        one = sample(first + index)
        writer[index] = {
            "low": torch.from_numpy(one.low.reshape(-1)),
            "gt": torch.from_numpy(one.gt.reshape(-1)),
            "pair": one.meta.pair,
        }
    writer.done()
    writer.merge(num_workers=1)


def read_litdata(folder: Path, batch: int, workers: int) -> Passes:
    """StreamingDataset and its loader; the batch gets its shape back, which is free."""
    from litdata import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(str(folder), shuffle=False)
    loader = StreamingDataLoader(data, batch_size=batch, num_workers=workers)
    return lambda: ((one["low"].view(-1, *_LOW), one["gt"].view(-1, *_GT)) for one in loader)


# -- tensordict ---------------------------------------------------------------------------------------


def write_tensordict(folder: Path, first: int, count: int) -> None:
    """Two memory-mapped tensors for all samples, filled one by one."""
    import torch
    from tensordict import TensorDict

    whole = TensorDict(
        {
            "low": torch.empty(_LOW, dtype=torch.uint16),
            "gt": torch.empty(_GT, dtype=torch.uint16),
        },
        batch_size=[],
    )
    mapped = whole.expand(count).memmap_like(str(folder))
    for index in range(count):
        one = sample(first + index)
        mapped["low"][index] = torch.from_numpy(one.low)
        mapped["gt"][index] = torch.from_numpy(one.gt)


def read_tensordict(folder: Path, batch: int, workers: int) -> Passes:
    """Whole batches by index, copied out of the map."""
    import torch
    from tensordict import TensorDict
    from torch.utils.data import DataLoader

    mapped = TensorDict.load_memmap(str(folder))
    order = torch.randperm(len(mapped), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    loader = DataLoader(
        mapped, sampler=batches, batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )
    return lambda: ((one["low"], one["gt"]) for one in loader)


def _as_it_is(batch: Any) -> Any:
    return batch


# -- the list in one file -----------------------------------------------------------------------------


def write_list(folder: Path, first: int, count: int) -> None:
    """One list of float32 pairs, saved whole: what a first script does."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for index in range(first, first + count):
        one = sample(index)
        low = (one.low.astype(np.float32) - 512) / (16383 - 512)
        pairs.append((torch.from_numpy(low), torch.from_numpy(one.gt / np.float32(65535))))
    torch.save(pairs, folder / "data.pt")


def read_list(folder: Path, batch: int, workers: int) -> Passes:
    """All of it in memory, then a DataLoader over the list."""
    import torch
    from torch.utils.data import DataLoader

    @functools.lru_cache(maxsize=1)
    def loader() -> Any:
        pairs = torch.load(folder / "data.pt", weights_only=True)
        return DataLoader(pairs, batch_size=batch, num_workers=workers, shuffle=True)

    return lambda: iter(loader())


PEERS = {
    "webdataset": Peer(package="webdataset", write=write_webdataset, read=read_webdataset),
    "MDS": Peer(package="streaming", write=write_mds, read=read_mds),
    "litdata": Peer(package="litdata", write=write_litdata, read=read_litdata),
    "tensordict": Peer(package="tensordict", write=write_tensordict, read=read_tensordict),
    "torch.save list": Peer(package="torch", write=write_list, read=read_list, workers=(0, 2)),
}


def installed_peers() -> dict[str, Peer]:
    """Those whose package is there; the others are named."""
    return {name: peer for name, peer in PEERS.items() if has(peer.package)}


def as_in_a_script() -> None:
    """Let peers start their workers as they do in a script, not as this process was; quietly."""
    multiprocessing.set_start_method("fork", force=True)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


assert SAMPLE_BYTES == 2 * int(np.prod(_LOW) + np.prod(_GT)), "all write the same"
