"""The sRGB picture of what a network of any target restored, so that networks of all targets can be compared.

Restored planes are developed by LibRaw in the place of the long exposure's own codes, as its truth is. Of
camera RGB each pixel's own colour is taken, which gives planes. The trade-off: LibRaw demosaics again what a
network of the target `linear` restored, because that target's own demosaic, which is done before the white
balance, differs from the truth's by 37 dB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darkprep.jobs.protocols import planes_of_colours
from darkprep.pipeline.raw.develop import develop_planes
from darkprep.shards.format import U16, SampleMeta
from darkprep.trainer.metrics import F32


def developed_result(long: Path, meta: SampleMeta, restored: F32 | U16) -> F32 | U16:
    """Return a restored whole frame as sRGB, `(3, H, W)`, float in [0, 1] or uint16.

    `meta` is that of the frame's sample, whose target `restored` has the form of. `long` is the path of the
    pair's long exposure. Raises RawError when it cannot be read.
    """
    if meta.target == "srgb":
        return restored
    if meta.target == "raw":
        return develop_planes(long, np.asarray(restored, np.float32))
    return develop_planes(long, planes_of_colours(restored, meta.cfa))
