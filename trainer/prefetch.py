"""Moves a reader's lent batches to the device, and measures how long the device stood still for them.

The trade-off: on CUDA a copy engine works on batch n+1 while the multiprocessors train on batch n, so
two batches' worth of integers stay on the device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from darkprep.shards.batch import Batch
from darkprep.shards.format import U16

Allocate = Callable[[tuple[int, ...]], U16]


class BatchReader(Protocol):
    """What a stream needs of a reader: `shards.SpoolReader`, or anything that lends batches."""

    def __next__(self) -> Batch:
        """The next batch; the one before becomes invalid. Raises StopIteration at the end."""


def pinned_memory(device: torch.device) -> Allocate | None:
    """What a reader should allocate its buffers with: page-locked for CUDA, its own choice else."""
    if device.type != "cuda":
        return None

    def allocate(shape: tuple[int, ...]) -> U16:
        # The array keeps the tensor alive, and with it the page lock.
        return torch.empty(shape, dtype=torch.uint16, pin_memory=True).numpy()

    return allocate


def prefetcher_for(device: torch.device) -> Prefetcher:
    """The carrier that suits the device."""
    return CudaPrefetcher(device) if device.type == "cuda" else HostPrefetcher(device)


class Prefetcher(Protocol):
    """Moves lent batches to a device, and measures how long that kept the device waiting."""

    def bring(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """The reader's next batch, and its arrays as uint16 tensors on the device."""

    def taken(self) -> None:
        """The device's work so far is all that reads the tensors that were brought last."""

    def wait_s(self) -> float:
        """Seconds that the device has waited for data."""


class HostPrefetcher:
    """Where the device is the host nothing is copied: the tensors are views of the lent arrays."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wait_s = 0.0

    def bring(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """See Carrier."""
        began = time.perf_counter()
        try:
            batch = next(reader)
        finally:  # a wait that no batch ended was one too
            self._wait_s += time.perf_counter() - began
        low, gt = torch.from_numpy(batch.low), torch.from_numpy(batch.gt)
        return batch, low.to(self._device), gt.to(self._device)

    def taken(self) -> None:
        """See Carrier."""

    def wait_s(self) -> float:
        """See Carrier."""
        return self._wait_s


class CudaPrefetcher:
    """Two landing places on the device and a stream of its own for the copies.

    A lent batch goes back to the reader only when its copy is over; waiting for that also keeps the
    host from running more than two batches ahead of the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._places: list[_Place | None] = [None, None]
        self._turn = 0
        self._copied: torch.cuda.Event | None = None
        self._stalls: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._wait_s = 0.0

    def bring(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """See Carrier."""
        training = torch.cuda.current_stream(self._device)
        idle, arrived = _event(timing=True), _event(timing=True)
        idle.record(training)
        if self._copied:
            self._copied.synchronize()
        began = time.perf_counter()
        try:
            batch = next(reader)
        except BaseException:
            # No batch arrives that the device could clock; it has been idle for as long as we have.
            self._wait_s += time.perf_counter() - began
            raise
        place = self._place_for(batch)
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(place.free)
            place.low.copy_(torch.from_numpy(batch.low), non_blocking=True)
            place.gt.copy_(torch.from_numpy(batch.gt), non_blocking=True)
            self._copied = _event()
            self._copied.record(self._copying)
        training.wait_event(self._copied)
        arrived.record(training)
        self._stalls.append((idle, arrived))
        return batch, place.low, place.gt

    def taken(self) -> None:
        """See Carrier."""
        place = self._places[self._turn]
        assert place is not None, "taken() before bring()"
        place.free.record(torch.cuda.current_stream(self._device))
        self._turn = 1 - self._turn

    def wait_s(self) -> float:
        """See Carrier; counts what the device has finished, without waiting for it."""
        while self._stalls and self._stalls[0][1].query():  # type: ignore[no-untyped-call]
            idle, arrived = self._stalls.popleft()
            self._wait_s += idle.elapsed_time(arrived) / 1e3
        return self._wait_s

    def _place_for(self, batch: Batch) -> _Place:
        place = self._places[self._turn]
        if place is None or place.low.shape != batch.low.shape or place.gt.shape != batch.gt.shape:
            place = self._places[self._turn] = _Place(batch, self._device)
        return place


class _Place:
    """Where a batch lands on the device, and when the training has read it."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.low = torch.empty(batch.low.shape, dtype=torch.uint16, device=device)
        self.gt = torch.empty(batch.gt.shape, dtype=torch.uint16, device=device)
        self.free = _event()
        # Whatever the training stream still does with memory that it gave back before comes first.
        self.free.record(torch.cuda.current_stream(device))


def _event(*, timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
