"""RAW photographs to training samples: the producing side of darkprep.

Everything here runs without torch and without a trainer; the two sides meet in `shards`. Functions
named as their module are not lifted here: `from darkprep.pipeline.raw.develop import develop`.
"""

from darkprep.pipeline.pairs.cameras import CAMERAS, Camera, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, Pairs, Skipped, draw_fraction
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.pipeline.raw.amplify import estimate_amplification, exposure_ratio
from darkprep.pipeline.raw.frame import RawFrame, RawHeader
from darkprep.pipeline.raw.reader import read_header, read_raw

__all__ = [
    "CAMERAS",
    "Camera",
    "Pair",
    "Pairs",
    "RawFrame",
    "RawHeader",
    "Skipped",
    "camera_named",
    "draw_fraction",
    "estimate_amplification",
    "exposure_ratio",
    "find_pairs",
    "lone_frame",
    "open_source",
    "read_header",
    "read_raw",
    "whole_frame",
]
