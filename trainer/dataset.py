"""A spool as a torch data set: batches that own their memory, for DataLoader, Lightning, Accelerate, or a plain loop.

The trade-off: batches come from threads of the one process that trains, because the work for a batch is one
copy from the page cache; worker processes, which would copy each batch once more, are refused.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from darkprep.shards import OptionError, Spool, SpoolReader
from darkprep.shards.batch import Batch
from darkprep.shards.errors import DarkprepError, RankStopped, first_line
from darkprep.shards.reader import check_counts, check_ranks
from darkprep.trainer.augment import Augmentation, CropGeometry
from darkprep.trainer.batches import batch_record
from darkprep.trainer.config import RANK_TIMEOUT_S, AugmentMode
from darkprep.trainer.device import open_device
from darkprep.trainer.noise_map import NoiseOf
from darkprep.trainer.prefetch import pinned_memory, prefetcher_for
from darkprep.trainer.shot_noise import shot_noise_from
from darkprep.trainer.stream import DeviceBatch, DeviceStream

_WORKERS_REFUSED = "num_workers must be 0: SpoolDataset reads with threads of the process that trains, which is faster here, because a worker process would copy every batch once more"


class SpoolDataset(IterableDataset[dict[str, Any]]):
    """An iterable of batches of a spool, in the plan's order, each of which owns its memory.

    A batch is a dict. `low` is `(B, C, h, w)` float32, black subtracted, white = 1, amplified; `gt` is float32 in
    [0, 1], `(B, 3, H, W)`, or `(B, C, h, w)` with the target `raw`: decoded, cropped and augmented as
    `train` does it with the same `seed`, `crop`, `augment`, `shot_noise`, `full_scale_electrons` and `noise_of`; with
    `noise_of`, `low` is `(B, 2C, h, w)`. `key`, `pair` and `camera` are lists of B
    strings, `use` is `(B,)` int64 (how often a sample was used before), `ratio` is `(B,)` float32, `index` is
    the number of the batch. With `decode=False`, `low` and `gt` are the stored uint16 codes, neither cropped nor
    augmented, and `black`, `white`, `amplification` (with the target `raw` also `gt_black`, `gt_white`) are
    float64 tensors, the arguments of `decode_batch`.

    `low` and `gt` are on `device`, the other tensors on the host. On CUDA a batch is copied while the device still
    works on those before it. Memory is used again when a batch is no longer used.

    The sequence is that of SpoolReader, and `seed`, `reuse`, `keep`, `read_only`, `drop_last`, `parts`, `depth`,
    `verify`, `stop` and `on_starving` have the meaning that they have there. So shards are waited for,
    and are deleted after use without `keep` or `read_only`. `batch_size` is the size of the global batch;
    each of `world` ranks gets an equal part of it. Rank and world are those of torch.distributed where it is
    initialised when the iteration begins.

    One iteration is one pass: it ends at the end of the plan. The next iteration is the next pass, shuffled
    and augmented with `seed` + 1, and so on. An iteration that was left in the middle is continued by the next one.
    `state_dict` holds one number, that of the next batch; after `load_state_dict` the next iteration begins there.

    Raises OptionError for an invalid value, and for `num_workers` above 0; SpoolError or PlanError if
    there is no spool; at the iteration what SpoolReader raises, OptionError if the plan has no complete batch, and
    RankStopped if rank 0 cannot open the spool.
    """

    def __init__(
        self,
        spool: Spool | Path | str,
        *,
        batch_size: int,
        decode: bool = True,
        crop: int | None = None,
        augment: AugmentMode = "cfa",
        shot_noise: float = 0.0,
        full_scale_electrons: float = 0.0,
        noise_of: NoiseOf | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        reuse: int = 1,
        keep: bool = False,
        read_only: bool = False,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        parts: int = 1,
        depth: int = 4,
        verify: bool = True,
        stop: threading.Event | None = None,
        on_starving: Callable[[int, float], None] | None = None,
    ) -> None:
        check_counts(batch_size=batch_size, reuse=reuse, parts=parts, depth=depth)
        if (rank is None) != (world is None):
            raise OptionError("rank and world must be given together, or neither of them")
        self._spool = spool if isinstance(spool, Spool) else Spool(Path(spool)).open()
        stream = self._spool.stream
        self._crop = stream.crop if crop is None else crop
        if decode:
            geometry = CropGeometry(
                cfa=stream.cfa, height=stream.height, width=stream.width, crop=self._crop
            )
            Augmentation(geometry=geometry, mode=augment, seed=seed)  # checks the two
        self._decode, self._augment, self._seed = decode, augment, seed
        self._shot_noise = shot_noise_from(shot_noise, full_scale_electrons, seed)
        self._noise_of = noise_of
        self._device = open_device(str(device))
        self._rank, self._world = rank, world
        self._batch_size, self._drop_last = batch_size, drop_last
        self._reuse, self._parts = reuse, parts
        self._reader_options: dict[str, Any] = {
            "keep": keep,
            "read_only": read_only,
            "depth": depth,
            "verify": verify,
            "stop": stop,
            "on_starving": on_starving,
        }
        self._read_only = read_only
        self._next = 0
        self._reader: SpoolReader | None = None

    def __len__(self) -> int:
        """Return the number of batches of one pass. Raises TypeError if the plan has no end."""
        length = self._length()
        if length is None:
            raise TypeError(
                f"{self._spool.path}: the plan has no end, so SpoolDataset has no length"
            )
        return length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return an iterator over the rest of the pass; the iterator before it ends."""
        if get_worker_info() is not None:
            raise _WorkersRefused
        self.close()
        return self._pass()

    def close(self) -> None:
        """End the present iteration: release the spool's trainer lock, and the shards that were used."""
        reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def state_dict(self) -> dict[str, int]:
        """Return `{"batch": n}`, where n is the number of the batch after the one that was handed over last."""
        return {"batch": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration at the batch that `state_dict` recorded. Raises OptionError."""
        batch = state.get("batch")
        if type(batch) is not int or batch < 0:
            raise OptionError(
                f'the state of a SpoolDataset must be {{"batch": n}} with n from 0, not {state!r}'
            )
        self.close()
        self._next = batch

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def _pass(self) -> Iterator[dict[str, Any]]:
        length = self._length()
        if length == 0:
            raise OptionError(
                f"{self._spool.path}: the plan has too few samples for one batch of {self._batch_size}; choose a smaller batch size, or build a spool with more --epochs"
            )
        number, start = divmod(self._next, length) if length else (0, self._next)
        first, seed = self._next - start, self._seed + number
        self._reader = reader = self._open(start, seed)
        try:
            for batch, low, gt in self._batches(reader, seed):
                index = first + batch.index
                self._next = index + 1
                yield batch_record(batch, low, gt, index=index, levels=not self._decode)
        finally:
            if self._reader is reader:
                self.close()

    def _open(self, start: int, seed: int) -> SpoolReader:
        rank, world = self._ranks()

        def open_reader() -> SpoolReader:
            return SpoolReader(
                self._spool,
                batch_size=self._batch_size,
                seed=seed,
                start=start,
                shards=self._spool.stream.shards,
                rank=rank,
                world=world,
                parts=self._parts,
                reuse=self._reuse,
                drop_last=self._drop_last,
                # What is decoded is written elsewhere, so the reader's memory is free again.
                hold=None if self._lends_codes else 1,
                allocate=pinned_memory(self._device),
                **self._reader_options,
            )

        if self._read_only or self._rank is not None or world == 1:
            return open_reader()
        return open_after_rank_0(self._spool, rank, open_reader)

    @property
    def _lends_codes(self) -> bool:
        """Whether batches are the reader's own arrays."""
        return not self._decode and self._device.type == "cpu"

    def _batches(
        self, reader: SpoolReader, seed: int
    ) -> Iterator[tuple[Batch | DeviceBatch, Tensor, Tensor]]:
        stream = self._spool.stream
        if not self._decode:
            return _codes(reader, self._device)
        decoded = DeviceStream(
            reader,
            self._device,
            cfa=stream.cfa,
            crop=self._crop,
            augment=self._augment,
            seed=seed,
            target=stream.target,
            owned=True,
            shot_noise=self._shot_noise and replace(self._shot_noise, seed=seed),
            noise_of=self._noise_of,
        )
        return ((batch, batch.low, batch.gt) for batch in decoded)

    def _ranks(self) -> tuple[int, int]:
        """Return the rank and the number of ranks among those that use this spool. Raises OptionError."""
        rank, world = self._given_or_started_ranks()
        check_ranks(self._batch_size, rank, world, self._spool.settings.parts)
        return rank, world

    def _given_or_started_ranks(self) -> tuple[int, int]:
        if self._rank is not None and self._world is not None:
            return self._rank, self._world
        if not (dist.is_available() and dist.is_initialized()):
            return 0, 1
        if self._spool.settings.parts == 1:
            return dist.get_rank(), dist.get_world_size()
        try:
            return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        except (KeyError, ValueError) as error:
            raise OptionError(
                f"{self._spool.path}: holds one part of its plan, which only the ranks of this machine share, so LOCAL_RANK and LOCAL_WORLD_SIZE must be set; start the ranks with torchrun, or pass rank, the number of this rank on this machine, and world, the number of ranks on this machine"
            ) from error

    def _length(self) -> int | None:
        """Return the number of batches of one pass; None if the plan has no end."""
        stream, nodes = self._spool.stream, self._spool.settings.parts
        if stream.shards is None:
            return None
        _, world = self._ranks()
        parts = max(nodes, self._parts)
        own_shards = stream.shards // parts * (parts // nodes)
        samples, own_batch = own_shards * stream.samples * self._reuse, self._batch_size // nodes
        complete, rest = divmod(samples, own_batch)
        return complete + (rest >= world and not self._drop_last)


class _WorkersRefused(OptionError):
    """Raised in a worker process; torch raises it again in the process that trains."""

    def __init__(self, traceback: str = "") -> None:
        # torch passes the traceback in the worker as the message.
        super().__init__(_WORKERS_REFUSED)


def _codes(reader: SpoolReader, device: torch.device) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yield batches with their codes on the device."""
    prefetcher = prefetcher_for(device)
    while True:
        try:
            batch, low, gt = prefetcher.next_batch(reader)
        except StopIteration:
            return
        if device.type == "cuda":
            low, gt = low.clone(), gt.clone()
        prefetcher.release()
        yield batch, low, gt


_openings: Counter[str] = Counter()
"""How often each spool was opened by this rank of torch.distributed."""


def open_after_rank_0(
    spool: Spool, rank: int, open_reader: Callable[[], SpoolReader]
) -> SpoolReader:
    """Open a reader on rank 0 of a spool first, because it removes the cursors of earlier ranks.

    The ranks meet in the store of torch.distributed and not in a collective operation, which would never
    end where a framework lets only one rank read.
    """
    name = f"{spool.digest}/{spool.settings.part}"
    _openings[name] += 1
    key = f"darkprep/{name}/{_openings[name]}"
    store = dist.distributed_c10d._get_default_store()
    if rank:
        try:
            store.wait([key], timedelta(seconds=RANK_TIMEOUT_S))
        except RuntimeError as error:
            raise RankStopped(
                f"{spool.path}: rank 0 could not open the spool ({first_line(error)})"
            ) from error
        failure = store.get(key).decode()
        if failure:
            raise RankStopped(f"stopped because rank 0 failed: {failure}")
        return open_reader()
    try:
        reader = open_reader()
    except DarkprepError as error:
        store.set(key, str(error))
        raise
    store.set(key, "")
    return reader
