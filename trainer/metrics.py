"""PSNR and SSIM by named protocols, computed in strips of rows so that frames of any size fit into memory.

The choice of protocol changes scores more than the choice of method: between papers, the scores of the same
pictures differ by decibels. So each protocol has a name, which every output states. The trade-off: SSIM is
computed by scikit-image, as in the papers' code, although a faster filter would be easy, so that scores are
comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from darkprep.shards.errors import OptionError
from darkprep.shards.format import U16, Target

Pixels = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]

_STRIP_ROWS = 256


Domain = Literal["sRGB", "linear RGB", "packed RAW"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How PSNR and SSIM of two pictures in [0, 1] are computed."""

    name: str
    description: str
    """The protocol in one line, with its source."""
    steps: Literal["truncate", "round", "keep"]
    """How values in [0, 255] are quantised: truncated to integers, rounded, or not at all."""
    gaussian: bool = False
    """SSIM's window: 11-tap Gaussian of sigma 1.5 with population variances, or else 7x7 uniform."""
    equalise: bool = False
    """Whether to multiply the restored picture by the factor that brings it nearest to the truth."""
    domain: Domain = "sRGB"
    """What is compared: developed pictures, camera RGB, or the sensor's planes."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="redirt",
            description="sRGB cut to 8 bits, 7x7 uniform SSIM (Lamba & Mitra, CVPR 2021, released code)",
            steps="truncate",
        ),
        Protocol(
            name="sid",
            description="sRGB rounded to 8 bits, Gaussian SSIM (Chen et al., CVPR 2018, wrote PNG and "
            "measured in MATLAB)",
            steps="round",
            gaussian=True,
        ),
        Protocol(
            name="eld",
            description="packed RAW of full scale 16383 (where codes have 14 bits), one illuminance "
            "factor, no rounding, 7x7 uniform SSIM (Wei et al., CVPR 2020); a restored sRGB picture is taken "
            "back to RAW by inverting the file's own development, and no figure compares with an sRGB one",
            steps="keep",
            equalise=True,
            domain="packed RAW",
        ),
        Protocol(
            name="pmn",
            description="as eld, but SID's frames whole too (Feng et al., ACM MM 2022, released code)",
            steps="keep",
            equalise=True,
            domain="packed RAW",
        ),
        Protocol(
            name="linear",
            description="camera RGB in linear light, no rounding, 7x7 uniform SSIM (darkprep's own; no "
            "published figure compares with it)",
            steps="keep",
            domain="linear RGB",
        ),
    )
}


_DOMAINS: dict[Target, tuple[Domain, ...]] = {
    "srgb": ("sRGB", "packed RAW"),
    "linear": ("linear RGB", "packed RAW"),
    "raw": ("packed RAW",),
}
"""What can be compared of a network's result, by its target."""

DEFAULT_PROTOCOLS: dict[Target, str] = {"srgb": "redirt", "linear": "linear", "raw": "eld"}
"""The protocol of a target where none is chosen."""


def protocol_for(target: Target, name: str | None = None) -> Protocol:
    """Return the protocol `name`, or the default one of a target.

    Raises OptionError for an unknown name, and for a protocol that compares what the target does not give.
    """
    protocol = protocol_named(name or DEFAULT_PROTOCOLS[target])
    if protocol.domain not in _DOMAINS[target]:
        fitting = [one.name for one in PROTOCOLS.values() if one.domain in _DOMAINS[target]]
        raise OptionError(
            f"protocol {protocol.name} compares {protocol.domain}, but the network was trained towards {target}; choose {' or '.join(fitting)}"
        )
    return protocol


def protocol_named(name: str) -> Protocol:
    """Return the protocol with this name. Raises OptionError for an unknown name and lists the known ones."""
    if name not in PROTOCOLS:
        raise OptionError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of one picture."""

    psnr: float
    """In dB; infinite when the pictures are equal."""
    ssim: float


def score(restored: F32 | U16, truth: F32 | U16, protocol: Protocol) -> Scores:
    """Return PSNR and SSIM of a `(C, H, W)` picture; picture and truth are float in [0, 1] or uint16 in [0, 65535].

    C is any number of channels: 3 for sRGB, 4 for packed RAW. Sides must be 7 pixels or more, 11 with a
    Gaussian window. Raises ValueError when the shapes differ.
    """
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored and truth must have one shape, not {restored.shape} and {truth.shape}"
        )
    factor = illuminance_factor(restored, truth) if protocol.equalise else 1.0

    def compared(rows: slice) -> tuple[Pixels, Pixels]:
        ours, theirs = _unit(restored[:, rows]), _unit(truth[:, rows])
        return _steps(ours * np.float32(factor), protocol), _steps(theirs, protocol)

    height = truth.shape[1]
    squares = sum(_squares(*compared(rows)) for rows, _ in _strips(height, halo=0))
    halo = 5 if protocol.gaussian else 3
    similar = sum(own * _ssim(*compared(rows), protocol) for rows, own in _strips(height, halo))
    mean_square = squares / truth.size
    return Scores(
        psnr=10 * math.log10(255**2 / mean_square) if mean_square else math.inf,
        ssim=similar / (height - 2 * halo),
    )


def _strips(height: int, halo: int) -> Iterator[tuple[slice, int]]:
    """Yield overlapping slices of rows with a halo above and below, each with its number of rows without the halo."""
    for first in range(halo, height - halo, _STRIP_ROWS):
        last = min(first + _STRIP_ROWS, height - halo)
        yield slice(first - halo, last + halo), last - first


def illuminance_factor(restored: F32 | U16, truth: F32 | U16) -> float:
    """Return the factor s for which s * restored is nearest to the truth: least squares over unsaturated values.

    Wei et al., CVPR 2020, multiply each picture by it before comparing: one scalar for all channels.
    """
    aligned = energy = 0.0
    for first in range(0, truth.shape[1], _STRIP_ROWS):
        rows = slice(first, first + _STRIP_ROWS)
        ours, theirs = _unit(restored[:, rows]), _unit(truth[:, rows])
        valid = theirs != 1
        aligned += float(np.sum(ours * theirs, where=valid, dtype=np.float64))
        energy += float(np.sum(ours * ours, where=valid, dtype=np.float64))
    return aligned / energy if energy else 1.0


def _unit(values: F32 | U16) -> F32:
    if values.dtype == np.uint16:
        return values.astype(np.float32) / np.float32(65535)
    return np.clip(values, 0, 1).astype(np.float32, copy=False)


def _steps(unit: F32, protocol: Protocol) -> Pixels:
    scaled: F32 = np.clip(unit * np.float32(255), 0, 255)
    if protocol.steps == "keep":
        return scaled.astype(np.float64)
    return (np.rint(scaled) if protocol.steps == "round" else scaled).astype(np.uint8)


def _ssim(ours: Pixels, theirs: Pixels, protocol: Protocol) -> float:
    """Return the mean SSIM over a strip's own rows; the rows of its halo only fill SSIM's windows."""
    from skimage.metrics import structural_similarity  # not at the top: it loads scipy

    window = (
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        if protocol.gaussian
        else {"win_size": 7}
    )
    value = structural_similarity(  # type: ignore[no-untyped-call]
        ours, theirs, data_range=255, channel_axis=0, **window
    )
    return float(value)


def _squares(ours: Pixels, theirs: Pixels) -> float:
    return float(np.square(ours.astype(np.float64) - theirs).sum())
