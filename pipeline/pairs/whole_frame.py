"""Whole frames as samples: packed short exposure, long exposure in the form of the target, amplification.

The trade-off: a frame is decoded at every call. Training stores decoded frames and cuts crops (`produce/`);
whole frames are for evaluation and restoration.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.amplify import MAX_AMPLIFICATION, Amplification, estimate_amplification
from darkprep.pipeline.raw.colour import Colours, colours_of, match_colours, match_matrix
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.resample import XtransMode
from darkprep.pipeline.raw.source import PackedFrame
from darkprep.shards.errors import OptionError, RawError
from darkprep.shards.format import U16, Sample, SampleMeta, Target
from darkprep.shards.noise_level import NoiseLevel

Correction = Callable[[PackedFrame], PackedFrame]
"""Changes a decoded frame before it becomes a sample."""
NoiseOfFrame = Callable[[PackedFrame], NoiseLevel]
"""Returns the noise level of a decoded frame; may raise RawError."""


def whole_frame(
    root: str | os.PathLike[str],
    pair: Pair,
    *,
    amplification: Amplification = "ratio",
    multiplier: float = 1.0,
    xtrans: XtransMode = "native",
    match: Colours | None = None,
    target: Target = "srgb",
    correct: Correction | None = None,
    noise: NoiseOfFrame | None = None,
) -> Sample:
    """Decode both exposures of a pair, which are below `root`, to one sample of the whole frame.

    `amplification` is "ratio" for the pair's exposure ratio, "estimate" for the paper's estimate with m =
    `multiplier`, or a factor. `xtrans` is how an X-Trans camera is fed to the network. With `match`, the
    short exposure is converted to these colours, as if their camera had taken it. `correct` changes the decoded
    short exposure, such as by subtracting its dark shading. `noise` returns the noise level of the short exposure
    for the sample's field `noise`; it is that before the conversion to other colours.

    Returns `low` `(C, h, w)` uint16 codes and `gt` in the form of the `target`: `(3, H, W)` uint16 sRGB or
    camera RGB, or `(C, h, w)` uint16 codes. Raises RawError for a file that cannot be used or a pair with
    different sizes or phases, OptionError for an invalid amplification or multiplier.
    """
    _check_amplification(amplification, multiplier)
    short = _decoded(Path(root) / pair.short, xtrans, correct)
    long = open_source(Path(root) / pair.long)
    _check_same_geometry(long.header(), short.header)
    truth = long.decode(xtrans=xtrans) if target == "raw" else None
    return _sample(
        short,
        truth.planes if truth else long.develop(linear=target == "linear"),
        truth=truth,
        target=target,
        name=pair.id,
        camera=pair.camera,
        ratio=pair.ratio,
        amplification=amplification,
        multiplier=multiplier,
        match=match,
        noise=noise,
    )


def lone_frame(
    path: str | os.PathLike[str],
    *,
    amplification: Literal["estimate"] | float = "estimate",
    multiplier: float = 1.0,
    xtrans: XtransMode = "native",
    match: Colours | None = None,
) -> tuple[Sample, RawHeader]:
    """Decode a RAW file that has no long exposure, to be restored; arguments as for `whole_frame`.

    Returns a sample whose `gt` has the shape `(3, 0, 0)` and whose ratio is 0 (unknown), and the file's
    header. Raises RawError for a file that cannot be used, OptionError for an invalid amplification or
    multiplier.
    """
    short = open_source(path).decode(xtrans=xtrans)
    sample = lone_sample(short, amplification=amplification, multiplier=multiplier, match=match)
    return sample, short.header


def lone_sample(
    short: PackedFrame,
    *,
    amplification: Literal["estimate"] | float = "estimate",
    multiplier: float = 1.0,
    match: Colours | None = None,
    noise: NoiseOfFrame | None = None,
) -> Sample:
    """Return a decoded RAW file that has no long exposure as a sample; arguments and errors as for `whole_frame`."""
    _check_amplification(amplification, multiplier)
    return _sample(
        short,
        np.empty((3, 0, 0), np.uint16),
        name=Path(short.header.path).stem,
        camera=short.header.model or short.header.make,
        ratio=0.0,
        amplification=amplification,
        multiplier=multiplier,
        match=match,
        noise=noise,
    )


def _decoded(
    path: str | os.PathLike[str], xtrans: XtransMode, correct: Correction | None
) -> PackedFrame:
    frame = open_source(path).decode(xtrans=xtrans)
    return correct(frame) if correct else frame


def _sample(
    short: PackedFrame,
    gt: U16,
    *,
    name: str,
    camera: str,
    ratio: float,
    amplification: Amplification,
    multiplier: float,
    match: Colours | None,
    noise: NoiseOfFrame | None,
    truth: PackedFrame | None = None,
    target: Target = "srgb",
) -> Sample:
    meta = SampleMeta(
        key=name,
        pair=name,
        camera=camera,
        cfa=short.cfa,
        origin=(0, 0),
        black=short.black,
        white=short.white,
        ratio=ratio,
        amplification=_factor(short, ratio, amplification, multiplier),
        amplification_source=amplification if isinstance(amplification, str) else "constant",
        iso=short.iso,
        target=target,
        gt_black=truth.black if truth else (),
        gt_white=truth.white if truth else 0,
    )
    sample = Sample(short.planes, gt, meta, noise(short) if noise else None)
    if match is None:
        return sample
    return match_colours(sample, match_matrix(colours_of(short, short.header.path), match))


def _factor(
    short: PackedFrame, ratio: float, amplification: Amplification, multiplier: float
) -> float:
    if amplification == "ratio":
        return ratio
    if amplification == "estimate":
        return estimate_amplification(short.planes, short.black, short.white, multiplier)
    return float(amplification)


def _check_amplification(amplification: Amplification, multiplier: float) -> None:
    if not isinstance(amplification, str) and not 0 < amplification <= MAX_AMPLIFICATION:
        raise OptionError(
            f"amplification must be a positive number up to {MAX_AMPLIFICATION:g}, not {amplification}"
        )
    if not 0 < multiplier < float("inf"):
        raise OptionError(f"multiplier must be a positive number, not {multiplier}")
    if multiplier != 1 and amplification != "estimate":
        raise OptionError(
            f"multiplier can be used only with --amplify estimate, not with --amplify {amplification}; leave it out"
        )


def _check_same_geometry(long: RawHeader, short: RawHeader) -> None:
    sizes = [f"{frame.height}x{frame.width} {'/'.join(frame.pattern)}" for frame in (long, short)]
    if sizes[0] != sizes[1]:
        raise RawError(
            long.path,
            f"has size and pattern {sizes[0]}, but its short exposure {short.path} has {sizes[1]}; remove this pair",
        )
