"""Restores RAW frames that have no truth, upright, into pictures that say what they are.

The trade-off: frames are loaded when their turn comes and one at a time, so that memory is bounded by
the largest and a bad file costs nothing but itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from darkprep.shards.errors import DarkprepError, DiskFull, OptionError, SpoolError
from darkprep.shards.files import disk_errors
from darkprep.shards.format import Sample
from darkprep.trainer.evaluation import Restorer, restore_frame
from darkprep.trainer.picture import Bits, Pixels, check_suffix, quantised, write_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class LoneFrame:
    """A decoded frame and what its file said of itself."""

    sample: Sample
    """Its `gt` is not looked at."""
    orientation: int = 0
    """LibRaw's flip: 0, 3, 5 or 6."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Goes into the picture: camera, exposure, ISO, gain."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoreJob:
    """One file to restore."""

    source: str
    """The RAW file, to name it by."""
    load: Callable[[], LoneFrame]
    target: Path
    """The picture; `.png`, `.tif` or `.tiff`."""


@dataclass(frozen=True, kw_only=True)
class RestoreResult:
    """What became of one file."""

    source: str
    target: Path
    error: str | None
    """Why there is no picture; None when there is."""
    seconds: float


def restore(
    network: Restorer,
    frame: LoneFrame,
    target: Path,
    *,
    bits: Bits = 8,
    device: torch.device | None = None,
) -> None:
    """Restore one frame into `target`, turned upright.

    Raises OptionError for a suffix or a depth that cannot be written, WeightsError for a frame of
    another CFA than the network's, DiskFull and SpoolError, which names `target` where that one
    file alone cannot be written.
    """
    check_suffix(target)
    if bits not in (8, 16):
        raise OptionError(f"bits must be 8 or 16, not {bits}")
    restored = restore_frame(network, frame.sample, device)
    pixels = upright(quantised(restored, bits), frame.orientation)
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(target, pixels, frame.text)
    except OSError as error:  # it names a file beside the target
        raise SpoolError(
            f"{target}: cannot be written ({error.strerror}); choose another folder or name"
        ) from error


def restore_all(
    network: Restorer,
    jobs: Iterable[RestoreJob],
    *,
    bits: Bits = 8,
    device: torch.device | None = None,
) -> Iterator[RestoreResult]:
    """Restore each job's file and tell of it at once; a bad file does not stop the others.

    Raises DiskFull, as every later file would fail alike.
    """
    for job in jobs:
        began, problem = time.monotonic(), None
        try:
            restore(network, job.load(), job.target, bits=bits, device=device)
        except DiskFull:
            raise
        except DarkprepError as error:
            problem = str(error)
        yield RestoreResult(
            source=job.source,
            target=job.target,
            error=problem,
            seconds=time.monotonic() - began,
        )


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn `(H, W, 3)` as LibRaw's flip says: bit 2 upside down, bit 1 left to right, then bit 4 transposes."""
    if orientation & 2:
        pixels = pixels[::-1]
    if orientation & 1:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation & 4 else pixels
