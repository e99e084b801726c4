"""How busy the GPU is, asked of the driver ten times a second while a condition holds.

The trade-off: NVML's utilisation is the share of its last sampling period, up to a second, in which some
kernel ran; it does not say how full the chip was. Power and memory utilisation are reported beside it.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

_EVERY_S = 0.1


@contextlib.contextmanager
def monitored(device: torch.device, when: Callable[[], bool]) -> Iterator[dict[str, float]]:
    """Fill the dictionary with means over the block, of the moments in which `when` returned true.

    On a CPU, and where NVML is missing, it stays empty.
    """
    means: dict[str, float] = {}
    handle = _handle(device)
    samples: list[tuple[float, ...]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            if when():
                samples.append(_sample(handle))

    thread = threading.Thread(target=watch, daemon=True)
    if handle:
        thread.start()
    try:
        yield means
    finally:
        over.set()
        if handle:
            thread.join()
    if samples:
        names = ("GPU busy %", "memory busy %", "watts")
        columns = zip(*samples, strict=True)
        means |= {
            name: statistics.mean(column) for name, column in zip(names, columns, strict=True)
        }


def _handle(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
    except Exception as error:  # noqa: BLE001 # no figure is worth a failed measurement
        print(f"NVML is not available ({error}); no utilisation is reported", flush=True)
        return None


def _sample(handle: Any) -> tuple[float, float, float]:
    import pynvml

    used = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return float(used.gpu), float(used.memory), pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
