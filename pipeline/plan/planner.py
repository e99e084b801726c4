"""Make a plan: find the pairs, read the header of every file, and fix the recipe.

The trade-off: every file is opened once now, a millisecond each, so that one that cannot be used is
reported before hours of work and not in the middle of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_longs, find_pairs
from darkprep.pipeline.pairs.lmdb import find_patches
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, Pairs, Skipped, draw_fraction
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.raw.mosaic import canonical_shape
from darkprep.shards import CfaKind, DatasetError, OptionError, RawError


def make_plan(root: Path, options: PlanOptions) -> Plan:
    """Find the pairs under `root`, read every file's header, and return the plan.

    Pairs with a file that cannot be used are left out and listed in `Plan.skipped`. Raises DatasetError
    when no pair is left, OptionError when a frame is smaller than the crop.
    """
    found = _find(root, options)
    drawn = draw_fraction(found.of_split(options.split).pairs, options.fraction, options.seed)
    skipped = list(found.skipped)
    probe = _Probe(found.root, options.mosaic_cfa)
    pairs = []
    for pair in drawn:
        try:
            pairs.append(_planned(pair, options, probe))
        except RawError as error:
            skipped.append(Skipped(error.path, error.reason))
    if not pairs:
        raise DatasetError(
            f"{root}: none of the {len(drawn)} pairs of {options.camera} can be used; the first: {skipped[-1].path}: {skipped[-1].reason}"
        )
    plan = Plan(
        options=options, pairs=tuple(pairs), root=found.root, skipped=tuple(dict.fromkeys(skipped))
    )
    try:
        _ = plan.stream
    except ValueError as error:  # more epochs, or a wider window, than a spool can record
        raise OptionError(str(error)) from error
    return plan


def _find(root: Path, options: PlanOptions) -> Pairs:
    """Find the pairs of the chosen data; with made noise, long exposures paired with themselves."""
    camera = camera_named(options.camera)
    if options.lmdb is not None:
        return find_patches(root, camera, options.lmdb, longs_only=options.noise is not None)
    if options.noise is not None:
        return find_longs(root, camera, exclude_misaligned=options.exclude_misaligned)
    return find_pairs(
        root, camera, frames=options.frames, exclude_misaligned=options.exclude_misaligned
    )


def _planned(pair: Pair, options: PlanOptions, probe: _Probe) -> PlannedPair:
    short, long = probe.file(pair.short), probe.file(pair.long)
    if (short.height, short.width) != (long.height, long.width):
        raise RawError(
            str(probe.root / pair.short),
            f"is {short.height}x{short.width}, its long exposure {long.height}x{long.width}",
        )
    if min(short.height, short.width) < options.stored_size():
        raise OptionError(
            f"crop {options.crop_size()} with its margin needs {options.stored_size()} pixels, {pair.short} has {short.height}x{short.width}; choose a smaller --crop"
        )
    return PlannedPair(
        pair=pair,
        height=short.height,
        width=short.width,
        short_fingerprint=short.fingerprint,
        long_fingerprint=long.fingerprint,
    )


class _File(NamedTuple):
    """One usable file."""

    height: int
    """Rows of the canonical mosaic."""
    width: int
    fingerprint: str


class _Probe:
    """Reads the header and the fingerprint of each file below `root` once."""

    def __init__(self, root: Path, cfa: CfaKind) -> None:
        self.root = root
        self._cfa = cfa
        self._results: dict[str, _File | RawError] = {}

    def file(self, name: str) -> _File:
        """Return what a file is. Raises RawError if it cannot be used, each time it is asked for."""
        if name not in self._results:
            try:
                self._results[name] = self._read(self.root / name)
            except RawError as error:
                self._results[name] = RawError(error.path, error.reason)
        result = self._results[name]
        if isinstance(result, RawError):
            raise result
        return result

    def _read(self, path: Path) -> _File:
        source = open_source(path)
        header = source.header()
        if header.cfa != self._cfa:
            raise RawError(str(path), f"has a {header.cfa} mosaic, the camera's is {self._cfa}")
        height, width = canonical_shape(header)
        return _File(height, width, source.fingerprint())
