"""Whole frames as the network sees them: packed short exposure, developed long exposure, amplification.

The trade-off: a frame is decoded each time it is asked for. Training keeps decoded frames in its
store (`frames.py`) and cuts crops; here are the two decodings it shares with evaluation, and the
whole frames that evaluation and restoration take.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from darkprep.pipeline.pairs.lmdb import WHITE as PATCH_WHITE
from darkprep.pipeline.pairs.lmdb import (
    develop_patch,
    is_patch,
    patch_colours,
    patch_header,
    patch_planes,
)
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.amplify import MAX_AMPLIFICATION, Amplification, estimate_amplification
from darkprep.pipeline.raw.colour import Colours, colours_of, match_colours, match_matrix
from darkprep.pipeline.raw.develop import Brightness, develop
from darkprep.pipeline.raw.frame import F32, RawFrame, RawHeader
from darkprep.pipeline.raw.mosaic import (
    PLANE_COLOURS,
    canonical_mosaic,
    canonical_origin,
    canonical_rgb,
    canonical_shape,
    pack,
    plane_black,
    plane_sites,
)
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.resample import XtransMode, sample_cfa, xtrans_to_rggb
from darkprep.shards.errors import OptionError, RawError
from darkprep.shards.format import U16, CfaKind, Sample, SampleMeta


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedShort:
    """A short exposure's canonical mosaic, packed, and what its codes mean."""

    planes: U16
    """`(C, h, w)` uint16 codes."""
    black: tuple[float, ...]
    """Black level in codes of each plane."""
    white: int
    header: RawHeader
    """What the file says of itself: exposure, ISO, camera, orientation, size before cropping."""
    white_balance: tuple[float, float, float, float]
    """As-shot gains of R, G1, B, G2, green 1."""
    camera_to_srgb: F32
    """`(3, 3)` matrix from white-balanced R, G, B to linear sRGB; zeros where none is known."""

    xtrans: XtransMode = "native"
    """What became of an X-Trans mosaic before it was packed."""

    @property
    def cfa(self) -> CfaKind:
        """Kind of colour filter array that the planes are packed from."""
        return sample_cfa(self.header.cfa, self.xtrans)

    @property
    def iso(self) -> float:
        """ISO, 0 where the file does not say."""
        return self.header.iso

    @property
    def exposure_s(self) -> float:
        """Exposure time in seconds, 0 where the file does not say."""
        return self.header.exposure_s


def decode_short(path: str | os.PathLike[str], *, xtrans: XtransMode = "native") -> DecodedShort:
    """Decodes a short exposure and packs it, an X-Trans mosaic as `xtrans` says.

    Also decodes a patch of ELD's LMDB files. Raises RawError as `read_raw` does.
    """
    if is_patch(path):
        return _decode_patch(Path(path))
    frame = read_raw(path)
    mosaic, black = canonical_mosaic(frame), plane_black(frame)
    if frame.cfa == "xtrans" and xtrans == "rggb":
        mosaic, black = xtrans_to_rggb(mosaic), _black_of_colours(black)
    elif frame.cfa == "xtrans" and xtrans == "plain":
        black = _black_of_sites(frame)
    return DecodedShort(
        planes=pack(mosaic, sample_cfa(frame.cfa, xtrans)),
        black=black,
        white=frame.white,
        header=frame.header(),
        white_balance=frame.white_balance,
        camera_to_srgb=frame.camera_to_srgb,
        xtrans=xtrans,
    )


def _decode_patch(path: Path) -> DecodedShort:
    colours = patch_colours(path)
    red, _, blue = (float(gain) for gain in colours.gains)
    return DecodedShort(
        planes=patch_planes(path),
        black=(0.0,) * 4,
        white=PATCH_WHITE,
        header=patch_header(path),
        white_balance=(red, 1.0, blue, 1.0),
        camera_to_srgb=colours.to_srgb.astype(np.float32),
    )


def _black_of_colours(black: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the black level of R, G, G, B planes that X-Trans's nine were resampled to."""
    of_colour = {
        letter: float(
            np.mean([black[i] for i, own in enumerate(PLANE_COLOURS["xtrans"]) if own == letter])
        )
        for letter in "RGB"
    }
    return tuple(of_colour[letter] for letter in PLANE_COLOURS["bayer"])


def _black_of_sites(frame: RawFrame) -> tuple[float, ...]:
    """Returns the mean black level of what each of four planes gathers, whatever its colours."""
    dy, dx = canonical_origin(frame.pattern)
    black = np.roll(frame.black, (-dy, -dx), axis=(0, 1))
    return tuple(float(black[y::2, x::2].mean()) for ((y, x),) in plane_sites("bayer"))


def decode_long(
    path: str | os.PathLike[str],
    *,
    like: DecodedShort | None = None,
    brightness: Brightness = "paper",
) -> U16:
    """Develops a long exposure and crops it as a canonical mosaic is cropped.

    Returns `(3, H, W)` uint16 sRGB. With `like`, its short exposure, the two are checked to show the
    same pixels. Raises RawError as `read_raw` does, and for a long exposure of another size or phase.
    """
    if is_patch(path):
        return develop_patch(Path(path))
    frame, rgb = develop(path, brightness=brightness)
    if like is not None:
        _refuse_other_geometry(frame, like.header)
    return canonical_rgb(rgb, canonical_origin(frame.pattern), canonical_shape(frame))


def whole_frame(
    root: str | os.PathLike[str],
    pair: Pair,
    *,
    amplification: Amplification = "ratio",
    multiplier: float = 1.0,
    xtrans: XtransMode = "native",
    match: Colours | None = None,
) -> Sample:
    """Decodes both exposures of a pair, found below `root`, as one sample of the whole frame.

    `xtrans` is how an X-Trans camera is fed to the network. With `match`, the short exposure is brought
    to those colours, as if that camera had taken it. `amplification` is "ratio" for the pair's exposure ratio, "estimate" for the paper's estimate with
    m = `multiplier`, or a factor. Raises RawError as `decode_short` and `decode_long` do, OptionError
    for an amplification that cannot work.
    """
    _check_amplification(amplification, multiplier)
    short = decode_short(Path(root) / pair.short, xtrans=xtrans)
    truth = decode_long(Path(root) / pair.long, like=short)
    meta = _meta(
        short,
        name=pair.id,
        camera=pair.camera,
        ratio=pair.ratio,
        amplification=_factor(short, pair.ratio, amplification, multiplier),
        source=_source_name(amplification),
    )
    return _matched(Sample(short.planes, truth, meta), short, match)


def lone_frame(
    path: str | os.PathLike[str],
    *,
    amplification: Literal["estimate"] | float = "estimate",
    multiplier: float = 1.0,
    xtrans: XtransMode = "native",
    match: Colours | None = None,
) -> tuple[Sample, RawHeader]:
    """Decodes a RAW file that has no long exposure, to be restored; `xtrans` and `match` as in `whole_frame`.

    Returns a sample whose `gt` has the shape `(3, 0, 0)` and whose ratio is 0 (unknown), and what
    the file says of itself. Raises RawError as `decode_short` does, OptionError for an
    amplification that cannot work.
    """
    _check_amplification(amplification, multiplier)
    short = decode_short(path, xtrans=xtrans)
    header = short.header
    meta = _meta(
        short,
        name=Path(path).stem,
        camera=header.model or header.make,
        ratio=0.0,
        amplification=_factor(short, 0.0, amplification, multiplier),
        source=_source_name(amplification),
    )
    sample = Sample(short.planes, np.empty((3, 0, 0), np.uint16), meta)
    return _matched(sample, short, match), header


def _matched(sample: Sample, short: DecodedShort, match: Colours | None) -> Sample:
    if match is None:
        return sample
    return match_colours(sample, match_matrix(colours_of(short, short.header.path), match))


def _factor(
    short: DecodedShort, ratio: float, amplification: Amplification, multiplier: float
) -> float:
    if amplification == "ratio":
        return ratio
    if amplification == "estimate":
        return estimate_amplification(short.planes, short.black, short.white, multiplier)
    return float(amplification)


def _source_name(amplification: Amplification) -> str:
    return amplification if isinstance(amplification, str) else "constant"


def _meta(
    short: DecodedShort,
    *,
    name: str,
    camera: str,
    ratio: float,
    amplification: float,
    source: str,
) -> SampleMeta:
    return SampleMeta(
        key=name,
        pair=name,
        camera=camera,
        cfa=short.cfa,
        origin=(0, 0),
        black=short.black,
        white=short.white,
        ratio=ratio,
        amplification=amplification,
        amplification_source=source,
        iso=short.iso,
    )


def _check_amplification(amplification: Amplification, multiplier: float) -> None:
    if not isinstance(amplification, str) and not 0 < amplification <= MAX_AMPLIFICATION:
        raise OptionError(
            f"amplification must be a positive number up to {MAX_AMPLIFICATION:g}, not {amplification}"
        )
    if not 0 < multiplier < float("inf"):
        raise OptionError(f"multiplier must be a positive number, not {multiplier}")
    if multiplier != 1 and amplification != "estimate":
        raise OptionError(
            f"multiplier goes with the amplification estimate, not with {amplification}"
        )


def _refuse_other_geometry(long: RawHeader, short: RawHeader) -> None:
    sizes = [f"{frame.height}x{frame.width} {'/'.join(frame.pattern)}" for frame in (long, short)]
    if sizes[0] != sizes[1]:
        raise RawError(
            long.path, f"is {sizes[0]}, but its short exposure {short.path} is {sizes[1]}"
        )
