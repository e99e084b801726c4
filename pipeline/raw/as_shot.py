"""White balance of a DNG file that states it as a chromaticity (AsShotWhiteXY), which LibRaw does not use.

The file is changed in memory to one that states the same as AsShotNeutral. The trade-off: DNG's colour matrices for two illuminants are interpolated as its specification says, but the
colour temperature comes from a formula that is exact to a few kelvin instead of from a table.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.tiff import Tiff

F64 = npt.NDArray[np.float64]

_NEUTRAL, _WHITE_XY, _ANALOG_BALANCE = 50728, 50729, 50727
_COLOR_MATRIX, _CALIBRATION, _ILLUMINANT = (50721, 50722), (50723, 50724), (50778, 50779)
_COLOURS = 3
_RATIONAL, _ENTRY_BYTES = 5, 12
_ONE = 1_000_000_000
"""Denominator of the numbers that are written."""
_TEMPERATURES = {
    1: 5500.0, 2: 4150.0, 3: 2850.0, 4: 5500.0, 9: 5500.0, 10: 6500.0, 11: 7500.0, 12: 6400.0, 13: 5050.0,
    14: 4150.0, 15: 3450.0, 17: 2850.0, 18: 5500.0, 19: 6500.0, 20: 5500.0, 21: 6500.0, 22: 7500.0,
    23: 5000.0, 24: 3200.0,
}  # fmt: skip
"""Colour temperature in kelvin of Exif's light sources, as in Adobe's DNG SDK."""


def with_neutral(data: bytes) -> bytes:
    """Return a DNG file's bytes with AsShotNeutral in place of AsShotWhiteXY, other bytes unchanged.

    Files without AsShotWhiteXY or without a usable colour matrix are returned as they are. The neutral
    colour is AnalogBalance x CameraCalibration x ColorMatrix x XYZ of the white (DNG specification 1.7,
    chapter 6, "Translating White Balance xy Coordinates to Camera Neutral Coordinates"), its largest
    number 1.
    """
    if data[:4] not in (b"II*\x00", b"MM\x00*"):
        return data
    order = "<" if data[:2] == b"II" else ">"
    try:
        tiff = Tiff(io.BytesIO(data))
        directory = tiff.first_directory()
        neutral = _neutral(tiff, directory)
        if neutral is None:
            return data
        entry = _entry(data, order, directory, _WHITE_XY)
    except (struct.error, OverflowError, ValueError):  # a directory points past the end of the file
        return data
    at = len(data) + len(data) % 2
    numbers = (number for value in neutral for number in (round(value * _ONE), _ONE))
    return b"".join(
        (
            data[:entry],
            struct.pack(f"{order}HHII", _NEUTRAL, _RATIONAL, _COLOURS, at),
            data[entry + _ENTRY_BYTES :],
            bytes(at - len(data)),
            struct.pack(f"{order}6I", *numbers),
        )
    )


def _entry(data: bytes, order: str, directory: int, wanted: int) -> int:
    """Return the offset of a tag's entry. Raises ValueError if there is none."""
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    for entry in range(directory + 2, directory + 2 + _ENTRY_BYTES * count, _ENTRY_BYTES):
        if struct.unpack_from(f"{order}H", data, entry)[0] == wanted:
            return entry
    raise ValueError(f"tag {wanted} is missing")


def _neutral(tiff: Tiff, directory: int) -> tuple[float, ...] | None:
    """Return camera R, G and B of the white that AsShotWhiteXY states; None if it is not stated or unusable."""
    if tiff.numbers(directory, _NEUTRAL):
        return None
    xy = tiff.numbers(directory, _WHITE_XY)
    if len(xy) != 2 or not (0 < xy[0] < 1 and 0 < xy[1] < 1):
        return None
    x, y = xy
    matrix = _matrix(tiff, directory, _temperature(x, y))
    if matrix is None:
        return None
    balance = tiff.numbers(directory, _ANALOG_BALANCE)
    if len(balance) == _COLOURS:
        matrix = np.diag(balance) @ matrix
    neutral = matrix @ np.array([x / y, 1.0, (1 - x - y) / y])
    if not (np.isfinite(neutral).all() and (neutral > 0).all()):
        return None
    return tuple((neutral / neutral.max()).tolist())


def _matrix(tiff: Tiff, directory: int, temperature: float) -> F64 | None:
    """Return XYZ to camera, `(3, 3)`, at a colour temperature in kelvin."""
    known: list[tuple[float, F64]] = []
    for matrix, calibration, illuminant in zip(
        _COLOR_MATRIX, _CALIBRATION, _ILLUMINANT, strict=True
    ):
        colour = _square(tiff.numbers(directory, matrix))
        own = _square(tiff.numbers(directory, calibration))
        if colour is not None:
            source = (tiff.numbers(directory, illuminant) or [0.0])[0]
            product = colour if own is None else own @ colour
            known.append((_TEMPERATURES.get(int(source), 0.0), product))
    if len(known) < 2 or known[0][0] == known[1][0] or not all(kelvin for kelvin, _ in known):
        return known[0][1] if known else None
    (low, at_low), (high, at_high) = sorted(known, key=lambda one: one[0])
    # The specification interpolates linearly in the inverse temperature.
    share = float(np.clip((1 / temperature - 1 / high) / (1 / low - 1 / high), 0.0, 1.0))
    return share * at_low + (1 - share) * at_high


def _square(numbers: list[float]) -> F64 | None:
    return np.array(numbers).reshape(3, 3) if len(numbers) == _COLOURS**2 else None


def _temperature(x: float, y: float) -> float:
    """Return the correlated colour temperature in kelvin (McCamy, Color Research and Application 17, 1992)."""
    n = (x - 0.3320) / (0.1858 - y) if y != 0.1858 else 0.0
    return max(1000.0, 449.0 * n**3 + 3525.0 * n**2 + 6823.3 * n + 5520.33)
