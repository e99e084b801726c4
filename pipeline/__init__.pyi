from .noise.calibrate import calibrate as calibrate
from .noise.calibrations import calibration_of as calibration_of
from .noise.darken import darken as darken, noise_rng as noise_rng
from .pairs.cameras import CAMERAS as CAMERAS, Camera as Camera, camera_named as camera_named
from .pairs.find import find_pairs as find_pairs
from .pairs.pair_table import pairs_from_csv as pairs_from_csv
from .pairs.sources import open_source as open_source
from .pairs.table import Pair as Pair, Pairs as Pairs, Skipped as Skipped
from .pairs.whole_frame import lone_frame as lone_frame, whole_frame as whole_frame
from .plan.options import PlanOptions as PlanOptions
from .plan.plan import Plan as Plan
from .plan.planner import make_plan as make_plan
from .raw.amplify import (
    estimate_amplification as estimate_amplification,
    exposure_ratio as exposure_ratio,
)
from .raw.frame import RawFrame as RawFrame, RawHeader as RawHeader
from .raw.reader import read_header as read_header, read_raw as read_raw
from .raw.source import PackedFrame as PackedFrame, RawFile as RawFile, Source as Source
