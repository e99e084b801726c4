"""Pairs of a short and a long exposure: records that every finder returns, splits, and fractions.

The trade-off: a fraction selects whole scenes by a hash of their names, so that the selection does not
depend on which other files exist; its size is exact only to one scene.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from darkprep.shards.errors import DatasetError, OptionError

Split = Literal["train", "val", "test"]
Frames = Literal["first", "all"]
"""Frames of a burst that are used: the first, as SID's own code trains and tests on, or all."""

MAX_WEIGHT = 1000
_MOST_NAMED = 3
"""Skipped files that a message names."""
_FEWEST_FOR_TESTS, _FEWEST_FOR_VALIDATION = 2, 5

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_CHOICES: dict[str, tuple[Split, ...]] = {
    **{split: (split,) for split in SPLITS},
    "val+test": ("val", "test"),
}
"""The values of `--split`. SID's indoor scenes in ELD's paper are of two splits."""


def splits_named(choice: str) -> tuple[Split, ...]:
    """Return the splits for a value of `--split`. Raises OptionError, which lists all values."""
    if choice not in SPLIT_CHOICES:
        raise OptionError(f"split must be one of {', '.join(SPLIT_CHOICES)}, not {choice!r}")
    return SPLIT_CHOICES[choice]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One short exposure and its long exposure."""

    id: str
    """Unique in its data set and usable as a file name: `00055_00_0.1s`, `scene-3_IMG_0004`."""
    scene: str
    camera: str
    split: Split
    short: str
    """POSIX path relative to the root, as is `long`."""
    long: str
    ratio: float
    """Exposure ratio long / short as the data set's papers compute it."""
    iso: float
    """ISO of the short exposure if the list or Exif has it, else 0."""
    weight: int = 1
    """Number of visits of the pair in an epoch."""


def long_paired_with_itself(*, id: str, scene: str, camera: str, split: Split, path: str) -> Pair:
    """Return a pair whose two sides are one long exposure, with ratio 1; `darken` simulates the short one."""
    return Pair(
        id=id, scene=scene, camera=camera, split=split, short=path, long=path, ratio=1.0, iso=0.0
    )


@dataclass(frozen=True)
class Skipped:
    """A file or folder without a pair, and the reason."""

    path: str
    reason: str


def first_skipped(skipped: Sequence[Skipped]) -> str:
    """Return the first files that were skipped with their reasons, for a message, and how many more there are."""
    unique = list(dict.fromkeys(skipped))
    named = "; ".join(f"{one.path}: {one.reason}" for one in unique[:_MOST_NAMED])
    more = len(unique) - _MOST_NAMED
    return f"{named}; and {more} more" if more > 0 else named


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All pairs of a data set below one root, ordered by id."""

    root: Path
    label: str
    """The name of the data set in messages and plans: its camera, or a label of the user's choice."""
    pairs: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]
    rows: Mapping[str, str] = field(default_factory=dict)
    """Where a table lists each pair, by the pair's id: `pairs.csv:12`."""
    layout: str | None = None
    """The folder layout in which the pairs were found; None otherwise."""
    table: Path | None = None
    """The table that lists the pairs; None otherwise."""

    def skip(self, pair: Pair, path: str, reason: str) -> Skipped:
        """Return a record that the pair cannot be used because of the file `path`, with its row in the table."""
        row = self.rows.get(pair.id)
        return Skipped(f"{row}: {path}" if row else path, reason)

    def of_split(self, split: str) -> Pairs:
        """Return the pairs of one of SPLIT_CHOICES.

        Raises OptionError for another value, DatasetError when the split has no pairs.
        """
        wanted = splits_named(split)
        pairs = tuple(pair for pair in self.pairs if pair.split in wanted)
        if not pairs:
            found = ", ".join(sorted({pair.split for pair in self.pairs}))
            raise DatasetError(
                f"{self.root}: no {split} pairs of {self.label}, only {found}; choose one with --split"
            )
        return replace(self, pairs=pairs)


def longs_of(pairs: Pairs) -> Pairs:
    """Return each long exposure of the pairs once, paired with itself."""
    of_path = {pair.long: pair for pair in reversed(pairs.pairs)}
    longs = tuple(replace(pair, short=pair.long, ratio=1.0, iso=0.0) for pair in of_path.values())
    return replace(pairs, pairs=tuple(sorted(longs, key=lambda pair: pair.id)))


def splits_by_scene(scenes: Iterable[str]) -> dict[str, Split]:
    """Assign a split to each scene: a tenth for testing, a tenth for validation, the others for training.

    At least one of two or more scenes is for testing, and at least one of five or more for validation. The
    assignment depends only on a hash of the scenes' names, so every command gets the same.
    """
    ranked = _ranked(scenes)
    tenth = max(1, round(len(ranked) / 10))
    return _assigned(
        ranked,
        tests=tenth if len(ranked) >= _FEWEST_FOR_TESTS else 0,
        validations=tenth if len(ranked) >= _FEWEST_FOR_VALIDATION else 0,
    )


def draw_splits(scenes: Iterable[str], *, val: float, test: float) -> dict[str, Split]:
    """Assign a split to each scene; `val` and `test` are shares of the scenes, at least one scene if above 0.

    The scenes come in the order of `splits_by_scene`. Raises OptionError if none is left for training.
    """
    ranked = _ranked(scenes)
    tests, validations = (
        max(1, round(share * len(ranked))) if share else 0 for share in (test, val)
    )
    if tests + validations >= len(ranked):
        raise OptionError(
            f"val {val:g} and test {test:g} leave no scene for training, because there are only {len(ranked)}; choose smaller shares"
        )
    return _assigned(ranked, tests=tests, validations=validations)


def _ranked(scenes: Iterable[str]) -> list[str]:
    return sorted(set(scenes), key=lambda scene: (_rank(0, ("", "", scene)), scene))


def _assigned(ranked: Sequence[str], *, tests: int, validations: int) -> dict[str, Split]:
    splits: dict[str, Split] = {scene: "train" for scene in ranked}
    splits |= {scene: "test" for scene in ranked[:tests]}
    return splits | {scene: "val" for scene in ranked[tests : tests + validations]}


def draw_fraction(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[Pair, ...]:
    """Select a seeded random fraction of the scenes of each split, at least one scene; return their pairs.

    A scene's rank in the selection is a hash of seed, camera and scene. So it does not depend on other
    scenes, on their order or on a library, and a smaller fraction selects a subset of a larger one. Raises
    OptionError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise OptionError(f"fraction must be above 0 and at most 1, not {fraction:g}")
    scenes = {(pair.camera, pair.split, pair.scene) for pair in pairs}
    drawn: set[tuple[str, str, str]] = set()
    for part in {scene[:2] for scene in scenes}:
        ranked = sorted((scene for scene in scenes if scene[:2] == part), key=partial(_rank, seed))
        drawn.update(ranked[: max(1, round(fraction * len(ranked)))])
    return tuple(pair for pair in pairs if (pair.camera, pair.split, pair.scene) in drawn)


def _rank(seed: int, scene: tuple[str, str, str]) -> bytes:
    return hashlib.blake2b(os.fsencode("/".join((str(seed), *scene))), digest_size=16).digest()
