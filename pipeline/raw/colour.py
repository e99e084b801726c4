"""Convert between a camera's codes and linear sRGB, and between the codes of two cameras.

The trade-off: white balance and one 3x3 matrix, as LibRaw applies them. Differences between two
sensors that no matrix can express remain.

Gamma, matrix and white balance are LibRaw's, so that `undevelop` inverts `develop`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.mosaic import pack
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.errors import RawError
from darkprep.shards.format import U16, CfaKind, Sample, SampleMeta

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SRGB_TO_XYZ_LIBRAW: F64 = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""Linear sRGB to CIE XYZ (D65), as LibRaw rounds it: for what has to agree with its development."""
SRGB_TO_XYZ: F64 = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Linear sRGB to CIE XYZ (D65) to seven digits (IEC 61966-2-1), for synthetic files: LibRaw's matrix would change
their bytes."""

_POWER, _SLOPE = 0.45, 4.5
_KNEE, _OFFSET = 0.08124286, 0.09929683
"""BT.709's curve as LibRaw computes it: end of the linear part, and offset of the power part."""

_MATCHED_BLACK, _MATCHED_SCALE = 8192, 28672
"""Levels of codes in another camera's space: half a source code or finer, room for values up to 2
and for noise far below black."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Colours:
    """White balance and colour matrix of one photograph. Raises ValueError, which names the invalid field."""

    gains: F64
    """`(3,)` as-shot white balance of R, G, B, green 1."""
    to_srgb: F64
    """`(3, 3)` white-balanced R, G, B to linear sRGB."""

    def __post_init__(self) -> None:
        if self.gains.shape != (3,) or not (np.isfinite(self.gains) & (self.gains > 0)).all():
            raise ValueError(f"gains must be three positive numbers, not {self.gains}")
        shaped = self.to_srgb.shape == (3, 3) and np.isfinite(self.to_srgb).all()
        if not shaped or abs(np.linalg.det(self.to_srgb)) < 1e-6:
            raise ValueError("to_srgb must be a (3, 3) matrix with an inverse")

    def codes_from_srgb(self) -> F64:
        """Return the matrix `(3, 3)` from linear sRGB to sensor codes; the green of white is 1."""
        return np.asarray(np.linalg.inv(self.to_srgb) / self.gains[:, None])


class HasColours(Protocol):
    """A decoded file that has colours: a `RawFrame` or a `PackedFrame`."""

    @property
    def white_balance(self) -> tuple[float, float, float, float]:
        """As-shot gains of R, G1, B, G2, relative to green = 1."""

    @property
    def camera_to_srgb(self) -> F32:
        """Matrix `(3, 3)` from white-balanced R, G, B to linear sRGB; zeros if unknown."""


def colours_of(frame: HasColours, path: str) -> Colours:
    """Return the colours of a decoded file. Raises RawError with `path` if they are missing or unusable."""
    red, _, blue, _ = frame.white_balance
    try:
        return Colours(
            gains=np.array([red, 1.0, blue]), to_srgb=frame.camera_to_srgb.astype(np.float64)
        )
    except ValueError as error:
        raise RawError(
            path,
            f"has no usable white balance or colour matrix ({error}); convert it with Adobe DNG Converter",
        ) from error


def linear_light(srgb: F32 | U16) -> F32:
    """Invert the development's gamma: convert values in [0, 1], or uint16 up to 65535, to linear float32."""
    v = srgb.astype(np.float32)
    if srgb.dtype == np.uint16:
        v /= np.float32(65535)
    np.clip(v, 0, 1, out=v)
    bent = ((v + np.float32(_OFFSET)) / np.float32(1 + _OFFSET)) ** np.float32(1 / _POWER)
    return np.where(v < _KNEE, v / np.float32(_SLOPE), bent)


def developed_light(linear: F32) -> F32:
    """Apply the development's gamma to linear values: the inverse of `linear_light`. Values are clipped to [0, 1]."""
    v = np.clip(linear, 0, 1)
    bent = np.float32(1 + _OFFSET) * v ** np.float32(_POWER) - np.float32(_OFFSET)
    return np.where(v < _KNEE / _SLOPE, v * np.float32(_SLOPE), bent)


def undevelop(picture: F32 | U16, colours: Colours, cfa: CfaKind) -> F32:
    """Return the packed planes that a sensor would record of a developed picture.

    `picture` is `(3, H, W)` sRGB whose pixel (0, 0) is the first of the CFA's canonical period. Returns float32
    `(C, h, w)` with black 0 and full scale 1. Its brightness is known only up to a constant factor, because
    development scales it to the file's own full scale; highlights and colours outside sRGB are lost.
    """
    light = np.stack([pack(channel, cfa) for channel in linear_light(picture)])
    # LibRaw scales the gains so that the smallest is 1.
    weights = (colours.codes_from_srgb() * colours.gains.min()).astype(np.float32)
    planes = np.empty(light.shape[1:], np.float32)
    for plane, letter in enumerate(PLANE_COLOURS[cfa]):
        planes[plane] = np.tensordot(weights["RGB".index(letter)], light[:, plane], axes=1)
    return planes


def match_matrix(source: Colours, target: Colours) -> F64:
    """Return the matrix `(3, 3)` from codes above black of `source`'s sensor to those of `target`'s sensor.

    White becomes the white of `target`'s own photograph; the value of green does not change for white.
    """
    return np.asarray(target.codes_from_srgb() @ np.linalg.inv(source.codes_from_srgb()))


def match_colours(sample: Sample, matrix: F64) -> Sample:
    """Convert a sample to the codes that another camera would have recorded, with the matrix of `match_matrix`.

    A pixel's own colour comes from the pixel, the other two colours from the mean of its cell, so that its
    own colour is not blurred. The result has new levels, with finer codes than the source.
    """
    colours = np.array(["RGB".index(letter) for letter in PLANE_COLOURS[sample.meta.cfa]])
    black = np.array(sample.meta.black, np.float32)[:, None, None]
    scale = np.float32(sample.meta.white) - black
    light = (sample.low.astype(np.float32) - black) / scale
    means = np.stack([light[colours == colour].mean(axis=0) for colour in range(3)])
    codes = np.empty(light.shape, np.uint16)
    for plane, own in enumerate(colours):
        value = light[plane] * np.float32(matrix[own, own])
        for other in {0, 1, 2} - {int(own)}:
            value += means[other] * np.float32(matrix[own, other])
        value = np.rint(value * np.float32(_MATCHED_SCALE)) + np.float32(_MATCHED_BLACK)
        codes[plane] = np.clip(value, 0, 65535, out=value)
    return replace(sample, low=codes, meta=_with_match_levels(sample.meta))


def _with_match_levels(meta: SampleMeta) -> SampleMeta:
    return replace(
        meta,
        black=(float(_MATCHED_BLACK),) * len(meta.black),
        white=_MATCHED_BLACK + _MATCHED_SCALE,
    )
