"""One picture of all restored pictures, small and with captions, to choose an amplification from.

The trade-off: the pictures are read again from their files, which costs some tenths of a second each, so that no copy
of them waits in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from darkprep.jobs.restore_files import free_name
from darkprep.shards.files import replace_atomically
from darkprep.trainer.restoration import RestoreResult, file_errors

MAX_PICTURES = 1000
"""Pictures on a sheet; more would not fit into a JPEG file."""
_SIDE, _CAPTION, _GAP, _COLUMNS = 256, 28, 8, 5
_CAPTION_LETTERS = 42
_GREY, _LIGHT = (40, 40, 40), (230, 230, 230)
_QUALITY = 90


class ContactSheet:
    """Collects small pictures with their captions."""

    def __init__(self) -> None:
        self._cells: list[tuple[Image.Image, str]] = []

    def add(self, result: RestoreResult) -> None:
        """Add the picture of a result; one that failed, cannot be read, or is one too many is left out."""
        if result.error or len(self._cells) >= MAX_PICTURES:
            return
        small = _small(result.target)
        if small:
            caption = f"x{result.amplification:.4g}\n{result.target.stem[:_CAPTION_LETTERS]}"
            self._cells.append((small, caption))

    def save(self, out: Path, *, replace: bool) -> Path | None:
        """Write `contact-sheet.jpg` in the directory `out`, or with a number if it exists and is not replaced.

        Returns its path; None without pictures. Raises DiskFull and SpoolError.
        """
        if not self._cells:
            return None
        path = free_name(out, "contact-sheet", ".jpg", set(), avoid=not replace)
        with file_errors(path):
            replace_atomically(
                path, lambda file: self._drawn().save(file, "JPEG", quality=_QUALITY)
            )
        return path

    def _drawn(self) -> Image.Image:
        columns = min(_COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // columns)
        step_x, step_y = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
        sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), _GREY)
        draw = ImageDraw.Draw(sheet)
        for number, (picture, caption) in enumerate(self._cells):
            row, column = divmod(number, columns)
            left, top = _GAP + column * step_x, _GAP + row * step_y
            sheet.paste(
                picture, (left + (_SIDE - picture.width) // 2, top + _SIDE - picture.height)
            )
            printable = caption.encode("latin-1", "replace").decode("latin-1")
            draw.text((left, top + _SIDE + 2), printable, fill=_LIGHT)
        return sheet


def _small(path: Path) -> Image.Image | None:
    """Return a written picture, or a DNG file's preview, at most 256 pixels wide and high."""
    try:
        if path.suffix == ".tiff":  # Pillow has no 16-bit RGB
            pixels = tifffile.imread(path)
            picture = Image.fromarray(
                (pixels >> 8 if pixels.itemsize == 2 else pixels).astype(np.uint8)
            )
        else:
            picture = Image.open(path)
            picture.draft("RGB", (_SIDE, _SIDE))
        picture.thumbnail((_SIDE, _SIDE))
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
