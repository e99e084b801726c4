"""The device of a training run: opening it, detecting that its memory is full, and measuring how busy it is.

The trade-off: NVML's utilisation is the share of time in which any kernel ran, not the share of the chip
that was used; it is the figure that nvidia-smi shows.
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

_QUERY_INTERVAL_S = 1.0


def open_device(name: str) -> torch.device:
    """Return the torch device named `cpu`, `cuda`, `cuda:N`, or `auto` (a GPU if there is one, else the CPU).

    Raises OptionError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        remedy = (
            f"use a number below {count}"
            if count
            else "use cpu, or install a build of torch with CUDA"
        )
        raise OptionError(
            f"device {name}: torch finds {count} GPU{'s' * (count != 1)} on this machine; {remedy}"
        )
    return device


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all its work; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def out_of_memory_errors(what: str, device: torch.device) -> Iterator[None]:
    """Raise OptionError, naming `what` needed the memory, when the block exhausts the device's memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OptionError(
            f"device {device}: not enough memory for {what}; use a smaller one, or choose another device with --device"
        ) from error


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means a lack of memory: on a CPU torch raises a plain RuntimeError."""
    known = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


class GpuMeter:
    """Reads the utilisation of one device through torch; needs the extra `[gpu]` (nvidia-ml-py)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._available = device.type == "cuda"
        self._queried = -math.inf
        self._percent: float | None = None

    def busy_percent(self) -> float | None:
        """Return the percentage of the driver's last sampling period in which a kernel ran; None if unknown.

        The driver is queried once a second at most.
        """
        if self._available and time.monotonic() - self._queried >= _QUERY_INTERVAL_S:
            self._queried = time.monotonic()
            self._percent = self._query()
        return self._percent

    def _query(self) -> float | None:
        try:
            return float(torch.cuda.utilization(self._device))
        except Exception as error:  # noqa: BLE001 # NVML has errors of its own; none may end a run
            log.info("GPU utilisation is not available: %s", error)
            self._available = False
            return None
