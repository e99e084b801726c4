"""The recipe of a stream: which crops of which pairs make shard k, as a function of (plan, k) alone.

A shard is a few visits; a visit is one pair, from which several crops are cut while its frames are at
hand. So a frame that does not fit the store is decoded once a visit, not once a sample. The trade-off:
crops of one pair share a shard, and the trainer's window of shards does the mixing (shards/order.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.model import CALIBRATIONS
from darkprep.pipeline.pairs.cameras import Camera, camera_named
from darkprep.pipeline.pairs.find import find_longs, find_pairs
from darkprep.pipeline.pairs.lmdb import find_patches
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, Pairs, Skipped, draw_fraction, splits_named
from darkprep.pipeline.plan.frame_names import FrameKind, frame_name
from darkprep.pipeline.raw.amplify import parse_amplification
from darkprep.pipeline.raw.mosaic import canonical_shape
from darkprep.pipeline.raw.resample import parse_xtrans_mode, sample_cfa
from darkprep.shards import (
    PERIOD,
    CfaKind,
    DatasetError,
    OptionError,
    PlanError,
    RawError,
    Spool,
    StreamSpec,
)
from darkprep.shards.errors import first_line
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.rng import RngStream, permutation, random_below

DEFAULT_CROP: dict[CfaKind, int] = {"bayer": 512, "xtrans": 480}
"""The paper's crop; for X-Trans the nearest size that its network can take (a multiple of 48)."""
DEFAULT_MARGIN: dict[CfaKind, int] = {"bayer": 16, "xtrans": 24}
"""Pixels stored beyond the crop: room for shifts, and for flips that keep the CFA's phase."""

_MOST_PIXELS = 1 << 20
_MOST_RATIO = 1e9
_LATER_OPTIONS = ("xtrans", "noise", "lmdb")
"""Options that a recipe names only where they are used: older plans, without them, stay what they were."""
_RECIPE_NAMES = {"amplify": "gain", "xtrans": "form"}
"""Options that a recipe has under another name, so that older plans keep their digest."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a user chooses of a plan. Raises OptionError naming the field."""

    camera: str
    split: str = "train"
    """Which scenes, by the data set's own division: `train`, `val`, `test` or `val+test`."""
    fraction: float = 1.0
    """Share of the scenes, drawn whole and seeded; in (0, 1]."""
    seed: int = 0
    epochs: int | None = 1
    """How often each pair is visited before the plan ends; None for no end."""
    crop: int | None = None
    """Side in pixels of what a trainer sees of a sample; None for DEFAULT_CROP."""
    margin: int | None = None
    """Pixels stored beyond the crop; None for DEFAULT_MARGIN."""
    samples_per_shard: int = 32
    crops_per_visit: int = 8
    """Crops cut from a pair each time it comes up; divides samples_per_shard."""
    window: int = 4
    """Consecutive shards that the trainer mixes."""
    amplify: str = "ratio"
    """`ratio`, `estimate`, or a number: how the amplification is found."""
    multiplier: float | None = None
    """The paper's m, for amplify `estimate` alone; None is 1, though not on the command line (DEFAULT_MULTIPLIER)."""
    frames: str = "first"
    """`first`: only the first frame of each burst, as SID's code; `all`: every frame."""
    exclude_misaligned: bool = False
    """Leave out the misaligned scenes 10034, 10045 and 10172 of SID's Sony; other cameras have none."""
    xtrans: str = "native"
    """How an X-Trans camera is fed to the network: `native`, `plain` or `rggb` (resample.py)."""
    noise: str | None = None
    """Camera whose noise makes the short exposures from the long ones (darken.py); None takes the
    photographs' own."""
    lmdb: str | None = None
    """Name of ELD's LMDB files to take patches from instead of photographs, such as `SID_Sony`."""

    def __post_init__(self) -> None:
        camera_named(self.camera)
        splits_named(self.split)
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction must be above 0 and at most 1, not {self.fraction}")
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
        if self.epochs is not None and self.epochs < 1:
            raise OptionError(f"epochs must be at least 1 or inf, not {self.epochs}")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed must be from 0 to 2^63 - 1, not {self.seed}")
        if self.multiplier is not None and not 0 < self.multiplier < float("inf"):
            raise OptionError(f"multiplier must be positive, not {self.multiplier}")
        if self.multiplier is not None and self.amplify != "estimate":
            raise OptionError("multiplier goes with amplify estimate only")
        self.constant_amplification()
        self._check_source()
        self.stored_size()

    def _check_source(self) -> None:
        xtrans = parse_xtrans_mode(self.xtrans)
        if self.noise is not None:
            if self.noise not in CALIBRATIONS:
                raise OptionError(
                    f"noise must be one of {', '.join(CALIBRATIONS)}, not {self.noise!r}"
                )
            if self.amplify == "estimate":
                raise OptionError("noise goes with amplify ratio or a number, not with estimate")
            if self.mosaic_cfa == "xtrans" and xtrans != "native":
                raise OptionError(
                    "noise is made on the sensor's own mosaic: it goes with xtrans native only"
                )
        if self.lmdb is not None and self.mosaic_cfa != "bayer":
            raise OptionError(f"lmdb files hold Bayer patches, {self.camera} is {self.mosaic_cfa}")

    @property
    def mosaic_cfa(self) -> CfaKind:
        """The CFA of the camera's data set."""
        return camera_named(self.camera).cfa

    @property
    def cfa(self) -> CfaKind:
        """The CFA that the samples have."""
        return sample_cfa(self.mosaic_cfa, parse_xtrans_mode(self.xtrans))

    def constant_amplification(self) -> float | None:
        """The amplification where it is a constant, else None."""
        amplification = parse_amplification(self.amplify)
        return amplification if isinstance(amplification, float) else None

    def crop_size(self) -> int:
        """The crop in pixels, default filled in."""
        return DEFAULT_CROP[self.cfa] if self.crop is None else self.crop

    def stored_size(self) -> int:
        """Crop plus margin in pixels; both must be whole periods of the samples' CFA."""
        margin = DEFAULT_MARGIN[self.cfa] if self.margin is None else self.margin
        period = PERIOD[self.cfa]
        if self.crop_size() < period or self.crop_size() % period:
            raise OptionError(
                f"crop must be a positive multiple of {period} for {self.camera}, not {self.crop_size()}"
            )
        if margin < 0 or margin % period:
            raise OptionError(
                f"margin must be a multiple of {period} for {self.camera}, not {margin}"
            )
        return self.crop_size() + margin


@dataclass(frozen=True, kw_only=True)
class PlannedPair:
    """A pair with what the plan has to know of its files."""

    pair: Pair
    height: int
    """Rows of the canonical mosaic."""
    width: int
    short_print: str
    """Size and hash of the short exposure's file, see `Source.fingerprint`."""
    long_print: str

    def __post_init__(self) -> None:
        texts = (self.short_print, self.long_print, self.pair.id, self.pair.short, self.pair.long)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise ValueError("pairs: ids, paths and prints must be texts without zeros")
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value < _MOST_PIXELS:
                raise ValueError(f"pairs: {name} must be 1 to {_MOST_PIXELS - 1}, not {value!r}")
        if not (isinstance(self.pair.ratio, int | float) and 0 <= self.pair.ratio < _MOST_RATIO):
            raise ValueError(
                f"pairs: ratio must be a number, not negative, not {self.pair.ratio!r}"
            )


@dataclass(frozen=True)
class Crop:
    """One sample to cut: `slot` is its number in the shard, `origin` its (row, column) in the frame."""

    slot: int
    origin: tuple[int, int]


@dataclass(frozen=True)
class Visit:
    """The number of a visit in the stream and the crops to cut from its pair."""

    number: int
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that shard contents depend on."""

    options: PlanOptions
    pairs: tuple[PlannedPair, ...]
    root: Path
    """Where the photographs lie; not part of the recipe."""
    skipped: tuple[Skipped, ...] = field(default=(), compare=False)
    """Files that the plan had to leave out; not part of the recipe."""

    @property
    def stream(self) -> StreamSpec:
        """The part of the plan that a trainer needs."""
        options = self.options
        return StreamSpec(
            camera=options.camera,
            cfa=options.cfa,
            height=options.stored_size(),
            width=options.stored_size(),
            crop=options.crop_size(),
            samples=options.samples_per_shard,
            window=options.window,
            shards=self.shards,
            seed=options.seed,
        )

    @property
    def shards(self) -> int | None:
        """How many shards the plan's epochs fill; None for no end."""
        epochs = self.options.epochs
        if epochs is None:
            return None
        samples = len(self.pairs) * epochs * self.options.crops_per_visit
        return -(-samples // self.options.samples_per_shard)

    def visits(self, shard: int) -> Iterator[Visit]:
        """The visits of a shard; its sample slots are dealt to them in a random order."""
        options = self.options
        slots = permutation(
            options.samples_per_shard, options.seed, RngStream.SLOTS, shard
        ).tolist()
        crops = options.crops_per_visit
        count = options.samples_per_shard // crops
        for index in range(count):
            yield Visit(shard * count + index, tuple(slots[index * crops : (index + 1) * crops]))

    def candidates(self, visit: int) -> Iterator[PlannedPair]:
        """The pair of a visit, then the ones that take its place should files prove unusable.

        Each epoch goes through all pairs in a fresh order. The order of substitutes depends on the visit
        alone, so a bad file changes just the visits that would have used it.
        """
        count, seed = len(self.pairs), self.options.seed
        epoch, place = divmod(visit, count)
        first = int(_epoch_order(count, seed, epoch)[place])
        yield self.pairs[first]
        for index in permutation(count, seed, RngStream.SUBSTITUTES, visit).tolist():
            if index != first:
                yield self.pairs[index]

    def crops(self, visit: Visit, pair: PlannedPair) -> list[Crop]:
        """Where the samples of a visit are cut; origins are whole periods of the CFA."""
        period, size = PERIOD[self.options.cfa], self.options.stored_size()
        rows, columns = ((side - size) // period + 1 for side in (pair.height, pair.width))
        places = random_below(
            [(rows, columns)] * len(visit.slots), self.options.seed, RngStream.CROPS, visit.number
        )
        origins = (places * period).tolist()
        return [Crop(slot, (y, x)) for slot, (y, x) in zip(visit.slots, origins, strict=True)]

    def frame_name(self, kind: FrameKind, pair: PlannedPair) -> str:
        """The name under which a frame of the pair is stored; a resampled mosaic is a frame of its own."""
        if kind == "long":
            return frame_name(kind, pair.long_print)
        mode = "" if self.options.xtrans == "native" else f"-{self.options.xtrans}"
        return frame_name(kind, f"{pair.short_print}{mode}")

    def recipe(self) -> dict[str, Any]:
        """The plan as JSON values, without the stream's part and the place of the files."""
        options = {
            _RECIPE_NAMES.get(name, name): value
            for name, value in asdict(self.options).items()
            if name not in _LATER_OPTIONS or value != PlanOptions.__dataclass_fields__[name].default
        }
        return {"options": options, "pairs": [asdict(pair) for pair in self.pairs]}

    def record(self, settings: ProducerSettings | None = None) -> PlanRecord:
        """Return what plan.json holds of this plan, with the producers' default `settings`."""
        settings = replace(settings or ProducerSettings(), root=str(self.root.absolute()))
        return PlanRecord(stream=self.stream, recipe=self.recipe(), settings=settings)

    def save(self, spool: Spool, settings: ProducerSettings | None = None) -> None:
        """Make `spool` the spool of this plan, as `record`; raises as `Spool.create`."""
        spool.create(self.record(settings))

    @classmethod
    def load(cls, spool: Spool) -> Plan:
        """The plan of a spool. Raises PlanError when it is damaged."""
        recipe, root = spool.plan.recipe, spool.settings.root
        if root is None:
            raise PlanError(f"{spool.plan_file}: names no root; run `darkprep build` again")
        try:
            pairs = tuple(
                PlannedPair(**{**record, "pair": Pair(**record["pair"])})
                for record in recipe["pairs"]
            )
            plan = cls(
                options=_options_of(recipe["options"]),
                pairs=pairs,
                root=Path(root),
            )
            fits = plan.stream == spool.stream
        except (KeyError, TypeError, ValueError, AttributeError, OptionError) as error:
            raise PlanError(
                f"{spool.plan_file}: cannot be understood ({first_line(error)}); build a new spool"
            ) from error
        if not fits:
            raise PlanError(f"{spool.plan_file}: contradicts itself; build a new spool")
        return plan


def _options_of(record: dict[str, Any]) -> PlanOptions:
    """Return the options of a recipe. Raises TypeError for a name that is none, OptionError for a value."""
    unknown = record.keys() & _RECIPE_NAMES.keys()
    if unknown:
        raise TypeError(f"unknown options {', '.join(sorted(unknown))}")
    names = {stored: name for name, stored in _RECIPE_NAMES.items()}
    return PlanOptions(**{names.get(name, name): value for name, value in record.items()})


@functools.lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch visits the pairs; sorted once, not at each visit."""
    return permutation(count, seed, RngStream.VISITS, epoch)


def make_plan(root: Path, options: PlanOptions) -> Plan:
    """Find the pairs under `root`, look at every file's header, and fix the recipe.

    Pairs with a file that cannot be used are left out and named in `Plan.skipped`. Raises DatasetError
    when no pair is left, OptionError when a frame is smaller than the crop.
    """
    camera = camera_named(options.camera)
    found = _found(root, camera, options)
    split = found.of_split(options.split).pairs
    drawn = draw_fraction(split, options.fraction, options.seed)
    skipped = list(found.skipped)
    probed: dict[str, tuple[int, int, str] | str] = {}
    pairs = []
    for pair in drawn:
        try:
            pairs.append(_planned(found.root, pair, options, probed))
        except RawError as error:
            skipped.append(Skipped(error.path, error.reason))
    if not pairs:
        raise DatasetError(
            f"{root}: none of the {len(drawn)} pairs of {camera.name} can be used; the first: {skipped[-1].path}: {skipped[-1].why}"
        )
    plan = Plan(
        options=options, pairs=tuple(pairs), root=found.root, skipped=tuple(dict.fromkeys(skipped))
    )
    try:
        _ = plan.stream
    except ValueError as error:  # more epochs, or a wider window, than a spool can tell
        raise OptionError(str(error)) from error
    return plan


def _found(root: Path, camera: Camera, options: PlanOptions) -> Pairs:
    """The pairs of the chosen source; where the noise is made, of long exposures with themselves."""
    if options.lmdb is not None:
        return find_patches(root, camera, options.lmdb, longs_only=options.noise is not None)
    frames = _frames(options.frames)
    if options.noise is None:
        return find_pairs(
            root, camera, frames=frames, exclude_misaligned=options.exclude_misaligned
        )
    return find_longs(root, camera, exclude_misaligned=options.exclude_misaligned)


def _planned(
    root: Path, pair: Pair, options: PlanOptions, probed: dict[str, tuple[int, int, str] | str]
) -> PlannedPair:
    short = _probe(root, pair.short, options.mosaic_cfa, probed)
    long = _probe(root, pair.long, options.mosaic_cfa, probed)
    if short[:2] != long[:2]:
        raise RawError(
            str(root / pair.short),
            f"is {short[0]}x{short[1]}, its long exposure {long[0]}x{long[1]}",
        )
    if min(short[:2]) < options.stored_size():
        raise OptionError(
            f"crop {options.crop_size()} with its margin needs {options.stored_size()} pixels, {pair.short} has {short[0]}x{short[1]}; choose a smaller --crop"
        )
    return PlannedPair(
        pair=pair, height=short[0], width=short[1], short_print=short[2], long_print=long[2]
    )


def _probe(
    root: Path, name: str, cfa: CfaKind, probed: dict[str, tuple[int, int, str] | str]
) -> tuple[int, int, str]:
    """Canonical height and width and the fingerprint of one file, looked at once, or why it has none."""
    if name not in probed:
        try:
            path = root / name
            source = open_source(path)
            header = source.header()
            if header.cfa != cfa:
                raise RawError(str(path), f"has a {header.cfa} mosaic, the camera's is {cfa}")
            probed[name] = (*canonical_shape(header), source.fingerprint())
        except RawError as error:
            probed[name] = error.reason
    found = probed[name]
    if isinstance(found, str):
        raise RawError(str(root / name), found)
    return found


def _frames(choice: str) -> Any:
    if choice not in ("first", "all"):
        raise OptionError(f"frames must be first or all, not {choice!r}")
    return choice


def _option_name(name: str) -> str:
    return name.replace("_", "-")
