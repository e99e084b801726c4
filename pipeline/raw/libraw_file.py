"""Open a RAW file with LibRaw, from its path or from memory, and state the reason where this fails.

The trade-off: before pixels are decoded the whole file is read into memory, because some of LibRaw's decoders
ignore errors of the disk; a header is read from the path, in less than a millisecond.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import rawpy

from darkprep.pipeline.raw.as_shot import with_neutral
from darkprep.pipeline.raw.exif import unreadable_reason
from darkprep.pipeline.raw.image_data import COMPRESSIONS, DEFLATE, ImageData, read_image_data
from darkprep.pipeline.raw.libraw import without_libraw_messages
from darkprep.shards.errors import RawError
from darkprep.shards.machine import machine_errors, raise_machine_error

LIBRAW_ERRORS = (rawpy.LibRawError, OSError, RuntimeError, NotImplementedError)
"""What rawpy raises on bad files: its own errors have a base class, its helpers raise others."""
_MAX_PIXELS = 1 << 28
"""Pixels of a mosaic at most; the largest camera has 151 million."""
_MAX_FILE_BYTES = 1 << 30
"""Maximum size of a file: files are decoded in memory, and no camera writes larger mosaics."""
_BYTES_PER_PIXEL = 16
"""Memory that decoding takes at most: LibRaw's pixels of up to four colours, and its own buffers."""


def open_header(name: str) -> rawpy.RawPy:
    """Open a file with LibRaw, which reads only the header."""
    if _is_unicode(name):
        with _opened(name):
            pass
        # A refusal may be an error of the disk, which LibRaw hides: the whole file is read to find out.
        with contextlib.suppress(RawError):
            return _identify(name, name)
    return _identify(name, io.BytesIO(_read_whole(name)))


def open_in_memory(name: str) -> rawpy.RawPy:
    """Open a file with LibRaw from memory, after reading the whole file.

    Some of LibRaw's decoders ignore read errors of the disk and return invented pixel values; reading from
    memory has no such errors.
    """
    raw = _identify(name, io.BytesIO(with_neutral(_read_whole(name))))
    try:
        _unpack(name, raw)
    except BaseException:
        raw.close()
        raise
    return raw


def _read_whole(name: str) -> bytes:
    with _opened(name) as file, machine_errors(name):
        size = file.seek(0, 2)
        file.seek(0)
        # Without a size, read() would join two parts, which copies the whole file.
        return file.read(size)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open a file. Raises RawError if it is empty, too large, or shorter than its directories state."""
    try:
        size = Path(name).stat().st_size
        if not size:
            raise RawError(name, "is empty; copy it again from its source")
        if size > _MAX_FILE_BYTES:
            raise RawError(
                name,
                f"is not a photograph: it has {size:,} bytes, more than any camera writes; remove it",
            )
        with Path(name).open("rb") as file:
            found = read_image_data(file)
            if found.excess:
                raise RawError(name, f"has more {found.excess} than any camera writes; remove it")
            end = found.end
            if end is not None and end > size:
                part = f"{size:,} bytes of at least {end:,} exist"
                raise RawError(name, f"is truncated: {part}; copy it again from its source")
            file.seek(0)
            yield file
    except OSError as error:
        raise_machine_error(name, error)
        raise RawError(name, unreadable_reason(error)) from error


def _identify(name: str, source: str | io.BytesIO) -> rawpy.RawPy:
    try:
        with without_libraw_messages():
            raw = rawpy.imread(source)
    except rawpy.LibRawFileUnsupportedError as error:
        raise RawError(name, _unsupported_reason(name)) from error
    except (MemoryError, *LIBRAW_ERRORS) as error:
        raise_machine_error(name, error)
        reason = (
            f"is truncated or not a RAW file ({error_text(error)}); copy it again from its source"
        )
        raise RawError(name, reason) from error
    height, width = raw.sizes.raw_height, raw.sizes.raw_width
    if height * width > _MAX_PIXELS:
        raw.close()
        raise RawError(name, f"states {height}x{width} pixels, more than any camera has; remove it")
    return raw


def _unpack(name: str, raw: rawpy.RawPy) -> None:
    """Decode the pixels explicitly, because rawpy would otherwise do so at the first property, with a less clear error."""
    try:
        with without_libraw_messages():
            raw.unpack()
    except rawpy.LibRawFileUnsupportedError as error:
        raise RawError(name, compression_reason(name)) from error
    except (MemoryError, *LIBRAW_ERRORS) as error:
        if not (_is_out_of_memory(error) and _has_memory_for(raw)):
            raise_machine_error(name, error)
        if image_data_of(name).compression in DEFLATE:
            raise RawError(name, compression_reason(name)) from error
        reason = f"is damaged or truncated ({error_text(error)}); copy it again from its source"
        raise RawError(name, reason) from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | rawpy._rawpy.LibRawUnsufficientMemoryError)


def _has_memory_for(raw: rawpy.RawPy) -> bool:
    """Return whether there is memory for the pixels of a file.

    If there is, LibRaw had none for something else, such as a tile whose damaged width is a thousand times that of the image.
    """
    try:
        bytearray(raw.sizes.raw_height * raw.sizes.raw_width * _BYTES_PER_PIXEL)
    except MemoryError:
        return False
    return True


def _unsupported_reason(name: str) -> str:
    """Return the reason why LibRaw does not recognise a file."""
    found = image_data_of(name)
    if found.is_mosaic and found.compression in COMPRESSIONS:
        return compression_reason(name)
    return "is not a RAW file that LibRaw supports; convert it with Adobe DNG Converter"


def image_data_of(name: str) -> ImageData:
    """Return what the directories of a file state about its image data, without LibRaw. Raises MachineError."""
    with machine_errors(name), Path(name).open("rb") as file:
        return read_image_data(file)


def compression_reason(name: str) -> str:
    """Return the reason why LibRaw, which could read a file's header, cannot decode its pixels."""
    number = image_data_of(name).compression
    kind = "unknown" if number is None else COMPRESSIONS.get(number, f"TIFF compression {number}")
    return (
        f"has a compression that LibRaw cannot decode ({kind}); "
        "convert it with Adobe DNG Converter (uncompressed or lossless)"
    )


def _is_unicode(name: str) -> bool:
    """Return whether a file name is valid Unicode; rawpy cannot open a file with any other name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def error_text(error: Exception) -> str:
    """Return the text of an exception of rawpy; LibRaw's texts are bytes."""
    text = error.args[0] if error.args else type(error).__name__
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
