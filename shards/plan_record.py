"""The record of a plan: what every part of darkprep checks before it believes one, wherever it is kept.

The trade-off: everything that a trainer and a producer must know stands in one JSON object, the list of
pairs included, so it is read whole (up to some megabytes) to learn the shape of a shard.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from darkprep.shards.errors import PlanError
from darkprep.shards.format import CfaKind, ShardLayout

PLAN_VERSION = 1
MOST_SHARDS = 10**12
"""Shard numbers are below it: twelve digits in a name."""

_MOST_NUMBER = 10**18
"""No count of bytes or workers comes near it."""
_MOST_WINDOW = 4096
_MOST_PIXELS = 1 << 16
"""Side of a stored sample."""


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What a trainer must know of a plan: the shape of its shards and how they are mixed.

    Raises ValueError naming the field.
    """

    camera: str
    cfa: CfaKind
    height: int
    """Rows of the stored mosaic: crop plus margin, in pixels."""
    width: int
    crop: int
    """Side in pixels of the square that a trainer cuts from it."""
    samples: int
    """Samples in a shard."""
    window: int
    """Consecutive shards that a trainer mixes."""
    shards: int | None
    """How many shards the plan has; None for no end."""
    seed: int

    def __post_init__(self) -> None:
        self.layout()
        if max(self.height, self.width) > _MOST_PIXELS:
            raise ValueError(f"height and width must be at most {_MOST_PIXELS}")
        if not 0 < self.crop <= min(self.height, self.width):
            raise ValueError(f"crop must be 1 to {min(self.height, self.width)}, not {self.crop}")
        if not 1 <= self.window <= _MOST_WINDOW:
            raise ValueError(f"window must be 1 to {_MOST_WINDOW}, not {self.window}")
        if self.shards is not None and not 1 <= self.shards <= MOST_SHARDS:
            raise ValueError(f"shards must be 1 to {MOST_SHARDS} or None, not {self.shards}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")

    def layout(self) -> ShardLayout:
        """The layout that all shards of the plan share."""
        return ShardLayout(cfa=self.cfa, height=self.height, width=self.width, samples=self.samples)


def plan_record(
    stream: StreamSpec, recipe: dict[str, Any], place: dict[str, Any]
) -> dict[str, Any]:
    """What plan.json holds (FORMAT.md); `place` may change without the plan being another one."""
    return {
        "format": PLAN_VERSION,
        "digest": _digest(stream, recipe),
        "stream": asdict(stream),
        "recipe": recipe,
        "place": place,
    }


def checked_plan(record: dict[str, Any], where: str, remedy: str) -> dict[str, Any]:
    """The record, when it is whole and of this version; raises PlanError that says `where` and, if damaged, `remedy`."""
    if record.get("format") != PLAN_VERSION:
        raise PlanError(
            f"{where}: version {record.get('format')!r}, this darkprep reads {PLAN_VERSION}; build a new spool"
        )
    try:
        whole = record["digest"] == _digest(
            StreamSpec(**record["stream"]), dict(record["recipe"])
        ) and isinstance(record["place"], dict)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise PlanError(f"{where}: is damaged (its digest does not fit); {remedy}")
    return record


def stream_of(record: dict[str, Any], where: str) -> StreamSpec:
    """The shape of a plan's stream; raises PlanError that says `where`."""
    try:
        return StreamSpec(**record["stream"])
    except (TypeError, ValueError) as error:
        raise PlanError(f"{where}: {error}; remove the spool and build it again") from error


def check_same_plan(existing: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Raises PlanError when a spool that holds the plan `existing` is asked for another one, or another part."""
    there, part = part_of(existing["place"]), part_of(wanted["place"])
    if there != part:
        raise PlanError(
            f"{where}: holds part {there[0]}/{there[1]} of its plan, not {part[0]}/{part[1]}; use another --spool"
        )
    if existing["digest"] != wanted["digest"]:
        raise PlanError(
            f"{where}: holds another plan ({_difference(existing, wanted)}); use another --spool, or remove this one"
        )


def part_of(place: dict[str, Any]) -> tuple[int, int]:
    """What part of its plan a spool holds; raises PlanError when its record of it makes no sense."""
    part, parts = place.get("part", 0), place.get("parts", 1)
    if type(part) is not int or type(parts) is not int or not 0 <= part < parts:
        raise PlanError(f"plan.json: part {part!r} of {parts!r} makes no sense; build a new spool")
    return part, parts


def number_of(place: dict[str, Any], name: str, where: str) -> int:
    """A number that `build` left for whoever works here, 0 where it left none; raises PlanError that says `where`."""
    number = place.get(name, 0)
    if type(number) is not int or not 0 <= number < _MOST_NUMBER:
        raise PlanError(f"{where}: {name} {number!r} makes no sense; run `darkprep build` again")
    return number


def _digest(stream: StreamSpec, recipe: dict[str, Any]) -> str:
    text = json.dumps(
        [asdict(stream), recipe], sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return xxhash.xxh3_64_hexdigest(text.encode())


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Name the first few settings in which two plans differ."""
    before, after = _flat(old["recipe"] | old["stream"]), _flat(new["recipe"] | new["stream"])
    names = [name for name in before | after if before.get(name) != after.get(name)]
    short = [
        f"{name} {_brief(before.get(name))} there, {_brief(after.get(name))} wanted"
        for name in names[:3]
    ]
    return "; ".join(short) or "of another darkprep version"


_OPTION_NAMES = {"gain": "amplify", "form": "xtrans"}
"""Settings whose command line option has another name than the recipe."""


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Nested settings on one level, by their own names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value) if isinstance(value, dict) else {_OPTION_NAMES.get(name, name): value}
    return flat


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    return "none" if value is None else str(value)
