"""What a protocol compares where that is not the developed picture: ELD's packed RAW.

The trade-off: networks here put out sRGB, so their pictures are taken back to RAW by inverting the long
exposure's own development. That costs one more decoding of it, and puts the truth itself at 62 to 64 dB
on synthetic files (`bench/bench_colour.py`), where exactly equal RAW would score infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.colour import Colours, colours_of, undeveloped
from pipeline.datasets import Pair
from pipeline.wholeframe import decode_short
from shards.format import U16, CfaKind, Sample
from trainer.evaluate import Compared
from trainer.metrics import F32

ELD_CENTRE = 512
"""Side of the packed square in the middle that ELD's authors score of SID's frames, because of
fixed-pattern noise in a corner; of their own frames they score all."""


def packed_raw(root: Path, pairs: Mapping[str, Pair], *, centre: int | None) -> Compared:
    """Returns what brings a picture and its truth to packed RAW in [0, 1].

    The planes are the sensor's own, whatever form of them the network was fed: X-Trans has nine, so
    figures of all forms compare. `pairs` are by id. With `centre`, just the middle square of that many packed pixels is compared, as
    much of it as a frame has. Raises RawError when a long exposure cannot be read.
    """

    @lru_cache(maxsize=1)  # the restored picture and the one to beat come one after the other
    def truth(pair: str) -> tuple[F32, Colours, CfaKind]:
        path = root / pairs[pair].long
        frame = decode_short(path)
        black = np.array(frame.black, np.float32)[:, None, None]
        planes = (frame.planes - black) / (np.float32(frame.white) - black)
        return np.clip(planes, 0, 1, out=planes), colours_of(frame, str(path)), frame.cfa

    def compared(sample: Sample, picture: F32 | U16) -> tuple[F32, F32]:
        planes, colours, cfa = truth(sample.meta.pair)
        ours = undeveloped(picture, colours, cfa)
        return _middle(ours, centre), _middle(planes, centre)

    return compared


def _middle(planes: F32, side: int | None) -> F32:
    if side is None:
        return planes
    top, left = (max(0, (length - side) // 2) for length in planes.shape[1:])
    return planes[:, top : top + side, left : left + side]
