"""How results of the targets `raw` and `linear` are shown: developed simply, to look at and not to measure.

The trade-off: white balance, matrix and a gamma of 2.2, and no demosaic. So planes give a picture of their own
size, half or a third of the photograph's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.colour import Colours
from darkprep.pipeline.raw.guard import guarded
from darkprep.shards.format import U16, CfaKind, Sample
from darkprep.trainer.metrics import F32
from darkprep.trainer.picture import developed_simply


def show_simply(root: Path, pairs: Mapping[str, Pair]) -> Callable[[Sample, F32 | U16], F32]:
    """Return a function that develops linear light of a sample with the colours of its pair's file.

    `pairs` are given by id. The returned function raises RawError when the file cannot be read.
    """

    @lru_cache(maxsize=1)  # several pictures of a pair are shown one after the other
    def colours(pair: str) -> Colours:
        return colours_for_show(root / pairs[pair].short)

    def show(sample: Sample, light: F32 | U16) -> F32:
        return shown(light, sample.meta.cfa, colours(sample.meta.pair))

    return show


def colours_for_show(path: Path) -> Colours:
    """Return a file's white balance and matrix, or no conversion to sRGB if the file has no usable matrix."""
    frame = guarded(lambda path: open_source(path).decode(), path)
    red, _, blue, _ = frame.white_balance
    gains = np.array([red, 1.0, blue])
    try:
        return Colours(gains=gains, to_srgb=frame.camera_to_srgb.astype(np.float64))
    except ValueError:
        return Colours(gains=gains, to_srgb=np.eye(3))


def shown(light: F32 | U16, cfa: CfaKind, colours: Colours) -> F32:
    """Return linear light, camera RGB or packed planes, as an sRGB picture `(3, h, w)` in [0, 1]."""
    return developed_simply(light, cfa, gains=colours.gains.tolist(), to_srgb=colours.to_srgb)
