"""Camera, exposure time and ISO of a RAW file from its directories, without decoding it.

The trade-off: a few hundred bytes are read instead of tens of megabytes (LibRaw returns these values
only after unpacking all pixels, a second for a compressed 20 MP frame). In return only containers
built on TIFF (ARW, CR2, NEF, DNG, PEF) and Fujifilm's RAF are parsed; for others, and for damaged
directories, the values are "unknown" (0, "" or None), never a guess.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from darkprep.pipeline.raw.tiff import Tiff
from darkprep.shards.errors import RawError
from darkprep.shards.machine import raise_machine_error, with_retries

_MAKE, _MODEL, _EXPOSURE, _EXIF_POINTER = 0x010F, 0x0110, 0x829A, 0x8769
_ISO, _RECOMMENDED_INDEX, _ISO_SPEED = 0x8827, 0x8832, 0x8833
_RAF_MAGIC = b"FUJIFILMCCD-RAW"
_RAF_JPEG_POINTER = 84


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Camera, exposure time and ISO from the Exif directory; "" and 0 if unknown."""

    exposure_s: float = 0.0
    """Exposure time in seconds, from the file's exact fraction."""
    iso: float = 0.0
    make: str = ""
    model: str = ""


def read_exposure(path: str | os.PathLike[str]) -> Exposure:
    """Read the camera and the exposure of a RAW file. Raises RawError if the file cannot be opened."""
    name = os.fspath(path)
    return with_retries(name, lambda: _read_exposure_once(name))


def _read_exposure_once(name: str) -> Exposure:
    try:
        refuse_pipe(Path(name))
        with Path(name).open("rb") as file:
            start = tiff_start(file)
            return Exposure() if start is None else _exposure(Tiff(file, start))
    except struct.error:  # a directory points past the end of the file
        return Exposure()
    except OSError as error:
        raise_machine_error(name, error)
        raise RawError(name, unreadable_reason(error)) from error


def refuse_pipe(path: Path) -> None:
    """Raise OSError for a pipe or a device: opening it would wait for another process."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def unreadable_reason(error: OSError) -> str:
    """Return the reason why a file cannot be opened, and what to do, for a RawError."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name a RAW file"
    if isinstance(error, PermissionError):
        return "permission denied; check its permissions"
    return f"cannot be read ({error.strerror or error}); check the disk"


def _exposure(tiff: Tiff) -> Exposure:
    """Combine the first directory, in which DNG files may keep all tags, with the Exif directory."""
    first = tiff.values(tiff.first_directory())
    pointer = int(_number(first.get(_EXIF_POINTER)))
    tags = {**first, **tiff.values(pointer)} if pointer else first
    iso = _number(tags.get(_ISO))
    if iso == 0xFFFF:  # the field is 16 bits wide; Exif 2.3 keeps higher values elsewhere
        iso = _number(tags.get(_ISO_SPEED)) or _number(tags.get(_RECOMMENDED_INDEX)) or iso
    return Exposure(
        exposure_s=_number(tags.get(_EXPOSURE)),
        iso=iso,
        make=_text(first.get(_MAKE)),
        model=_text(first.get(_MODEL)),
    )


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float) else 0.0


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else ""


def tiff_start(file: BinaryIO) -> int | None:
    """Return the file offset at which the TIFF structure begins; None if there is none."""
    head = file.read(16)
    if head.startswith(_RAF_MAGIC):
        return _exif_in_jpeg(file)
    return 0 if head[:4] in (b"II*\x00", b"MM\x00*") else None


def _exif_in_jpeg(file: BinaryIO) -> int | None:
    """Return the offset of the Exif data in a RAF file's preview JPEG, where it is the first segment."""
    file.seek(_RAF_JPEG_POINTER)
    (jpeg,) = struct.unpack(">I", file.read(4))
    file.seek(jpeg)
    head = file.read(12)
    return jpeg + 12 if head[:4] == b"\xff\xd8\xff\xe1" and head[6:] == b"Exif\x00\x00" else None
