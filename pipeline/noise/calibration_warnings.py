"""Warnings about a calibration in words: what its frames cannot give, and what the camera does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from darkprep.pipeline.noise.camera_calibration import CameraCalibration, IsoCalibration
from darkprep.pipeline.noise.dark_frames import DarkStatistics
from darkprep.pipeline.noise.photon_transfer import PhotonTransfer

ADVISED_DARKS = 16
_OFF_CODES = 0.5
_OFF_GAIN = 0.03
_INVARIANT = 0.03
_OFF_CHANNEL = 0.01
_CLIPPED_TILES = 0.1
_SIGNIFICANT = 5.0
_CORRELATED = 0.05
_MIN_R2 = 0.98


def warnings_of(
    calibration: CameraCalibration,
    darks: Mapping[float, DarkStatistics],
    transfers: Mapping[float, PhotonTransfer],
) -> list[str]:
    """Return the warnings, each one sentence that begins with the ISO values that it is about."""
    isos: dict[str, list[str]] = {}
    for one in calibration.isos:
        texts = _of_darks(one, darks[one.iso])
        if one.iso in transfers:
            texts += _of_flats(one, transfers[one.iso])
        for text in texts:
            isos.setdefault(text, []).append(f"{one.iso:g}")
    merged = [f"ISO {', '.join(own)}: {text}" for text, own in isos.items()]
    return merged + _of_gains(calibration) + _of_steps(calibration)


def _of_darks(one: IsoCalibration, found: DarkStatistics) -> list[str]:
    texts = []
    if one.darks < ADVISED_DARKS:
        texts.append(f"only {one.darks} dark frames; {ADVISED_DARKS} or more are advised")
    if one.is_clipped:
        texts.append(
            "the camera cuts off noise below black; shape, row noise and colour bias are unknown"
        )
    mean = sum(one.colour_bias) / 4
    if abs(mean) > _OFF_CODES and not one.is_clipped:
        side = "above" if mean > 0 else "below"
        texts.append(
            f"the black level is off: dark frames are {abs(mean):.1f} raw units {side} the level that the files state"
        )
    if one.step > 1:
        texts.append(f"raw values come in steps of {one.step}: fewer bits than the files hold")
    if min(max(one.read.r2_tukey, one.read.r2_normal), 1.0) < _MIN_R2:
        texts.append(
            "the read noise is neither normal nor of Tukey's lambda distribution; look at its probability plot"
        )
    rows = found.row_correlation
    if one.row_sigma > 3 * one.row_error and abs(rows) > _CORRELATED:
        texts.append(
            f"neighbouring rows are alike (correlation {rows:.2f}): the row noise has bands, which the model does not have"
        )
    if one.column_sigma > max(one.row_sigma, 3 * one.row_error):
        texts.append(
            "noise is alike along columns instead of rows; were the files rotated? Simulated noise has it along rows"
        )
    return texts


def _of_flats(one: IsoCalibration, found: PhotonTransfer) -> list[str]:
    texts = []
    if found.clipped > _CLIPPED_TILES:
        texts.append(f"{found.clipped:.0%} of the flat fields' area is saturated and was left out")
    if abs(found.curvature) > _SIGNIFICANT:
        texts.append(
            "the variance of the flat fields is no straight line over their mean; the two of a pair must show the same scene, without flicker"
        )
    apart = max(found.channels) / min(found.channels) - 1
    if apart > _OFF_CHANNEL + _SIGNIFICANT * found.gain_error / found.gain:
        texts.append(f"K differs by {apart:.1%} between colours: the camera scales them digitally")
    return texts


def _of_gains(calibration: CameraCalibration) -> list[str]:
    """Warn of ISO values whose K is not in proportion to ISO, as that of extended ones."""
    measured = [one for one in calibration.isos if one.gain and one.gain.pairs]
    if len(measured) < 2:
        return []
    ratios = sorted(one.gain.value / one.iso for one in measured if one.gain)
    middle = ratios[len(ratios) // 2]
    texts = []
    for one in measured:
        assert one.gain is not None, "chosen above"
        off = one.gain.value / one.iso / middle - 1
        if abs(off) > _OFF_GAIN + _SIGNIFICANT * one.gain.error / one.gain.value:
            texts.append(
                f"ISO {one.iso:g}: K is {off:+.0%} off the proportion of the other ISO values; is it an extended ISO?"
            )
    if any(one.gain and not one.gain.pairs for one in calibration.isos):
        texts.append(
            "K of ISO values without flat fields was taken from the others, in proportion to ISO"
        )
    return texts


def _of_steps(calibration: CameraCalibration) -> list[str]:
    """Report where the gain mode changes, and where raising ISO changes nothing but the gain."""
    texts = []
    starts = {mode.lowest for mode in calibration.modes[1:]}
    for low, high in pairwise(calibration.isos):
        if high.iso in starts:
            texts.append(
                f"ISO {low.iso:g} to {high.iso:g}: the gain mode changes, read noise falls from {low.read.std:.2f} to {high.read.std:.2f} raw units; nothing is interpolated between them"
            )
        elif low.gain and high.gain and low.read.std > 0 and high.read.std > 0:
            electrons = low.read.std / low.gain.value, high.read.std / high.gain.value
            if abs(math.log(electrons[1] / electrons[0])) < _INVARIANT:
                texts.append(
                    f"ISO {low.iso:g} to {high.iso:g}: read noise stays {electrons[0]:.2f} electrons, so the higher ISO gains nothing"
                )
    return texts
