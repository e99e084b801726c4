"""The content of plan.json as typed records: the stream, the recipe, and the settings of its producers.

The trade-off: one JSON object holds everything that a trainer and a producer need, including the list of
pairs, so a reader that needs only the shape of a shard must read all of it (up to some megabytes).
"""

from __future__ import annotations

import functools
import json
import reprlib
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import xxhash

from darkprep.shards.errors import OptionError, PlanError
from darkprep.shards.format import (
    LATEST_VERSION,
    CfaKind,
    ShardLayout,
    Target,
    format_version,
)

MAX_SHARDS = 10**12
"""Upper bound of shard numbers: twelve digits in a file name."""

_MAX_COUNT = 10**18
"""Upper bound of bytes and workers; a file with larger numbers is damaged."""
_MAX_WINDOW = 4096
_MAX_SIDE_PX = 1 << 16
_MAX_PIXELS = 1 << 28
_LONGEST_PATH = 4096
"""Bytes of a path at most (PATH_MAX of Linux)."""
_MAX_SEED = 1 << 63
_LONGEST_LABEL = 200
"""Characters of the camera's name at most; status prints it."""
_MAX_NESTING = 3
"""Levels of a recipe that are compared by name."""
_OPTION_NAMES = {"gain": "amplify", "form": "xtrans"}
"""Settings that have another name in the recipe than on the command line."""


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """The part of a plan that a trainer needs: the shape of its shards and how they are mixed.

    Raises ValueError, which names the invalid field.
    """

    camera: str
    cfa: CfaKind
    height: int
    """Rows of the stored mosaic: crop plus margin, in pixels."""
    width: int
    crop: int
    """Side in pixels of the square that a trainer cuts from the stored mosaic."""
    samples: int
    """Samples in a shard."""
    window: int
    """Number of consecutive shards that a trainer mixes."""
    shards: int | None
    """Number of shards in the plan; None for no end."""
    seed: int
    target: Target = "srgb"

    def __post_init__(self) -> None:
        self.layout()
        if max(self.height, self.width) > _MAX_SIDE_PX:
            raise ValueError(f"height and width must be at most {_MAX_SIDE_PX}")
        if self.height * self.width > _MAX_PIXELS:
            raise ValueError(f"height times width must be at most {_MAX_PIXELS}")
        if not 0 < self.crop <= min(self.height, self.width):
            raise ValueError(f"crop must be 1 to {min(self.height, self.width)}, not {self.crop}")
        if not 1 <= self.window <= _MAX_WINDOW:
            raise ValueError(f"window must be 1 to {_MAX_WINDOW}, not {self.window}")
        if self.shards is not None and not 1 <= self.shards <= MAX_SHARDS:
            raise ValueError(f"shards must be 1 to {MAX_SHARDS} or None, not {self.shards}")
        if not 0 <= self.seed < _MAX_SEED:
            raise ValueError("seed must be from 0 to 2^63 - 1")
        if len(self.camera) > _LONGEST_LABEL:
            raise ValueError(f"camera must have at most {_LONGEST_LABEL} characters")

    def shards_for(self, option: str) -> int:
        """Return the number of shards of a plan with an end. Raises OptionError, which names the `option` that needs one."""
        if self.shards is None:
            raise OptionError(
                f"{option} needs a spool with a finite number of epochs, but this one was built with --epochs inf; build another spool with --epochs N"
            )
        return self.shards

    def layout(self) -> ShardLayout:
        """Return the layout of the shards; it is the same for all shards of the plan."""
        return ShardLayout(
            cfa=self.cfa,
            height=self.height,
            width=self.width,
            samples=self.samples,
            target=self.target,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; the target `srgb` is left out, as in format version 1."""
        record = asdict(self)
        if self.target == "srgb":
            del record["target"]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> StreamSpec:
        """Create a StreamSpec from a JSON object; raise ValueError or TypeError for missing, unknown or invalid fields."""
        for name, value in record.items():
            wanted = str if name in ("camera", "cfa", "target") else int
            if type(value) is not wanted and not (name == "shards" and value is None):
                raise ValueError(f"{name} must be of type {wanted.__name__}")
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class ProducerSettings:
    """The default settings of producers on a spool: the object at the key "place" of plan.json.

    They may change while the plan stays the same. None means that a setting was not recorded.
    """

    root: str | None = None
    """The directory of the photographs."""
    pairs: str | None = None
    """The pair table (a CSV file) from which the pairs come."""
    layout: str | None = None
    """The layout of folders in which the pairs were found."""
    darks: str | None = None
    """The directory of the dark frames with whose noise exposures are simulated."""
    dark_shading: str | None = None
    """The calibration file whose dark shading is subtracted."""
    budget_bytes: int | None = None
    """The disk budget."""
    staging_bytes: int | None = None
    """For a spool in object storage: the trainer's share of the budget."""
    jobs: int | None = None
    """The number of worker processes."""
    frames_dir: str | None = None
    """Where decoded frames are stored; None for inside the spool."""
    frames_budget_bytes: int | None = None
    """The disk budget of `frames_dir`."""
    backend: str = "loky"
    """What runs the workers: `loky`, `dask` or `ray`."""
    address: str | None = None
    """The address of a cluster that is already running."""
    part: int = 0
    """The spool holds the shards k with k mod parts = part of its plan."""
    parts: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, without settings that were not recorded or have their default value."""
        omitted = {field.name for field in fields(self) if getattr(self, field.name) is None}
        if self.backend == "loky":
            omitted |= {"backend", "address"}
        else:
            omitted -= {"address"}
        if self.parts == 1:
            omitted |= {"part", "parts"}
        return {name: value for name, value in asdict(self).items() if name not in omitted}

    @classmethod
    def from_json(cls, record: dict[str, Any], where: str) -> ProducerSettings:
        """Create settings from a JSON object, ignoring unknown keys; raise PlanError naming `where` and the field."""
        names = (field.name for field in fields(cls) if field.name not in ("part", "parts"))
        values = {name: record[name] for name in names if name in record}
        for name, value in values.items():
            if not _is_valid_setting(name, value):
                raise PlanError(
                    f"{where}: {name} {_short_repr(value)} is invalid; run `darkprep build` again"
                )
        if ("frames_dir" in values) != ("frames_budget_bytes" in values):
            raise PlanError(
                f"{where}: has only one of frames_dir and frames_budget_bytes; run `darkprep build` again"
            )
        part, parts = _part_from_json(record, where)
        return cls(**values, part=part, parts=parts)


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The content of plan.json. Two records are of the same plan when their digests are equal."""

    stream: StreamSpec
    recipe: dict[str, Any]
    """Everything else that the content of shards depends on, as JSON values (pipeline/plan/plan.py)."""
    settings: ProducerSettings = ProducerSettings()
    cameras: tuple[dict[str, Any], ...] = ()
    """The colours of the cameras of the photographs, as JSON values (pipeline/raw/camera_colours.py); not part of
    the digest, because no sample depends on them."""

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hex digits that identify stream and recipe; each sample contains them."""
        return plan_digest(self.stream.to_json(), self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of plan.json (FORMAT.md)."""
        return {
            "format": format_version(self.stream.target),
            "digest": self.digest,
            "stream": self.stream.to_json(),
            "recipe": self.recipe,
            "place": self.settings.to_json(),
            **({"cameras": list(self.cameras)} if self.cameras else {}),
        }

    @classmethod
    def from_json(
        cls, record: dict[str, Any] | None, where: str, remedy: str, *, only_part: bool = False
    ) -> PlanRecord:
        """Create a record from the JSON object read from `where`; pass None for a file that is not JSON.

        With `only_part`, only the settings `part` and `parts` are read, for a caller that replaces all
        others. Raises PlanError, which names `where` and, for damage, the `remedy`.
        """
        if record is None:
            raise PlanError(f"{where}: is damaged (not a JSON object); {remedy}")
        version = record.get("format")
        if type(version) is not int or version not in range(1, LATEST_VERSION + 1):
            raise PlanError(
                f"{where}: has format version {_short_repr(version)}, but this darkprep reads 1 to {LATEST_VERSION}; build a new spool"
            )
        reason = "its digest does not match"
        try:
            try:
                stream = StreamSpec.from_json(record["stream"])
            except ValueError as error:
                reason = str(error)
                raise
            recipe, settings = record["recipe"], record["place"]
            is_intact = (
                isinstance(recipe, dict)
                and isinstance(settings, dict)
                and version == format_version(stream.target)
                and record["digest"] == plan_digest(stream.to_json(), recipe)
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            is_intact = False
        if not is_intact:
            raise PlanError(f"{where}: is damaged ({reason}); {remedy}")
        if only_part:
            settings = {name: settings[name] for name in ("part", "parts") if name in settings}
        cameras = record.get("cameras")
        return cls(
            stream=stream,
            recipe=recipe,
            settings=ProducerSettings.from_json(settings, where),
            cameras=tuple(one for one in cameras if isinstance(one, dict))
            if isinstance(cameras, list)
            else (),
        )

    def for_others(self) -> PlanRecord:
        """Return the record without settings that name directories and clusters of this machine."""
        own = self.settings
        settings = ProducerSettings(
            root=None if own.root is None or Path(own.root).is_absolute() else own.root,
            layout=own.layout,
            budget_bytes=own.budget_bytes,
            staging_bytes=own.staging_bytes,
            part=own.part,
            parts=own.parts,
        )
        return replace(self, settings=settings)

    def check_same(self, wanted: PlanRecord, where: str) -> None:
        """Raise PlanError when `wanted` is another plan, or another part of the plan, than this record from `where`."""
        ours, theirs = self.settings, wanted.settings
        if (ours.part, ours.parts) != (theirs.part, theirs.parts):
            raise PlanError(
                f"{where}: holds part {ours.part}/{ours.parts} of its plan, not {theirs.part}/{theirs.parts}; use another --spool"
            )
        if self.digest != wanted.digest:
            raise PlanError(
                f"{where}: holds another plan ({self._difference(wanted)}); use another --spool, or remove this one"
            )

    def _difference(self, wanted: PlanRecord) -> str:
        """Return a text that names the first few settings in which two plans differ."""
        before = _flat(self.recipe | self.stream.to_json())
        after = _flat(wanted.recipe | wanted.stream.to_json())
        names = [name for name in before | after if before.get(name) != after.get(name)]
        short = [
            f"{name} {_setting(name, before)} in the spool, {_setting(name, after)} requested"
            for name in names[:3]
        ]
        # The names and values come from a file: keep them on one line.
        return " ".join("; ".join(short).split()) or "of another darkprep version"


def _setting(name: str, record: dict[str, Any]) -> str:
    """Return a setting as a short text; a plan without an end has no number of epochs or shards."""
    value = record.get(name)
    if value is None:
        return "inf" if name in ("epochs", "shards") else "not set"
    return f"{len(value)} entries" if isinstance(value, list) else str(value)


class RecordedPlan(ABC):
    """Base class of the stores that hold a plan: a directory (Spool) or a prefix in object storage (Bucket)."""

    def __init__(self) -> None:
        self._plan: PlanRecord | None = None

    @abstractmethod
    def open(self) -> Self:
        """Read the plan into `_plan`; raise SpoolError when there is none, PlanError when it is damaged."""

    @property
    def plan(self) -> PlanRecord:
        """The content of plan.json, read once. Raises the errors of `open`."""
        if self._plan is None:
            self.open()
        assert self._plan is not None
        return self._plan

    @property
    def stream(self) -> StreamSpec:
        """The shape of the shards and how they are mixed. Raises the errors of `open`."""
        return self.plan.stream

    @property
    def settings(self) -> ProducerSettings:
        """The producers' settings and the budget recorded in the plan. Raises the errors of `open`."""
        return self.plan.settings

    @property
    def digest(self) -> str:
        """Sixteen hex digits that identify the plan; each sample contains them. Raises the errors of `open`."""
        return self.plan.digest


def plan_digest(stream: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Return the XXH3-64 of stream and recipe as 16 hex digits. Raises ValueError for values that JSON does not have."""
    text = json.dumps([stream, recipe], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return xxhash.xxh3_64_hexdigest(text.encode())


def _is_valid_setting(name: str, value: object) -> bool:
    if name in ("root", "pairs", "layout", "darks", "dark_shading", "frames_dir", "backend"):
        return isinstance(value, str) and len(value) < _LONGEST_PATH
    if name == "address":
        return value is None or (isinstance(value, str) and len(value) < _LONGEST_PATH)
    return type(value) is int and 0 <= value < _MAX_COUNT


def _part_from_json(record: dict[str, Any], where: str) -> tuple[int, int]:
    part, parts = record.get("part", 0), record.get("parts", 1)
    if type(part) is not int or type(parts) is not int or not 0 <= part < parts < _MAX_COUNT:
        raise PlanError(
            f"{where}: part {_short_repr(part)} of {_short_repr(parts)} is invalid; build a new spool"
        )
    return part, parts


def _flat(record: dict[str, Any], nesting: int = _MAX_NESTING) -> dict[str, Any]:
    """Return nested settings as one flat dictionary, by their own names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        deeper = isinstance(value, dict) and nesting > 0
        option = _OPTION_NAMES.get(name, name)
        flat |= _flat(value, nesting - 1) if deeper else {option: value}
    return flat


def _short_repr(value: object) -> str:
    """Return a value from a file as short text for a message; numbers are not shortened."""
    return repr(value) if isinstance(value, int) else reprlib.repr(value)
