"""From RAW photographs to training samples: the producing side of darkprep.

This package runs without torch and without a trainer; it shares only `darkprep.shards` with the trainer.
"""

from darkprep.pipeline.pairs.cameras import CAMERAS, Camera, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.pair_table import pairs_from_csv
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, Pairs, Skipped
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.raw.amplify import estimate_amplification, exposure_ratio
from darkprep.pipeline.raw.frame import RawFrame, RawHeader
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.pipeline.raw.source import PackedFrame, RawFile, Source

__all__ = [
    "CAMERAS",
    "Camera",
    "PackedFrame",
    "Pair",
    "Pairs",
    "Plan",
    "PlanOptions",
    "RawFile",
    "RawFrame",
    "RawHeader",
    "Skipped",
    "Source",
    "camera_named",
    "estimate_amplification",
    "exposure_ratio",
    "find_pairs",
    "lone_frame",
    "make_plan",
    "open_source",
    "pairs_from_csv",
    "read_header",
    "read_raw",
    "whole_frame",
]
