"""Pictures of a scene that a reader compares with a slider: JPEGs, and the labels by which they are selected."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Item = TypeVar("Item")

_MAX_WIDTH = 1280
_QUALITY = 88

_SIMPLY_DEVELOPED = (
    " Restored picture and truth are linear light, simply developed to be shown: white balance, colour matrix "
    "and a gamma of 2.2, without demosaicing."
)


def picture_note(target: object) -> str:
    """Return a sentence about the pictures of a network of this target; empty for `srgb` and None."""
    return _SIMPLY_DEVELOPED if target in ("linear", "raw") else ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a scene."""

    kind: str
    """The label by which a reader selects it: `dark`, `amplified`, `restored`, `truth`."""
    label: str
    """Printed on the picture."""
    jpeg: bytes
    iteration: int | None = None
    """The iteration after which it was restored, if there are pictures of several iterations."""


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures of one scene, all of the same size."""

    name: str
    caption: str
    size: tuple[int, int]
    """Width and height in pixels."""
    pictures: tuple[Picture, ...]


class Gallery:
    """Several picture sets, with the selections that a reader can make."""

    def __init__(self, sets: Sequence[PictureSet]) -> None:
        """Create a gallery of `sets`, which must not be empty."""
        self.sets = tuple(sets)
        self.kinds = tuple(dict.fromkeys(picture.kind for one in sets for picture in one.pictures))
        self.left = "amplified" if "amplified" in self.kinds else self.kinds[0]
        # Beside the input, the restored picture shows more than the truth does.
        preferred = [kind for kind in ("restored", "truth") if kind in self.kinds]
        self.right = (*preferred, self.kinds[-1])[0]
        self.iterations = max(
            sum(picture.iteration is not None for picture in one.pictures) for one in sets
        )
        """How many iterations a reader can choose from."""


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` of the items, evenly spaced, including the first and the last."""
    count = min(most, len(items))
    return [items[round(k * (len(items) - 1) / max(1, count - 1))] for k in range(count)]


def small_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return the picture `(H, W, 3)` as a JPEG that is at most as wide as a page."""
    picture = Image.fromarray(pixels)
    if picture.width > _MAX_WIDTH:
        height = round(picture.height * _MAX_WIDTH / picture.width)
        picture = picture.resize((_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG in pixels; None if `jpeg` is not a valid JPEG."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            return picture.size if all(picture.size) else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
