"""The options of a plan that a user chooses, and how a recipe stores them.

The trade-off: the recipe's JSON keeps the keys and the order of the first plans, so that older spools keep
their digest; options that were renamed later are mapped here.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from darkprep.pipeline.noise.calibrations import (
    CALIBRATIONS,
    NoiseEdition,
    NoiseTable,
    calibration_of,
)
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.noise.sampled_darks import SampledDarks
from darkprep.pipeline.pairs.table import Frames, splits_named
from darkprep.pipeline.raw.amplify import parse_amplification
from darkprep.pipeline.raw.resample import parse_xtrans_mode
from darkprep.shards import PERIOD, TARGETS, CfaKind, OptionError, Target
from darkprep.shards.decode import decode

DEFAULT_CROP: dict[CfaKind, int] = {"bayer": 512, "xtrans": 480}
"""The paper's crop; for X-Trans the nearest size that its network can take (a multiple of 48)."""
DEFAULT_MARGIN: dict[CfaKind, int] = {"bayer": 16, "xtrans": 24}
"""Pixels stored beyond the crop: room for shifts, and for flips that keep the CFA's phase."""

_DIGEST = re.compile("[0-9a-f]{16}")
_MAX_LABEL = 100
"""Maximum number of characters of a label: it is part of each sample's metadata, whose size is limited."""
MEASURED, SAMPLED = "measured", "sampled"
"""Values of the option `noise` besides the names of cameras: a calibration file, and sampled dark frames."""
_STORED_NAMES = {"amplify": "gain", "xtrans": "form"}
"""Options that a recipe stores under another name."""
_STORED_IF_USED = (
    "xtrans",
    "noise",
    "measured_noise",
    "sampled_darks",
    "dark_shading",
    "lmdb",
    "target",
)
"""Options that a recipe stores only if they differ from the default: they were added later."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options of a plan that a user chooses. Raises OptionError, which names the invalid option."""

    camera: str
    """Name of the data set's camera, or a label of the user's choice where pairs come from a table."""
    split: str = "train"
    """Which scenes, by the data set's own division: `train`, `val`, `test` or `val+test`."""
    fraction: float = 1.0
    """Share of the scenes, drawn whole and seeded; in (0, 1]."""
    seed: int = 0
    epochs: int | None = 1
    """How often each pair is visited before the plan ends; None for an endless plan."""
    crop: int | None = None
    """Side in pixels of the crop that is trained on; None for DEFAULT_CROP."""
    margin: int | None = None
    """Pixels stored beyond the crop; None for DEFAULT_MARGIN."""
    samples_per_shard: int = 32
    crops_per_visit: int = 8
    """Crops cut from a pair at each visit; divides samples_per_shard."""
    window: int = 4
    """Consecutive shards that the trainer mixes."""
    amplify: str = "ratio"
    """`ratio`, `estimate`, or a number: how the amplification is found."""
    multiplier: float | None = None
    """The paper's m, with amplify `estimate` only; None is 1 (the command line's default is DEFAULT_MULTIPLIER)."""
    frames: Frames = "first"
    """`first`: only the first frame of each burst, as SID's code; `all`: every frame."""
    exclude_misaligned: bool = False
    """Leave out the misaligned scenes 10034, 10045 and 10172 of SID's Sony; other cameras have none."""
    xtrans: str = "native"
    """How an X-Trans camera is fed to the network: `native`, `plain` or `rggb` (raw/resample.py)."""
    noise: str | None = None
    """Camera by whose noise short exposures are made from long ones (noise/darken.py), `measured` or `sampled`;
    None for the short exposures that were taken."""
    measured_noise: IsoTable | None = None
    """With noise `measured`: the parameters of a calibration file."""
    sampled_darks: SampledDarks | None = None
    """With noise `sampled`: the dark frames."""
    noise_edition: NoiseEdition = 2
    """Edition of the published calibrations (noise/calibrations.py); recipes without it have edition 1."""
    dark_shading: str | None = None
    """Digest of the calibration file whose dark shading is subtracted from short exposures."""
    lmdb: str | None = None
    """Name of ELD's LMDB files whose patches are used instead of photographs, such as `SID_Sony`."""

    target: Target = "srgb"
    """The target of training: `srgb`, `linear` or `raw` (shards/FORMAT.md)."""

    def __post_init__(self) -> None:
        if not (isinstance(self.camera, str) and 0 < len(self.camera) <= _MAX_LABEL):
            raise OptionError(f"camera must have 1 to {_MAX_LABEL} characters, not {self.camera!r}")
        if not self.camera.isprintable():
            raise OptionError(f"camera must be printable, not {self.camera!r}")
        splits_named(self.split)
        if self.frames not in get_args(Frames):
            raise OptionError(f"frames must be first or all, not {self.frames!r}")
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction must be above 0 and at most 1, not {self.fraction}")
        if self.epochs is not None and self.epochs < 1:
            raise OptionError(f"epochs must be at least 1 or inf, not {self.epochs}")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed must be from 0 to 2^63 - 1, not {self.seed}")
        self._check_shards()
        self._check_amplification()
        self._check_data()

    def _check_shards(self) -> None:
        for name in ("samples_per_shard", "crops_per_visit", "window"):
            if getattr(self, name) < 1:
                raise OptionError(
                    f"{_option_name(name)} must be at least 1, not {getattr(self, name)}"
                )
        if self.samples_per_shard > 9999:
            raise OptionError(
                f"samples-per-shard must be at most 9999, not {self.samples_per_shard}"
            )
        if self.samples_per_shard % self.crops_per_visit:
            raise OptionError(
                f"samples-per-shard {self.samples_per_shard} must be a multiple of crops-per-visit {self.crops_per_visit}"
            )

    def _check_amplification(self) -> None:
        if self.multiplier is not None and not 0 < self.multiplier < float("inf"):
            raise OptionError(f"multiplier must be positive, not {self.multiplier}")
        if self.multiplier is not None and self.amplify != "estimate":
            raise OptionError(
                "--multiplier can be used only with --amplify estimate; leave it out, or choose --amplify estimate"
            )
        self.constant_amplification()

    def _check_data(self) -> None:
        parse_xtrans_mode(self.xtrans)
        if self.target not in TARGETS:
            raise OptionError(f"target must be one of {', '.join(TARGETS)}, not {self.target!r}")
        if self.noise_edition not in get_args(NoiseEdition):
            raise OptionError(
                f"noise_edition must be 1 or 2, not {self.noise_edition!r}; a newer darkprep made this plan, so update darkprep or build a new spool"
            )
        if self.noise is not None:
            if self.noise not in (*CALIBRATIONS, MEASURED, SAMPLED):
                raise OptionError(
                    f"noise must be one of {', '.join(CALIBRATIONS)}, a calibration file or a directory of dark frames, not {self.noise!r}"
                )
            if self.amplify == "estimate":
                raise OptionError(
                    "--noise can be used only with --amplify ratio or --amplify FACTOR, not with --amplify estimate"
                )
        self._check_measured()

    def _check_measured(self) -> None:
        digest = self.dark_shading
        if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise OptionError(
                f"dark_shading must be the 16 hex digits of a calibration's digest, not {digest!r}; build a new spool"
            )
        if digest is not None and (
            self.lmdb is not None
            or self.xtrans != "native"
            or self.noise not in (None, MEASURED, SAMPLED)
        ):
            raise OptionError(
                "--dark-shading can be used only with photographed short exposures, or with --noise FILE.json or --noise DIR; it also needs --xtrans native"
            )
        given = {MEASURED: self.measured_noise, SAMPLED: self.sampled_darks}
        for name, value in given.items():
            if (self.noise == name) != (value is not None):
                raise OptionError(
                    f"the plan's noise is {self.noise}, but its parameters are missing or are those of another noise; build a new spool"
                )

    def noise_table(self) -> NoiseTable:
        """Return the noise with which short exposures are made. Raises OptionError for another kind of plan."""
        if self.measured_noise is not None:
            return self.measured_noise
        if self.noise is None:
            raise OptionError(
                "the plan has no noise parameters, because it was made without --noise; build a spool with --noise"
            )
        return calibration_of(self.noise, edition=self.noise_edition)

    def constant_amplification(self) -> float | None:
        """Return the amplification if it is a constant, else None."""
        amplification = parse_amplification(self.amplify)
        return amplification if isinstance(amplification, float) else None

    def crop_size(self, cfa: CfaKind) -> int:
        """Return the side of the crop in pixels for samples with this CFA."""
        return DEFAULT_CROP[cfa] if self.crop is None else self.crop

    def stored_size(self, cfa: CfaKind) -> int:
        """Return the side of crop plus margin in pixels. Raises OptionError unless both are multiples of the period."""
        margin = DEFAULT_MARGIN[cfa] if self.margin is None else self.margin
        period, crop = PERIOD[cfa], self.crop_size(cfa)
        if crop < period or crop % period:
            raise OptionError(
                f"crop must be a positive multiple of {period} for {self.camera}, not {crop}"
            )
        if margin < 0 or margin % period:
            raise OptionError(
                f"margin must be a multiple of {period} for {self.camera}, not {margin}"
            )
        return crop + margin

    def to_record(self) -> dict[str, Any]:
        """Return the options as a recipe stores them."""
        defaults = {field.name: field.default for field in fields(self)}
        record = {
            _STORED_NAMES.get(name, name): value
            for name, value in asdict(self).items()
            if name not in _STORED_IF_USED or value != defaults[name]
        }
        if self.noise is None or self.noise_edition == 1:
            del record["noise_edition"]
        return record

    @classmethod
    def from_record(cls, record: object) -> PlanOptions:
        """Create options from a recipe. Raises ValueError or OptionError, which names the unknown or invalid option."""
        stored = dict(record) if isinstance(record, dict) else {}
        unknown = stored.keys() & _STORED_NAMES.keys()
        if unknown:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}")
        names = {stored: name for name, stored in _STORED_NAMES.items()}
        values = {names.get(name, name): value for name, value in stored.items()}
        if "noise" in values:
            values.setdefault("noise_edition", 1)
        return decode(cls, values, strict=True)


def _option_name(name: str) -> str:
    return name.replace("_", "-")
