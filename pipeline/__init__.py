"""RAW photographs to training samples: the producing side of darkprep.

Everything here runs without torch and without a trainer; the two sides meet in `shards`. Functions
named as their module are not lifted here: `from pipeline.develop import develop`.
"""

from pipeline.amplify import estimate_amplification, exposure_ratio
from pipeline.datasets import (
    CAMERAS,
    Camera,
    Pair,
    Pairs,
    Skipped,
    camera_named,
    draw_fraction,
    find_pairs,
)
from pipeline.raw import RawFrame, RawHeader, read_header, read_raw
from pipeline.wholeframe import decode_long, decode_short, lone_frame, whole_frame

__all__ = [
    "CAMERAS",
    "Camera",
    "Pair",
    "Pairs",
    "RawFrame",
    "RawHeader",
    "Skipped",
    "camera_named",
    "decode_long",
    "decode_short",
    "draw_fraction",
    "estimate_amplification",
    "exposure_ratio",
    "find_pairs",
    "lone_frame",
    "read_header",
    "read_raw",
    "whole_frame",
]
