"""Make a plan: find the pairs, read the header of every file, and fix the recipe.

The trade-off: every file is opened once, which takes a millisecond each, so that a file that cannot be used
is reported at the start instead of after hours of work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_longs, find_pairs
from darkprep.pipeline.pairs.lmdb import find_patches
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, Pairs, draw_fraction, first_skipped, longs_of
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.pipeline.raw.mosaic import canonical_shape
from darkprep.pipeline.raw.resample import parse_xtrans_mode, sample_cfa
from darkprep.shards import CfaKind, DatasetError, OptionError, RawError


def make_plan(
    root: Path,
    options: PlanOptions,
    *,
    pairs: Pairs | None = None,
    darks: Path | None = None,
    shading: Path | None = None,
) -> Plan:
    """Read the header of every file and return the plan.

    `pairs` are the pairs to plan with, such as those of a table; without them the camera's pairs are found
    below `root`. `darks` is the directory of the dark frames in `options`, `shading`
    the calibration file of its dark shading. Pairs with a file that cannot be used are left out and listed in `Plan.skipped`. So are
    pairs that are smaller than the crop, and pairs whose CFA is not that of most pairs, because all samples
    of a plan have the same planes. Raises DatasetError when no pair is left, OptionError when all are
    smaller than the crop.
    """
    found = _find(root, options) if pairs is None else _chosen(pairs, options)
    drawn = draw_fraction(found.of_split(options.split).pairs, options.fraction, options.seed)
    skipped = list(found.skipped)
    usable = []
    with GuardedReader(_read_file, seconds=HEADER_S) as reader:
        probe = _Probe(found.root, reader)
        for pair in drawn:
            try:
                usable.append(_checked_pair(pair, probe))
            except RawError as error:
                skipped.append(found.skip(pair, error.path, error.reason))
    cfa = _common_cfa(usable, options)
    stored, planned, small = options.stored_size(cfa), [], []
    _check_darks(options, cfa, stored)
    for pair, file, long_fingerprint in usable:
        if _sample_cfa(file, options) == cfa and min(file.height, file.width) >= stored:
            planned.append(_planned(pair, file, long_fingerprint))
        elif _sample_cfa(file, options) == cfa:
            reason = f"is {file.height}x{file.width}, but crop {options.crop_size(cfa)} with its margin needs {stored} pixels; choose a smaller --crop"
            small.append(found.skip(pair, str(found.root / pair.short), reason))
        else:
            reason = f"has a mosaic of another kind than most others ({file.cfa}, not {cfa}); convert it with --xtrans rggb, or build a separate spool for it"
            skipped.append(found.skip(pair, str(found.root / pair.short), reason))
    if small and not planned:
        raise OptionError(f"{small[0].path}: {small[0].reason}")
    skipped += small
    if not planned:
        raise DatasetError(
            f"{found.root}: none of the pairs of {options.camera} ({len(drawn)}) can be used: {first_skipped(skipped)}"
        )
    plan = Plan(
        options=options,
        pairs=tuple(planned),
        cfa=cfa,
        root=found.root,
        table=found.table,
        layout=found.layout,
        darks=darks,
        shading=shading,
        skipped=tuple(dict.fromkeys(skipped)),
    )
    try:
        _ = plan.stream
    except ValueError as error:  # more epochs, or a wider window, than a spool can record
        raise OptionError(str(error)) from error
    return plan


def _find(root: Path, options: PlanOptions) -> Pairs:
    """Find the pairs of the chosen data; for simulated noise, long exposures paired with themselves."""
    camera = camera_named(options.camera)
    if options.lmdb is not None:
        if camera.cfa != "bayer":
            raise OptionError(
                f"LMDB files contain Bayer patches, but {camera.name} is {camera.cfa}; choose a Bayer camera"
            )
        return find_patches(root, camera, options.lmdb, longs_only=options.noise is not None)
    if options.noise is not None:
        return find_longs(root, camera, exclude_misaligned=options.exclude_misaligned)
    return find_pairs(
        root, camera, frames=options.frames, exclude_misaligned=options.exclude_misaligned
    )


def _chosen(pairs: Pairs, options: PlanOptions) -> Pairs:
    """Return the given pairs, or for simulated noise their long exposures. Raises OptionError for `lmdb`."""
    if options.lmdb is not None:
        raise OptionError(
            "lmdb cannot be used with a pair table or a layout; leave it out, or give --camera instead of the table or layout"
        )
    return pairs if options.noise is None else longs_of(pairs)


class _File(NamedTuple):
    """A file that can be used."""

    height: int
    """Rows of the canonical mosaic."""
    width: int
    cfa: CfaKind
    """CFA of the file's mosaic."""
    fingerprint: str


def _checked_pair(pair: Pair, probe: _Probe) -> tuple[Pair, _File, str]:
    """Check the files of a pair; return the pair with the short file's header and the fingerprints. Raises RawError."""
    short, long = probe.file(pair.short), probe.file(pair.long)
    if short[:3] != long[:3]:
        raise RawError(
            str(probe.root / pair.short),
            f"is {short.height}x{short.width}, but its long exposure is {long.height}x{long.width}; remove this pair"
            if short.cfa == long.cfa
            else f"has a {short.cfa} mosaic, but its long exposure has a {long.cfa} mosaic; remove this pair",
        )
    return pair, short, long.fingerprint


def _sample_cfa(file: _File, options: PlanOptions) -> CfaKind:
    return sample_cfa(file.cfa, parse_xtrans_mode(options.xtrans))


def _common_cfa(usable: list[tuple[Pair, _File, str]], options: PlanOptions) -> CfaKind:
    """Return the CFA of most pairs' samples. Raises OptionError if noise cannot be simulated for this CFA."""
    mosaics = Counter(file.cfa for _, file, _ in usable)
    if options.noise is not None and options.xtrans != "native" and mosaics["xtrans"]:
        raise OptionError(
            "--noise can be used only with --xtrans native, because noise is added to the sensor's own mosaic"
        )
    samples = Counter(_sample_cfa(file, options) for _, file, _ in usable)
    return samples.most_common(1)[0][0] if samples else "bayer"


def _check_darks(options: PlanOptions, cfa: CfaKind, stored: int) -> None:
    """Raise OptionError if crops cannot get the noise of the options' dark frames."""
    darks = options.sampled_darks
    if darks is None:
        return
    if darks.cfa != cfa:
        raise OptionError(
            f"the dark frames have a {darks.cfa} mosaic, but the photographs a {cfa} mosaic; use dark frames of a camera with a {cfa} mosaic"
        )
    if min(darks.height, darks.width) < stored:
        raise OptionError(
            f"the dark frames are {darks.height}x{darks.width}, but a crop with its margin needs {stored} pixels; choose a smaller --crop"
        )


def _planned(pair: Pair, file: _File, long_fingerprint: str) -> PlannedPair:
    return PlannedPair(
        pair=pair,
        height=file.height,
        width=file.width,
        short_fingerprint=file.fingerprint,
        long_fingerprint=long_fingerprint,
    )


class _Probe:
    """Reads header and fingerprint of files below `root`, each file once."""

    def __init__(self, root: Path, read: Callable[[Path], _File]) -> None:
        self.root = root
        self._read = read
        self._results: dict[str, _File | RawError] = {}

    def file(self, name: str) -> _File:
        """Return header and fingerprint of a file. Raises RawError, at every call, if the file cannot be used."""
        if name not in self._results:
            try:
                self._results[name] = self._read(self.root / name)
            except RawError as error:
                self._results[name] = RawError(error.path, error.reason)
        result = self._results[name]
        if isinstance(result, RawError):
            raise result
        return result


def _read_file(path: Path) -> _File:
    source = open_source(path)
    header = source.header()
    height, width = canonical_shape(header)
    return _File(height, width, header.cfa, source.fingerprint())
