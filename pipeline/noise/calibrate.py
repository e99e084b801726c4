"""Calibrate a camera from its dark frames and pairs of flat fields, each frame read once.

The trade-off: frames are grouped by the ISO that their files state, not by folders, and one frame is decoded after the
other; 45 MP frames take some seconds each, and 2 GB of memory however many they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from darkprep.pipeline.noise.calibration_frames import (
    IsoGroup,
    frames_by_iso,
    measure_darks,
    measure_flats,
    read_mosaic,
)
from darkprep.pipeline.noise.calibration_warnings import warnings_of
from darkprep.pipeline.noise.camera_calibration import (
    CameraCalibration,
    Gain,
    GainMode,
    IsoCalibration,
    JointFit,
    ReadNoise,
    write_shading,
)
from darkprep.pipeline.noise.dark_frames import DarkStatistics
from darkprep.pipeline.noise.dark_shading import F32, ShadingFit, block_means, shading_of
from darkprep.pipeline.noise.photon_transfer import PhotonTransfer
from darkprep.pipeline.noise.tukey_lambda import F64
from darkprep.pipeline.raw.camera_colours import camera_name
from darkprep.pipeline.raw.guard import DECODE_S, GuardedReader
from darkprep.pipeline.raw.mosaic import canonical_shape
from darkprep.shards.cfa import CANONICAL

_MODE_FALL = 0.95
"""Factor of the read noise from one ISO to the next below which the gain mode has changed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class IsoEvidence:
    """What a page about the calibration of one ISO shows."""

    iso: float
    darks: DarkStatistics
    """Without its mean map."""
    transfer: PhotonTransfer | None
    shading: F32
    """Means of blocks of 64 x 64 pixels of the dark shading, `(h, w)` codes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationResult:
    """A calibration and the evidence for it."""

    calibration: CameraCalibration
    evidence: tuple[IsoEvidence, ...]


def calibrate(
    darks: Sequence[Path],
    flats: Sequence[Path] = (),
    *,
    maps_beside: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> CalibrationResult:
    """Calibrate one camera from its `darks` and, for the gain K, from pairs of `flats`.

    Flats are paired in the order of their names: two frames that follow each other and have the same ISO,
    exposure time and brightness. With `maps_beside`, the path of the calibration's JSON file, dark shading is
    written beside it. Raises DatasetError, which names file or ISO, for frames that do not belong together,
    RawError for one that cannot be read, DiskFull or SpoolError.
    """
    groups = frames_by_iso(darks, flats)
    first = groups[0].darks[0]
    shading = _ShadingWriter(maps_beside)
    isos: list[IsoCalibration] = []
    evidence = []
    total, done = len(darks) + len(flats), 0

    def tick(name: str) -> None:
        nonlocal done
        done += 1
        progress(f"frame {done} of {total}: {name}")

    black, white = np.zeros((1, 1)), 0
    # Its process is forked for the first frame, while this one has no large arrays.
    with GuardedReader(read_mosaic, seconds=DECODE_S) as read:
        for group in groups:
            black, white, found = measure_darks(group, read, tick)
            transfer = measure_flats(group, black + found.site_bias, white, read, tick)
            isos.append(_iso_calibration(group, found, transfer))
            map_ = shading_of(
                found.mean_map,
                fixed_pixel_sigma=found.fixed_pixel_sigma,
                noise_variance=found.pixel_variance / found.frames,
            )
            starts = len(isos) > 1 and isos[-1].read.std < _MODE_FALL * isos[-2].read.std
            shading.add(group.iso, map_, starts_mode=starts)
            evidence.append(
                IsoEvidence(
                    iso=group.iso,
                    darks=replace(found, mean_map=np.zeros((0, 0), np.float32)),
                    transfer=transfer,
                    shading=block_means(map_),
                )
            )
    filled = _with_proportional_gain(isos)
    height, width = canonical_shape(first)
    calibration = CameraCalibration(
        camera=camera_name(first),
        cfa=first.cfa,
        height=height,
        width=width,
        black=float(black.mean()),
        white=white,
        isos=filled,
        modes=tuple(_with_joint_fits(mode, filled) for mode in shading.finish()),
    )
    warnings = warnings_of(
        calibration,
        {one.iso: one.darks for one in evidence},
        {one.iso: one.transfer for one in evidence if one.transfer},
    )
    warnings += _exposure_warnings(groups) + _uneven_warnings(evidence)
    return CalibrationResult(
        calibration=replace(calibration, warnings=tuple(warnings)), evidence=tuple(evidence)
    )


# -- results ------------------------------------------------------------------------------------------


def _iso_calibration(
    group: IsoGroup, found: DarkStatistics, transfer: PhotonTransfer | None
) -> IsoCalibration:
    assert found.read is not None, "checked before"
    gain = None
    if transfer:
        gain = Gain(
            value=transfer.gain,
            error=transfer.gain_error,
            channels=transfer.channels,
            pairs=transfer.pairs,
        )
    return IsoCalibration(
        iso=group.iso,
        exposure_s=group.darks[0].exposure_s,
        darks=found.frames,
        gain=gain,
        read=ReadNoise(
            shape=found.read.shape,
            scale=found.read_scale,
            std=math.sqrt(max(0.0, found.pixel_variance - found.step**2 / 12)),
            r2_tukey=found.read.r2,
            r2_normal=found.read.r2_normal,
        ),
        row_sigma=found.row_sigma,
        row_error=found.row_error,
        column_sigma=found.column_sigma,
        fixed_column_sigma=found.fixed_column_sigma,
        fixed_pixel_sigma=found.fixed_pixel_sigma,
        colour_bias=_colour_bias(found.site_bias),
        step=found.step,
        is_clipped=found.is_clipped,
    )


def _colour_bias(sites: F64) -> tuple[float, float, float, float]:
    """Return four biases: of R, of G in rows with R, of B, and of G in rows with B. For X-Trans, both values of G are equal."""
    if len(sites) == 2:
        return float(sites[0, 0]), float(sites[0, 1]), float(sites[1, 1]), float(sites[1, 0])
    letters = np.array([list(row) for row in CANONICAL["xtrans"]])
    red, green, blue = (float(sites[letters == letter].mean()) for letter in "RGB")
    return red, green, blue, green


def _with_proportional_gain(isos: Sequence[IsoCalibration]) -> tuple[IsoCalibration, ...]:
    """Give ISO values without flats the K of the others, in proportion to ISO; unchanged if none has a K."""
    known = [(one.iso, one.gain) for one in isos if one.gain]
    if not known:
        return tuple(isos)
    weights = np.array([1 / max(gain.error / gain.value, 1e-6) ** 2 for _, gain in known])
    ratio = float(np.average([gain.value / iso for iso, gain in known], weights=weights))
    spread = float(np.std([gain.value / iso for iso, gain in known])) + ratio / math.sqrt(
        weights.sum()
    )
    return tuple(
        one
        if one.gain
        else replace(
            one,
            gain=Gain(
                value=ratio * one.iso,
                error=spread * one.iso,
                channels=(ratio * one.iso,) * 3,
                pairs=0,
            ),
        )
        for one in isos
    )


class _ShadingWriter:
    """Collects the gain modes and, if they are written, their dark shading."""

    def __init__(self, beside: Path | None) -> None:
        self._beside = beside
        self._fit = ShadingFit()
        self._isos: list[float] = []
        self._modes: list[GainMode] = []

    def add(self, iso: float, shading: F32, *, starts_mode: bool) -> None:
        if starts_mode:
            self._end_mode()
        self._isos.append(iso)
        if self._beside is not None:
            self._fit.add(iso, shading)

    def finish(self) -> list[GainMode]:
        self._end_mode()
        return self._modes

    def _end_mode(self) -> None:
        mode = GainMode(lowest=self._isos[0], highest=self._isos[-1])
        if self._beside is not None:
            stem, checksums = write_shading(self._beside, len(self._modes) + 1, self._fit.maps())
            mode = replace(mode, shading=stem, checksums=checksums)
        self._modes.append(mode)
        self._fit, self._isos = ShadingFit(), []


def _with_joint_fits(mode: GainMode, isos: Sequence[IsoCalibration]) -> GainMode:
    own = [one for one in isos if mode.lowest <= one.iso <= mode.highest and one.gain]
    read = _joint_fit([(one.gain.value, one.read.scale) for one in own if one.gain])
    row = _joint_fit([(one.gain.value, one.row_sigma) for one in own if one.gain])
    return replace(mode, read=read, row=row)


def _joint_fit(points: list[tuple[float, float]]) -> JointFit | None:
    """Return the line through log(sigma) over log(K); None with fewer than two points, or with a sigma of 0."""
    if len(points) < 2 or min(sigma for _, sigma in points) <= 0:
        return None
    x, y = np.log(np.array(points)).T
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.sqrt(np.mean((y - slope * x - intercept) ** 2)))
    return JointFit(slope=float(slope), intercept=float(intercept), spread=spread)


def _exposure_warnings(groups: Sequence[IsoGroup]) -> list[str]:
    return [
        f"ISO {group.iso:g}: the dark frames have several exposure times ({min(times):g} to {max(times):g} s), and black levels depend on it"
        for group in groups
        if len(times := {one.exposure_s for one in group.darks}) > 1
    ]


def _uneven_warnings(evidence: Sequence[IsoEvidence]) -> list[str]:
    """Warn of coarse shading that is larger than both a fifth of a single pixel's noise and one code."""
    texts = []
    for one in evidence:
        low, high = (float(value) for value in np.percentile(one.shading, (1, 99)))
        if high - low > max(1.0, 0.2 * math.sqrt(one.darks.pixel_variance)):
            texts.append(
                f"ISO {one.iso:g}: the dark frames are uneven by {high - low:.1f} raw units: light leaks in, or the sensor's amplifier glows"
            )
    return texts
