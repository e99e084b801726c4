"""Restore RAW frames without a truth to upright pictures with metadata.

The trade-off: frames are loaded one at a time, so that the largest frame determines the memory needed and
an unusable file does not affect the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from darkprep.shards.errors import DarkprepError, DiskFull, OptionError, SpoolError
from darkprep.shards.files import disk_errors
from darkprep.shards.format import Sample
from darkprep.trainer.evaluation import Restorer, restore_on_device
from darkprep.trainer.picture import Bits, Pixels, check_suffix, quantised, write_picture

_STRIP_ROWS = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class UnpairedFrame:
    """A decoded frame without a truth, with the metadata of its file."""

    sample: Sample
    """The frame as a sample; `gt` is not used."""
    orientation: int = 0
    """LibRaw's flip: 0, 3, 5 or 6."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Metadata for the picture, such as camera, exposure and amplification."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoreJob:
    """One file to restore."""

    source: str
    """Name of the RAW file."""
    load: Callable[[], UnpairedFrame]
    """Decodes the file; may raise a DarkprepError."""
    target: Path
    """Path of the picture; `.png`, `.tif` or `.tiff`."""


@dataclass(frozen=True, kw_only=True)
class RestoreResult:
    """What became of one file."""

    source: str
    target: Path
    error: str | None
    """Why there is no picture; None if there is one."""
    seconds: float


def restore(
    network: Restorer,
    frame: UnpairedFrame,
    target: Path,
    *,
    bits: Bits = 8,
    device: torch.device | None = None,
) -> None:
    """Restore one frame and write the picture upright to `target`.

    Raises OptionError for an unknown suffix or bit depth, WeightsError when the network was trained for
    another CFA than the frame's, DiskFull when the disk is full, and SpoolError when the picture cannot be
    written for another reason.
    """
    check_suffix(target)
    if bits not in (8, 16):
        raise OptionError(f"bits must be 8 or 16, not {bits}")
    pixels = upright(restored_pixels(network, frame.sample, bits, device), frame.orientation)
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(target, pixels, frame.text)
    except OSError as error:  # it names the temporary file
        raise SpoolError(
            f"{target}: cannot be written ({error.strerror}); choose another output directory or file name"
        ) from error


def restore_all(
    network: Restorer,
    jobs: Iterable[RestoreJob],
    *,
    bits: Bits = 8,
    device: torch.device | None = None,
) -> Iterator[RestoreResult]:
    """Restore the files one after the other, and yield each result; an unusable file does not stop the others.

    Raises DiskFull, because every later file would fail too.
    """
    for job in jobs:
        began, reason = time.monotonic(), None
        try:
            restore(network, job.load(), job.target, bits=bits, device=device)
        except DiskFull:
            raise
        except DarkprepError as error:
            reason = str(error)
        yield RestoreResult(
            source=job.source,
            target=job.target,
            error=reason,
            seconds=time.monotonic() - began,
        )


def restored_pixels(
    network: Restorer, sample: Sample, bits: Bits, device: torch.device | None = None
) -> Pixels:
    """Restore a whole frame and return it as `(H, W, 3)` integers of 8 or 16 bits.

    On a GPU the values are rounded there: a quarter or half of the bytes are copied to the host. Raises the
    errors of `restore_on_device`.
    """
    restored = restore_on_device(network, sample, device)
    if not restored.is_cuda:
        return quantised(restored.float().numpy(), bits)
    return quantised_on_device(restored, bits).cpu().numpy()


@torch.inference_mode()
def quantised_on_device(picture: Tensor, bits: Bits) -> Tensor:
    """Do what `quantised` does, on the device of `(3, H, W)` float in [0, 1]."""
    dtype = torch.uint8 if bits == 8 else torch.uint16
    full = float(torch.iinfo(dtype).max)
    pixels = torch.empty((*picture.shape[1:], 3), dtype=dtype, device=picture.device)
    for first in range(0, picture.shape[1], _STRIP_ROWS):  # or the copies would fill the memory
        strip = picture[:, first : first + _STRIP_ROWS].float().mul(full).round_().clamp_(0, full)
        pixels[first : first + _STRIP_ROWS].copy_(strip.movedim(0, -1))
    return pixels


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn `(H, W, 3)` upright by LibRaw's flip code: bit 2 flips rows, bit 1 columns, then bit 4 transposes."""
    if orientation & 2:
        pixels = pixels[::-1]
    if orientation & 1:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation & 4 else pixels
