"""What a camera's codes are as colours: to linear sRGB, back, and into another camera's codes.

The trade-off: white balance and one 3x3 matrix, as the developer of a file applies them. Where two
sensors see differently in a way that no matrix undoes, the difference stays.

Gamma, matrix and white balance are LibRaw's, so that `undeveloped` inverts `develop`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.mosaic import PLANE_COLOURS, pack
from darkprep.shards.errors import RawError
from darkprep.shards.format import U16, CfaKind, Sample, SampleMeta

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_POWER, _SLOPE = 0.45, 4.5
_KNEE, _OFFSET = 0.08124286, 0.09929683
"""BT.709's curve as LibRaw computes it: where the straight part ends, and the power's offset."""

_MATCHED_BLACK, _MATCHED_SCALE = 8192, 28672
"""Levels of codes in another camera's space: half a source code or finer, room for values up to 2
and for noise far below black."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Colours:
    """How one photograph's codes stand for colours. Raises ValueError naming the field."""

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
        """`(3, 3)`: linear sRGB to what the sensor records, white's green 1."""
        return np.asarray(np.linalg.inv(self.to_srgb) / self.gains[:, None])


class StatesColours(Protocol):
    """A decoded file, whatever it was decoded to."""

    @property
    def white_balance(self) -> tuple[float, float, float, float]:
        """As-shot gains of R, G1, B, G2, green 1."""

    @property
    def camera_to_srgb(self) -> F32:
        """`(3, 3)` matrix from white-balanced R, G, B to linear sRGB; zeros where none is known."""


def colours_of(frame: StatesColours, path: str) -> Colours:
    """Returns what a decoded file says of its colours; RawError, with its path, when it says too little."""
    red, _, blue, _ = frame.white_balance
    try:
        return Colours(
            gains=np.array([red, 1.0, blue]), to_srgb=frame.camera_to_srgb.astype(np.float64)
        )
    except ValueError as error:
        raise RawError(path, f"states no usable colours ({error})") from error


def linear_light(srgb: F32 | U16) -> F32:
    """Undoes the development's gamma: values in [0, 1], or full-range uint16, to linear float32."""
    v = srgb.astype(np.float32)
    if srgb.dtype == np.uint16:
        v /= np.float32(65535)
    np.clip(v, 0, 1, out=v)
    bent = ((v + np.float32(_OFFSET)) / np.float32(1 + _OFFSET)) ** np.float32(1 / _POWER)
    return np.where(v < _KNEE, v / np.float32(_SLOPE), bent)


def undeveloped(picture: F32 | U16, colours: Colours, cfa: CfaKind) -> F32:
    """Takes a developed picture back to what the sensor would record of it, packed.

    `picture` is `(3, H, W)` sRGB of a canonical mosaic. Returns float32 `(C, h, w)`, black 0, full
    scale 1 up to one factor: development scales brightness to the file's own full scale. What
    development clipped, highlights and colours outside sRGB, is lost.
    """
    light = np.stack([pack(channel, cfa) for channel in linear_light(picture)])
    # LibRaw scales the gains so that the smallest is 1.
    weights = (colours.codes_from_srgb() * colours.gains.min()).astype(np.float32)
    planes = np.empty(light.shape[1:], np.float32)
    for plane, letter in enumerate(PLANE_COLOURS[cfa]):
        planes[plane] = np.tensordot(weights["RGB".index(letter)], light[:, plane], axes=1)
    return planes


def match_matrix(source: Colours, target: Colours) -> F64:
    """Returns `(3, 3)`: what `source`'s sensor recorded to what `target`'s would have, both above black.

    White comes to lie where `target`'s own photograph has it, and its green keeps its value.
    """
    return np.asarray(target.codes_from_srgb() @ np.linalg.inv(source.codes_from_srgb()))


def matched(sample: Sample, matrix: F64) -> Sample:
    """Returns the sample as another camera would have recorded it, by `match_matrix`'s matrix.

    Each value takes its own colour's part from itself and the other colours' from the mean of its
    cell, so nothing of its own colour is blurred. Codes and levels are new, finer than the source's.
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
    return Sample(codes, sample.gt, _relevelled(sample.meta))


def _relevelled(meta: SampleMeta) -> SampleMeta:
    return replace(
        meta,
        black=(float(_MATCHED_BLACK),) * len(meta.black),
        white=_MATCHED_BLACK + _MATCHED_SCALE,
    )
