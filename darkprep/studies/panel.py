"""The panel of a study: all comparisons in one JPEG, for documents that show a single picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from darkprep.shards.decode import short_repr
from darkprep.shards.errors import OptionError
from darkprep.shards.files import open_regular_file
from darkprep.studies.task_results import PairScore
from darkprep.trainer.picture_row import picture_file_name, split_row

Pixels = NDArray[np.uint8]

_GAP_PX = 8
_WIDTH_PX = 1276
_LABEL_PX = 26
_MAX_IN_A_ROW = 4
"""Maximum number of pictures in a row; a comparison with more takes several rows."""
_QUALITIES = (85, 70, 50)
_MAX_BYTES = 300_000


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledPicture:
    """A picture of a comparison, with its label."""

    label: str
    pixels: Pixels
    """`(H, W, 3)`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Pictures of one scene: the input first, the truth last."""

    name: str
    pictures: tuple[LabelledPicture, ...]


def read_picture_row(path: Path, count: int) -> list[Pixels]:
    """Return the `count` pictures that a PNG file holds side by side. Raises OptionError for a file with other content."""
    try:
        # Of other formats, Pillow reads some with programs of this machine (EPS with Ghostscript).
        with (
            open(path, "rb", opener=open_regular_file) as file,
            Image.open(file, formats=("PNG",)) as image,
        ):
            if image.mode != "RGB":
                raise ValueError(f"its pixels are {image.mode}")
            pictures = split_row(np.asarray(image), count)
        if not all(picture.size for picture in pictures):
            raise ValueError("too few columns")
    # Arbitrary bytes and names can make Pillow raise exceptions of any class.
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise OptionError(
            f"{path.parent}: {short_repr(path.name)} does not hold {count} pictures ({reason}); choose another --out"
        ) from error
    return pictures


def read_comparison(name: str, pair: str, networks: Sequence[tuple[str, Path]]) -> Comparison:
    """Return the pictures of one pair: amplified input, what each network restored, and truth.

    `networks` holds the label of each network and the directory of its pictures. Raises OptionError as
    `read_picture_row`.
    """
    file = picture_file_name(pair)
    rows = [(label, read_picture_row(folder / file, 3)) for label, folder in networks]
    amplified, _, truth = rows[0][1]
    return Comparison(
        name=name,
        pictures=(
            LabelledPicture(label="amplified", pixels=amplified),
            *(LabelledPicture(label=label, pixels=row[1]) for label, row in rows),
            LabelledPicture(label="truth", pixels=truth),
        ),
    )


def median_pair(scores: Sequence[PairScore]) -> str:
    """Return the pair with the median PSNR; a PSNR of None counts as infinite."""
    ranked = sorted(scores, key=lambda score: float("inf") if score.psnr is None else score.psnr)
    return ranked[len(ranked) // 2].pair


def common_median_pair(each: Sequence[Sequence[PairScore]]) -> str:
    """Return, of the pairs common to all, the one with the median mean PSNR; if there are none, the first's median pair."""
    by_pair = [{score.pair: score.psnr for score in scores} for scores in each]
    means = []
    for pair in sorted(set(by_pair[0]).intersection(*by_pair)):
        values = [own for one in by_pair if (own := one[pair]) is not None]
        if len(values) == len(by_pair):
            means.append(PairScore(pair=pair, psnr=float(np.mean(values))))
    return median_pair(means or each[0])


def panel(comparisons: Sequence[Comparison]) -> Pixels:
    """Draw all comparisons as one picture: each takes one row or two, cropped to the centre, with labels."""
    most = max(len(comparison.pictures) for comparison in comparisons)
    across = -(-most // -(-most // _MAX_IN_A_ROW))
    width = (_WIDTH_PX + _GAP_PX) // across - _GAP_PX
    height = 2 * width // 3
    tiles = [
        (first_row + k // across, k % across, comparison, picture)
        for first_row, comparison in zip(_first_rows(comparisons, across), comparisons, strict=True)
        for k, picture in enumerate(comparison.pictures)
    ]
    size = (across * (width + _GAP_PX) - _GAP_PX, (tiles[-1][0] + 1) * (height + _LABEL_PX))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, column, comparison, picture in tiles:
        left, top = column * (width + _GAP_PX), row * (height + _LABEL_PX)
        is_first = picture is comparison.pictures[0]
        label = f"{comparison.name}: {picture.label}" if is_first else picture.label
        draw.text((left + 2, top + 5), label, fill="black", font=_font(label, width))
        cropped = Image.fromarray(_crop_centre(picture.pixels, height, width))
        canvas.paste(cropped, (left, top + _LABEL_PX))
    return np.asarray(canvas)


def encode_panel(pixels: Pixels) -> bytes:
    """Return the panel as a JPEG of the best of three qualities with which it stays small; else of the lowest."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= _MAX_BYTES:
            break
    return file.getvalue()


def _font(label: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest of three font sizes in which the label is at most as wide as its picture."""
    fonts = [ImageFont.load_default(size=size) for size in (15, 13, 11)]
    return next((font for font in fonts if font.getlength(label) < width), fonts[-1])


def _first_rows(comparisons: Sequence[Comparison], across: int) -> list[int]:
    """Return for each comparison the row of pictures in which it begins."""
    rows = [-(-len(comparison.pictures) // across) for comparison in comparisons]
    return [sum(rows[:k]) for k in range(len(rows))]


def _crop_centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return the centre of a picture in the shape of a tile, scaled down if the picture is several times larger."""
    scale = max(1, min(pixels.shape[0] // height, pixels.shape[1] // width))
    rows, columns = min(pixels.shape[0], height * scale), min(pixels.shape[1], width * scale)
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    cropped = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows, left : left + columns]))
    if scale > 1:
        cropped = cropped.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(cropped)
