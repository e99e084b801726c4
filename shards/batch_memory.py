"""Lend the buffers of batches to arrays, and use them again when no array refers to them any more.

The trade-off: a consumer that keeps every batch makes the memory grow by every batch; copies of the batches
would do the same, and would also cost the copying.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from darkprep.shards.batch import Batch
from darkprep.shards.format import U16
from darkprep.shards.read_ahead import Slot


class SlotPool:
    """Slots that are lent to batches. `allocate` returns a new slot where none is free."""

    def __init__(self, allocate: Callable[[], Slot]) -> None:
        self._allocate = allocate
        self._free: list[Slot] = []

    def take(self) -> Slot:
        """Return a slot whose buffers no array uses."""
        try:
            return self._free.pop()
        except IndexError:
            return self._allocate()

    def lend(self, batch: Batch, slot: Slot) -> Batch:
        """Return the batch with arrays that own the slot: it becomes free when the last of them, and of their views, is gone."""
        lease = _Lease()
        # Appending to a list is safe in a finalizer, whichever thread runs it.
        weakref.finalize(lease, self._free.append, slot).atexit = False
        return replace(batch, low=_leased(batch.low, lease), gt=_leased(batch.gt, lease))


class _Lease:
    """Exists as long as an array uses the buffers of a slot."""


class _LeasedMemory:
    """The memory of an array as numpy's array interface describes it; numpy and torch keep this object alive."""

    def __init__(self, array: U16, lease: _Lease) -> None:
        self.__array_interface__ = array.__array_interface__
        self._lease = lease


def _leased(array: U16, lease: _Lease) -> U16:
    return np.asarray(_LeasedMemory(array, lease))
