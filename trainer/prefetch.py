"""Move a reader's batches to the device, and measure how long the device waited for them.

The trade-off: on CUDA, batch n+1 is copied while the device trains on batch n, so two batches of integers
occupy the device's memory.
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
"""Returns an uninitialised array of the given shape."""


class BatchReader(Protocol):
    """What the prefetcher reads from: `shards.SpoolReader`, or another iterator of batches.

    An iterator may overwrite the memory of an earlier batch for a later one."""

    def __next__(self) -> Batch:
        """Return the next batch; the previous batch becomes invalid. Raises StopIteration at the end."""


def pinned_memory(device: torch.device) -> Allocate | None:
    """Return the allocator for a reader's buffers: page-locked memory for CUDA; None (ordinary memory) otherwise."""
    if device.type != "cuda":
        return None

    def allocate(shape: tuple[int, ...]) -> U16:
        # The array keeps the tensor alive, and with it the page lock.
        return torch.empty(shape, dtype=torch.uint16, pin_memory=True).numpy()

    return allocate


def prefetcher_for(device: torch.device) -> Prefetcher:
    """Return a HostPrefetcher for a CPU, a CudaPrefetcher for a GPU."""
    return CudaPrefetcher(device) if device.type == "cuda" else HostPrefetcher(device)


class Prefetcher(Protocol):
    """Moves a reader's batches to a device, and measures how long the device waited for them."""

    def next_batch(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """Return the reader's next batch, and the batch's `low` and `gt` as uint16 tensors on the device."""

    def release(self) -> None:
        """Allow the tensors returned last to be overwritten once the device has done the work queued so far."""

    def wait_s(self) -> float:
        """Return for how many seconds the device has waited for data."""


class HostPrefetcher:
    """The prefetcher of a CPU: it copies nothing, and its tensors are views of the reader's arrays."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wait_s = 0.0

    def next_batch(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """Return the reader's next batch, and its `low` and `gt` as tensors without a copy."""
        began = time.perf_counter()
        try:
            batch = next(reader)
        finally:  # waiting for a batch that does not come counts too
            self._wait_s += time.perf_counter() - began
        low, gt = torch.from_numpy(batch.low), torch.from_numpy(batch.gt)
        return batch, low.to(self._device), gt.to(self._device)

    def release(self) -> None:
        """Do nothing: nothing was copied."""

    def wait_s(self) -> float:
        """Return for how many seconds the caller has waited for the reader."""
        return self._wait_s


class CudaPrefetcher:
    """The prefetcher of a GPU: two buffers on the device, and a separate CUDA stream for the copies.

    The reader may reuse a batch's memory only when the copy is complete. Because of this wait, the host is
    never more than two batches ahead of the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[_Buffer | None] = [None, None]
        self._current = 0
        self._copied: torch.cuda.Event | None = None
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        """Begin and end of each wait that has not been added up yet."""
        self._wait_s = 0.0

    def next_batch(self, reader: BatchReader) -> tuple[Batch, Tensor, Tensor]:
        """Return the reader's next batch, and its `low` and `gt` in a buffer on the device."""
        training = torch.cuda.current_stream(self._device)
        idle, arrived = _event(timing=True), _event(timing=True)
        idle.record(training)
        if self._copied:
            self._copied.synchronize()
        began = time.perf_counter()
        try:
            batch = next(reader)
        except BaseException:
            # There is no arrival for the device to record; it has been idle for as long as the host.
            self._wait_s += time.perf_counter() - began
            raise
        buffer = self._buffer_for(batch)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(buffer.free)
            buffer.low.copy_(torch.from_numpy(batch.low), non_blocking=True)
            buffer.gt.copy_(torch.from_numpy(batch.gt), non_blocking=True)
            self._copied = _event()
            self._copied.record(self._copies)
        training.wait_event(self._copied)
        arrived.record(training)
        self._waits.append((idle, arrived))
        return batch, buffer.low, buffer.gt

    def release(self) -> None:
        """Allow the current buffer to be overwritten once the device has done the work queued so far."""
        buffer = self._buffers[self._current]
        assert buffer is not None, "release() before next_batch()"
        buffer.free.record(torch.cuda.current_stream(self._device))
        self._current = 1 - self._current

    def wait_s(self) -> float:
        """Return for how many seconds the device has waited for data, in the steps it has completed by now."""
        while self._waits and self._waits[0][1].query():  # type: ignore[no-untyped-call]
            idle, arrived = self._waits.popleft()
            self._wait_s += idle.elapsed_time(arrived) / 1e3
        return self._wait_s

    def _buffer_for(self, batch: Batch) -> _Buffer:
        buffer = self._buffers[self._current]
        shapes = (batch.low.shape, batch.gt.shape)
        if buffer is None or (buffer.low.shape, buffer.gt.shape) != shapes:
            buffer = self._buffers[self._current] = _Buffer(batch, self._device)
        return buffer


class _Buffer:
    """Device memory for a batch, and the CUDA event after which the memory may be overwritten."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.low = torch.empty(batch.low.shape, dtype=torch.uint16, device=device)
        self.gt = torch.empty(batch.gt.shape, dtype=torch.uint16, device=device)
        self.free = _event()
        # Torch may have returned memory that work queued on the training stream still uses.
        self.free.record(torch.cuda.current_stream(device))


def _event(*, timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
