"""The plan of a stream: which crops of which pairs are in shard k, as a function of (plan, k) alone.

A shard consists of a few visits; a visit is one pair, from which several crops are cut while its frames are
in memory. So a frame that does not fit into the frame store is decoded once per visit, not once per sample.
The trade-off: crops of one pair are in the same shard, and only the trainer's window of shards mixes them
(shards/order.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.pairs.reference_colours import pair_colours
from darkprep.pipeline.pairs.table import MAX_WEIGHT, Pair, Skipped
from darkprep.pipeline.pairs.whole_frame import Correction
from darkprep.pipeline.plan.frame_names import FrameKind, frame_name
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.raw.camera_colours import CameraColours
from darkprep.shards import (
    PERIOD,
    CfaKind,
    OptionError,
    PlanError,
    Spool,
    StreamSpec,
)
from darkprep.shards.decode import decode
from darkprep.shards.errors import first_line
from darkprep.shards.file_names import is_path_text
from darkprep.shards.own_settings import record_own_settings
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.rng import RngStream, permutation, random_below

_MAX_PIXELS = 1 << 20
_MAX_RATIO = 1e9
_FIELD_NAMES = {"short_print": "short_fingerprint", "long_print": "long_fingerprint"}
"""Fields of a pair that have another name in a recipe."""


@dataclass(frozen=True, kw_only=True)
class PlannedPair:
    """A pair with the size and the fingerprints of its files. Raises ValueError, which names the invalid field."""

    pair: Pair
    height: int
    """Number of rows of the canonical mosaic."""
    width: int
    short_fingerprint: str
    """Fingerprint of the short exposure's file (`Source.fingerprint`)."""
    long_fingerprint: str

    def __post_init__(self) -> None:
        texts = (
            self.short_fingerprint,
            self.long_fingerprint,
            self.pair.id,
            self.pair.scene,
            self.pair.camera,
            self.pair.short,
            self.pair.long,
        )
        if not all(isinstance(text, str) and is_path_text(text) for text in texts):
            raise ValueError(
                "pairs: ids, scenes, cameras, paths and fingerprints must be strings that a path can have, without NUL"
            )
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value < _MAX_PIXELS:
                raise ValueError(f"pairs: {name} must be 1 to {_MAX_PIXELS - 1}, not {value!r}")
        if not (isinstance(self.pair.ratio, int | float) and 0 <= self.pair.ratio < _MAX_RATIO):
            raise ValueError(
                f"pairs: ratio must be a number from 0 to {_MAX_RATIO:g}, not {self.pair.ratio!r}"
            )
        if type(self.pair.weight) is not int or not 1 <= self.pair.weight <= MAX_WEIGHT:
            raise ValueError(f"pairs: weight must be 1 to {MAX_WEIGHT}, not {self.pair.weight!r}")

    def to_record(self) -> dict[str, Any]:
        """Return the pair as a dictionary for plan.json, with the key names that the first format of plans used."""
        return {
            "pair": {
                name: value
                for name, value in asdict(self.pair).items()
                if name != "weight" or value != 1
            },
            "height": self.height,
            "width": self.width,
            "short_print": self.short_fingerprint,
            "long_print": self.long_fingerprint,
        }

    @classmethod
    def from_record(cls, record: object) -> PlannedPair:
        """Create a pair from a recipe. Raises ValueError, which names the field that is missing, unknown or invalid."""
        stored = record if isinstance(record, dict) else {}
        values = {_FIELD_NAMES.get(name, name): value for name, value in stored.items()}
        return decode(cls, values, strict=True)


@dataclass(frozen=True)
class Crop:
    """A sample to cut: its number `slot` in the shard, and its `origin` (row, column) in the canonical mosaic."""

    slot: int
    origin: tuple[int, int]


@dataclass(frozen=True)
class Visit:
    """A visit: its number in the stream, and the slots of the shard that its crops fill."""

    number: int
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pairs and options on which the content of all shards depends."""

    options: PlanOptions
    pairs: tuple[PlannedPair, ...]
    cfa: CfaKind
    """CFA of the samples, which follows from the mosaics of the files."""
    root: Path
    """Directory of the photographs; not part of the recipe."""
    table: Path | None = field(default=None, compare=False)
    """The table that lists the pairs, or None; not part of the recipe."""
    layout: str | None = field(default=None, compare=False)
    """The folder layout in which the pairs were found, or None; not part of the recipe."""
    darks: Path | None = field(default=None, compare=False)
    """Directory of the dark frames with whose noise exposures are simulated; not part of the recipe."""
    shading: Path | None = field(default=None, compare=False)
    """The calibration file whose dark shading is subtracted; not part of the recipe."""
    skipped: tuple[Skipped, ...] = field(default=(), compare=False)
    """Files that were left out; not part of the recipe."""

    @property
    def stream(self) -> StreamSpec:
        """The part of the plan that a trainer needs."""
        options = self.options
        return StreamSpec(
            camera=options.camera,
            cfa=self.cfa,
            height=options.stored_size(self.cfa),
            width=options.stored_size(self.cfa),
            crop=options.crop_size(self.cfa),
            samples=options.samples_per_shard,
            window=options.window,
            shards=self.shards,
            seed=options.seed,
            target=options.target,
        )

    @property
    def shards(self) -> int | None:
        """Number of shards that the plan's epochs fill; None for a plan without end."""
        epochs = self.options.epochs
        if epochs is None:
            return None
        samples = self.visits_per_epoch * epochs * self.options.crops_per_visit
        return -(-samples // self.options.samples_per_shard)

    @property
    def visits_per_epoch(self) -> int:
        """Number of visits in an epoch: the sum of the pairs' weights."""
        return len(self._pair_of_visit)

    @functools.cached_property
    def _pair_of_visit(self) -> npt.NDArray[np.int64]:
        """Indices of the pairs, each repeated as often as an epoch visits the pair."""
        return np.repeat(np.arange(len(self.pairs)), [one.pair.weight for one in self.pairs])

    def visits(self, shard: int) -> Iterator[Visit]:
        """Yield the visits of a shard; the shard's slots are assigned to them in a random order."""
        options = self.options
        slots = permutation(
            options.samples_per_shard, options.seed, RngStream.SLOTS, shard
        ).tolist()
        crops = options.crops_per_visit
        count = options.samples_per_shard // crops
        for index in range(count):
            yield Visit(shard * count + index, tuple(slots[index * crops : (index + 1) * crops]))

    def candidates(self, visit: int) -> Iterator[PlannedPair]:
        """Yield the pair of a visit, then substitutes in case its files cannot be used.

        Each epoch orders its visits anew. The order of substitutes depends on the visit alone, so an
        unusable file changes only the visits that would have used it.
        """
        count, seed = len(self.pairs), self.options.seed
        epoch, position = divmod(visit, self.visits_per_epoch)
        order = _epoch_order(self.visits_per_epoch, seed, epoch)
        first = int(self._pair_of_visit[order[position]])
        yield self.pairs[first]
        for index in permutation(count, seed, RngStream.SUBSTITUTES, visit).tolist():
            if index != first:
                yield self.pairs[index]

    def crops(self, visit: Visit, pair: PlannedPair) -> list[Crop]:
        """Return the crops of a visit; their origins are multiples of the CFA's period."""
        period, size = PERIOD[self.cfa], self.options.stored_size(self.cfa)
        rows, columns = ((side - size) // period + 1 for side in (pair.height, pair.width))
        sites = random_below(
            [(rows, columns)] * len(visit.slots), self.options.seed, RngStream.CROPS, visit.number
        )
        origins = (sites * period).tolist()
        return [Crop(slot, (y, x)) for slot, (y, x) in zip(visit.slots, origins, strict=True)]

    def frame_name(self, kind: FrameKind, pair: PlannedPair) -> str:
        """Return the name under which a frame of the pair is stored; it differs between X-Trans modes.

        With the target `raw` a long exposure is stored like a short one: as the packed codes of its file.
        """
        target = self.options.target
        if kind == "long" and target != "raw":
            form = "-linear" if target == "linear" else ""
            return frame_name("long", f"{pair.long_fingerprint}{form}")
        mode = "" if self.options.xtrans == "native" else f"-{self.options.xtrans}"
        if kind == "short" and self.subtracts_shading:
            mode = f"-shading-{self.options.dark_shading}"
        fingerprint = pair.short_fingerprint if kind == "short" else pair.long_fingerprint
        return frame_name("short", f"{fingerprint}{mode}")

    @property
    def subtracts_shading(self) -> bool:
        """Whether dark shading is subtracted from short exposures that were photographed."""
        return self.options.dark_shading is not None and self.options.noise is None

    @functools.cached_property
    def correction(self) -> Correction | None:
        """What subtracts the dark shading from a decoded frame, read once; None if the plan subtracts none.

        Raises OptionError if the calibration file cannot be used or has changed, PlanError if it is not known here.
        """
        if self.options.dark_shading is None:
            return None
        if self.shading is None:
            raise PlanError(
                "this machine has no record of which file holds the dark shading of the spool; run `darkprep build` again here, with --dark-shading FILE.json"
            )
        return ShadingCorrection.at(self.shading, self.options.dark_shading).corrected

    def recipe(self) -> dict[str, Any]:
        """Return options and pairs as JSON values: all that the content of shards depends on, besides `stream`."""
        return {
            "options": self.options.to_record(),
            "pairs": [pair.to_record() for pair in self.pairs],
        }

    @functools.cached_property
    def recipe_bytes(self) -> int:
        """The size of the recipe in plan.json, which for many pairs takes long to find out."""
        return len(json.dumps(self.recipe(), indent=1))

    def record(
        self, settings: ProducerSettings | None = None, cameras: tuple[CameraColours, ...] = ()
    ) -> PlanRecord:
        """Return the record of plan.json with the producers' default `settings` and the colours of the cameras."""
        settings = replace(
            settings or ProducerSettings(),
            root=str(self.root.absolute()),
            pairs=str(self.table.absolute()) if self.table else None,
            layout=self.layout,
            darks=str(self.darks.absolute()) if self.darks else None,
            dark_shading=str(self.shading.absolute()) if self.shading else None,
        )
        return PlanRecord(
            stream=self.stream,
            recipe=self.recipe(),
            settings=settings,
            cameras=tuple(camera.to_record() for camera in cameras),
        )

    def save(self, spool: Spool, settings: ProducerSettings | None = None) -> None:
        """Create `spool` with the record of this plan and `settings` that this user chose.

        Raises the errors of `Spool.create`.
        """
        record = self.record(settings, self.cameras)
        spool.create(record)
        record_own_settings(record)

    @functools.cached_property
    def cameras(self) -> tuple[CameraColours, ...]:
        """The typical colours of the plan's cameras, from a few short exposures of each, read once."""
        return pair_colours(self.root, [one.pair for one in self.pairs])

    @classmethod
    def load(cls, spool: Spool) -> Plan:
        """Read the plan of a spool. Raises PlanError when it is damaged."""
        settings = spool.settings
        root = settings.root
        if root is None:
            raise PlanError(
                f"{spool.plan_file}: does not name the directory of the photographs (root); run `darkprep build` again"
            )
        try:
            options, pairs = read_recipe(spool)
            plan = cls(
                options=options,
                pairs=pairs,
                cfa=spool.stream.cfa,
                root=Path(root),
                table=Path(settings.pairs) if settings.pairs is not None else None,
                layout=settings.layout,
                darks=Path(settings.darks) if settings.darks is not None else None,
                shading=Path(settings.dark_shading) if settings.dark_shading else None,
            )
            fits = plan.stream == spool.stream
        except (TypeError, ValueError, OverflowError, OptionError) as error:
            raise _invalid(spool, error) from error
        if not fits:
            raise PlanError(
                f"{spool.plan_file}: is invalid, because its parts contradict each other; build a new spool"
            )
        return plan


def read_recipe(spool: Spool) -> tuple[PlanOptions, tuple[PlannedPair, ...]]:
    """Return the options and the pairs of a spool's plan. Raises PlanError when they are invalid."""
    entries, options = (spool.plan.recipe.get(name) for name in ("pairs", "options"))
    try:
        pairs = tuple(map(PlannedPair.from_record, entries if isinstance(entries, list) else ()))
        if not pairs:
            raise ValueError("pairs must be a list of pairs")
        return PlanOptions.from_record(options), pairs
    except (TypeError, ValueError, OverflowError, OptionError) as error:
        raise _invalid(spool, error) from error


def _invalid(spool: Spool, error: Exception) -> PlanError:
    return PlanError(f"{spool.plan_file}: is invalid ({first_line(error)}); build a new spool")


@functools.lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's visits; it is cached, because each visit needs it."""
    return permutation(count, seed, RngStream.VISITS, epoch)
