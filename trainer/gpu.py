"""The GPU's limits: how busy it is, as the driver counts it, and what its memory does not hold.

The trade-off: NVML's figure says that some kernel ran, not that the chip was full; it is what people
know from nvidia-smi.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator

import torch

from darkprep.shards.errors import OptionError

log = logging.getLogger(__name__)

_EVERY_S = 1.0


@contextlib.contextmanager
def memory_for(what: str, device: torch.device) -> Iterator[None]:
    """Raises OptionError, naming `what`, where the device's memory does not hold what the block needs."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_short_of_memory(error):
            raise
        raise OptionError(
            f"device {device}: its memory does not hold {what}; choose less of it, or another device"
        ) from error


def _is_short_of_memory(error: RuntimeError | MemoryError) -> bool:
    """The error of torch's allocator for the CPU has no class of its own."""
    known = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


class GpuMeter:
    """Reads the utilisation of one device; asks the extra `[gpu]` (nvidia-ml-py) through torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._answers = device.type == "cuda"
        self._asked = -math.inf
        self._busy: float | None = None

    def busy_percent(self) -> float | None:
        """Share of the driver's last sampling period in which a kernel ran; None if unknown."""
        if self._answers and time.monotonic() - self._asked >= _EVERY_S:
            self._asked = time.monotonic()
            self._busy = self._ask()
        return self._busy

    def _ask(self) -> float | None:
        try:
            return float(torch.cuda.utilization(self._device))
        except Exception as error:  # noqa: BLE001 # NVML has errors of its own; a gauge never ends a run
            log.info("no GPU use will be shown: %s", error)
            self._answers = False
            return None
