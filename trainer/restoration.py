"""Restore RAW frames without a truth to upright pictures with metadata.

The trade-off: the next file is decoded and the last one is written while the network works, so that three
frames are in memory at once, and never more; an unusable file does not affect the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    notes: tuple[str, ...] = ()
    """Warnings about the frame, for the result."""


Write = Callable[[UnpairedFrame, Tensor, Path], None]
"""Writes what the network returned for a frame, `(3, H, W)` or `(C, h, w)` in [0, 1], to a path; may raise a DarkprepError."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoreJob:
    """One file to restore."""

    source: str
    """Name of the RAW file."""
    load: Callable[[], UnpairedFrame]
    """Decodes the file; may raise a DarkprepError."""
    target: Path
    """Path of the picture; `.png`, `.tif` or `.tiff`, unless the caller writes it."""


@dataclass(frozen=True, kw_only=True)
class RestoreResult:
    """What became of one file."""

    source: str
    target: Path
    error: str | None
    """Why there is no picture; None if there is one."""
    seconds: float
    """Time for decoding, network and writing, without waiting in between."""
    amplification: float = 0.0
    amplification_source: str = ""
    """`estimate` or `constant`; empty if the file could not be decoded."""
    notes: tuple[str, ...] = ()


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
    write = picture_writer(target, bits)
    write(frame, restore_on_device(network, frame.sample, device), target)


def picture_writer(target: Path, bits: Bits) -> Write:
    """Return a function that writes upright sRGB pictures with the suffix of `target`. Raises OptionError."""
    check_suffix(target)
    if bits not in (8, 16):
        raise OptionError(f"bits must be 8 or 16, not {bits}")

    def write(frame: UnpairedFrame, restored: Tensor, path: Path) -> None:
        pixels = upright(integer_pixels(restored, bits), frame.orientation)
        with file_errors(path):
            write_picture(path, pixels, frame.text)

    return write


@contextlib.contextmanager
def file_errors(target: Path) -> Iterator[None]:
    """Create the directory of `target`, and raise SpoolError for an OSError of the block, which writes `target`."""
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:  # it names the temporary file
        raise SpoolError(
            f"{target}: cannot be written ({error.strerror}); choose another output directory or file name"
        ) from error


def restore_all(
    network: Restorer,
    jobs: Sequence[RestoreJob],
    *,
    bits: Bits = 8,
    device: torch.device | None = None,
    write: Write | None = None,
) -> Iterator[RestoreResult]:
    """Restore the files in order, and yield each result; an unusable file does not stop the others.

    While the network restores a file, the next one is decoded and the one before is written. `write` replaces the
    function that writes pictures. Raises DiskFull, because every later file would fail too.
    """
    with (
        ThreadPoolExecutor(1, "decode") as decoder,
        ThreadPoolExecutor(1, "write") as writer,
    ):
        coming = decoder.submit(_loaded, jobs[0]) if jobs else None
        writing: Future[RestoreResult] | None = None
        for index, job in enumerate(jobs):
            assert coming is not None
            loaded = coming.result()
            after = jobs[index + 1] if index + 1 < len(jobs) else None
            coming = decoder.submit(_loaded, after) if after else None
            work = _restored(network, job, loaded, device)
            if writing:
                yield writing.result()
            writing = writer.submit(_written, work, write, bits)
            del work, loaded  # or their frame would stay in memory beside the next two
        if writing:
            yield writing.result()


@dataclass(kw_only=True, eq=False)
class _Work:
    """A file on its way through the three stages."""

    job: RestoreJob
    frame: UnpairedFrame | None = None
    restored: Tensor | None = None
    error: str | None = None
    seconds: float = 0.0

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """Measure a stage; an expected error becomes the file's, except for a full disk."""
        began = time.monotonic()
        try:
            yield
        except DiskFull:
            raise
        except DarkprepError as error:
            self.error = str(error)
        finally:
            self.seconds += time.monotonic() - began

    def result(self) -> RestoreResult:
        """Return what became of the file."""
        meta = self.frame.sample.meta if self.frame else None
        return RestoreResult(
            source=self.job.source,
            target=self.job.target,
            error=self.error,
            seconds=self.seconds,
            amplification=meta.amplification if meta else 0.0,
            amplification_source=meta.amplification_source if meta else "",
            notes=self.frame.notes if self.frame else (),
        )


def _loaded(job: RestoreJob) -> _Work:
    work = _Work(job=job)
    with work.stage():
        work.frame = job.load()
    return work


def _restored(
    network: Restorer, job: RestoreJob, work: _Work, device: torch.device | None
) -> _Work:
    with work.stage():
        if work.frame:
            work.restored = restore_on_device(network, work.frame.sample, device)
    return work


def _written(work: _Work, write: Write | None, bits: Bits) -> RestoreResult:
    with work.stage():
        if work.frame and work.restored is not None:
            write = write or picture_writer(work.job.target, bits)
            write(work.frame, work.restored, work.job.target)
    return work.result()


def integer_pixels(restored: Tensor, bits: Bits) -> Pixels:
    """Return `(3, H, W)` in [0, 1] as `(H, W, 3)` integers of 8 or 16 bits.

    On a GPU the values are rounded there: a quarter or half of the bytes are copied to the host.
    """
    if not restored.is_cuda:
        return quantised(restored.float().numpy(), bits)
    return quantised_on_device(restored, bits).cpu().numpy()


def restored_pixels(
    network: Restorer, sample: Sample, bits: Bits, device: torch.device | None = None
) -> Pixels:
    """Restore a whole frame and return it as `(H, W, 3)` integers of 8 or 16 bits.

    Raises the errors of `restore_on_device`.
    """
    return integer_pixels(restore_on_device(network, sample, device), bits)


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
