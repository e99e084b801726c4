"""What a protocol compares where that is not the developed picture: ELD's packed RAW.

The trade-off: networks here put out sRGB, so their pictures are taken back to RAW by inverting the long
exposure's own development. That costs one more decoding of it, and puts the truth itself at 62 to 64 dB
on synthetic files (`bench/bench_colour.py`), where exactly equal RAW would score infinity.

What is 1 in these planes is ELD's full scale, not the file's: it decides how many dB an error is.
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
from darkprep.shards.format import U16, CfaKind, Sample
from darkprep.trainer.evaluation import Compared
from darkprep.trainer.metrics import F32

ELD_CENTRE = 512
"""Side of the packed square in the middle that ELD's authors score of SID's frames, because of
fixed-pattern noise in a corner; of their own frames they score all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Truth:
    """A long exposure as its sensor recorded it."""

    planes: F32
    """`(C, h, w)` in [0, 1]."""
    colours: Colours
    cfa: CfaKind
    developed: F32
    """`(C, 1, 1)` what full scale of its development is in these planes."""


def packed_raw(root: Path, pairs: Mapping[str, Pair], *, centre: int | None) -> Compared:
    """Returns what brings a picture and its truth to packed RAW in [0, 1] of ELD's full scale.

    The planes are the sensor's own, whatever form of them the network was fed: X-Trans has nine, so
    figures of all forms compare. `pairs` are by id. With `centre`, just the middle square of that many
    packed pixels is compared, as much of it as a frame has. Raises RawError when a long exposure cannot
    be read.
    """

    @lru_cache(maxsize=1)  # the restored picture and the one to beat come one after the other
    def truth(pair: str) -> _Truth:
        path = root / pairs[pair].long
        frame = open_source(path).decode()
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

    def compared(sample: Sample, picture: F32 | U16) -> tuple[F32, F32]:
        true = truth(sample.meta.pair)
        ours = undevelop(picture, true.colours, true.cfa)
        ours *= true.developed
        return _middle(ours, centre), _middle(true.planes, centre)

    return compared


def _full_scale(white: int) -> int:
    """Returns the code that ELD's figures take for 1: the largest of as many bits as white has.

    That is 16383 for every camera whose codes have 14 bits, as in ELD's code, though a Canon saturates
    at 15303: measured by the file's own white, its PSNR would be 0.7 dB lower than published ones.
    """
    return (1 << white.bit_length()) - 1


def _middle(planes: F32, side: int | None) -> F32:
    if side is None:
        return planes
    top, left = (max(0, (length - side) // 2) for length in planes.shape[1:])
    return planes[:, top : top + side, left : left + side]
