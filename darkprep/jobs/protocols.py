"""The comparison in packed RAW that the protocols of ELD and PMN prescribe, for networks of every target.

Planes that a network restores are compared as they are, and camera RGB at the mosaic's own colours. The
trade-off: a restored sRGB picture is converted back to RAW by inverting the development of the long
exposure. For this the long exposure is decoded again, and even the ground truth scores only 62 to 64 dB
on synthetic files (`bench/bench_colour.py`), where equal RAW would score infinity.

The value 1 in these planes is ELD's full scale, not the file's: PSNR depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.colour import Colours, colours_of, undevelop
from darkprep.pipeline.raw.guard import guarded
from darkprep.pipeline.raw.mosaic import pack
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.format import U16, CfaKind, Sample, Target
from darkprep.trainer.evaluation import Prepare
from darkprep.trainer.metrics import F32

ELD_CENTRE = 512
"""Side, in packed pixels, of the central square of SID's frames that ELD's authors score, because of fixed-pattern
noise in a corner; their own frames they score whole."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Truth:
    """A long exposure as RAW planes, and the data that convert its developed picture to such planes."""

    planes: F32
    """`(C, h, w)` in [0, 1]."""
    colours: Colours
    cfa: CfaKind
    developed: F32
    """`(C, 1, 1)`: the value in these planes of full scale in its development."""


def packed_raw(
    root: Path, pairs: Mapping[str, Pair], *, centre: int | None, target: Target = "srgb"
) -> Prepare:
    """Return a function that converts a picture and its ground truth to packed RAW, in [0, 1] of ELD's full scale.

    The planes are always those of the sensor, nine for X-Trans, so that scores of all X-Trans modes can be
    compared; a network of the target `raw` is scored in its own planes. `pairs` are given by id. With `centre`, only the central square of this many packed pixels is
    compared, or as much of it as a frame has. The returned function raises RawError when a long exposure
    cannot be read.
    """

    @lru_cache(maxsize=1)  # the restored picture and the baseline are compared one after the other
    def truth(pair: str) -> _Truth:
        path = root / pairs[pair].long
        frame = guarded(lambda path: open_source(path).decode(), path)
        black = np.array(frame.black, np.float32)[:, None, None]
        scale = np.float32(_full_scale(frame.white)) - black
        planes = (frame.planes - black) / scale
        return _Truth(
            planes=np.clip(planes, 0, 1, out=planes),
            colours=colours_of(frame, str(path)),
            cfa=frame.cfa,
            # Development takes black from each colour, but full scale from the lowest black.
            developed=(np.float32(frame.white) - black.min()) / scale,
        )

    def prepare(sample: Sample, picture: F32 | U16) -> tuple[F32, F32]:
        if target == "raw":
            restored, expected = planes_at_full_scale(sample, picture)
            return _middle(restored, centre), _middle(expected, centre)
        true = truth(sample.meta.pair)
        if target == "linear":
            ours = planes_of_colours(picture, true.cfa)
        else:
            ours = undevelop(picture, true.colours, true.cfa)
        ours *= true.developed
        return _middle(ours, centre), _middle(true.planes, centre)

    return prepare


def planes_at_full_scale(sample: Sample, planes: F32 | U16) -> tuple[F32, F32]:
    """Return restored planes and truth of a sample of the target `raw`, in [0, 1] of ELD's full scale.

    `planes` are `(C, h, w)` float, 1 at the long exposure's white level.
    """
    black = np.array(sample.meta.gt_black, np.float32)[:, None, None]
    scale = np.float32(_full_scale(sample.meta.gt_white)) - black
    truth = (sample.gt - black) / scale
    restored = planes * ((np.float32(sample.meta.gt_white) - black) / scale)
    return np.asarray(restored, np.float32), np.clip(truth, 0, 1, out=truth)


def planes_of_colours(picture: F32 | U16, cfa: CfaKind) -> F32:
    """Return of camera RGB `(3, H, W)` each pixel's value of its own colour, packed."""
    unit = np.float32(65535 if picture.dtype == np.uint16 else 1)
    channels = [pack(channel.astype(np.float32), cfa) for channel in picture]
    planes = [
        channels["RGB".index(letter)][plane] for plane, letter in enumerate(PLANE_COLOURS[cfa])
    ]
    return np.asarray(np.stack(planes) / unit, np.float32)


def _full_scale(white: int) -> int:
    """Return the code that counts as 1 in ELD's scores: the largest code with as many bits as the white level.

    As in ELD's code, this is 16383 for every camera with 14-bit codes, although a Canon saturates at 15303.
    With the file's own white level, its PSNR would be 0.7 dB lower than published scores.
    """
    return (1 << white.bit_length()) - 1


def _middle(planes: F32, side: int | None) -> F32:
    if side is None:
        return planes
    top, left = (max(0, (length - side) // 2) for length in planes.shape[1:])
    return planes[:, top : top + side, left : left + side]
