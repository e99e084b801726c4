"""A restored frame as a DNG file: the planes of a network as a mosaic, or its camera RGB as LinearRaw.

The trade-off: uncompressed 16-bit codes, which every RAW developer reads, so 12 megapixels take 24 MB as a mosaic and
73 MB as LinearRaw. The amplification is in the codes and not in BaselineExposure, which LibRaw, darktable and RawTherapee
ignore. There is no NoiseProfile: what noise is left is unknown.

Source: Adobe, "Digital Negative (DNG) Specification", version 1.4.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rawpy
import tifffile

from darkprep.pipeline.raw.colour import SRGB_TO_XYZ_LIBRAW, Colours
from darkprep.pipeline.raw.exif_block import (
    append_metadata,
    main_tags,
    rationals,
    reserved_tags,
    use_long_pointers,
)
from darkprep.pipeline.raw.libraw import single_openmp_thread, without_libraw_messages
from darkprep.pipeline.raw.photo_metadata import (
    ASCII,
    MAKE,
    MODEL,
    ORIENTATION,
    PhotoMetadata,
    short,
    text,
)
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import OptionError
from darkprep.shards.format import U16, CfaKind

U8 = npt.NDArray[np.uint8]

_BYTE, _SHORT, _LONG, _RATIONAL, _SRATIONAL = 1, 3, 4, 5, 10
_CFA, _LINEAR_RAW = 32803, 34892
_D65 = 21
_WHITE = 65535
_TIFF_ORIENTATION = {0: 1, 3: 3, 5: 8, 6: 6}
"""TIFF orientation of LibRaw's flip."""
_PICTURE_ONLY = {40961, 40962, 40963}
"""Exif's colour space and size, which are those of a picture."""

WhiteBalance = str | tuple[float, float, float]
"""`camera`, `auto`, or the gains of R, G, B."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoredFrame:
    """A restored frame with the colours and the metadata of its photograph."""

    pixels: U16
    """`(H, W)` a canonical mosaic, or `(H, W, 3)` camera RGB without white balance; 0 is black, 65535 is white."""
    cfa: CfaKind
    """Colour filter array of a mosaic; not used for camera RGB."""
    colours: Colours
    orientation: int
    """LibRaw's flip: 0, 3, 5 or 6."""
    metadata: PhotoMetadata
    software: str


def parse_white_balance(value: str) -> WhiteBalance:
    """Parse `camera`, `auto` or three positive numbers `R,G,B`. Raises OptionError."""
    if value in ("camera", "auto"):
        return value
    try:
        red, green, blue = (float(part) for part in value.split(","))
    except ValueError:
        red = green = blue = -1.0
    if not all(0 < gain < 1000 for gain in (red, green, blue)):
        raise OptionError(
            f"white-balance must be camera, auto or three positive numbers R,G,B, not {value!r}"
        )
    return red, green, blue


def restored_dng(frame: RestoredFrame, preview: U8) -> bytes:
    """Return the bytes of a DNG file. `preview` is a small sRGB picture `(h, w, 3)`, not rotated."""
    metadata = frame.metadata
    main = {
        MAKE: text("darkprep"),
        MODEL: text("unknown"),
        **metadata.main,
        ORIENTATION: short(_TIFF_ORIENTATION[frame.orientation]),
    }
    exif = {code: value for code, value in metadata.exif.items() if code not in _PICTURE_ONLY}
    kept = PhotoMetadata(main=main, exif=exif, gps=metadata.gps)
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder="<") as tiff:
        tiff.write(
            preview,
            photometric="rgb",
            subifds=1,
            subfiletype=1,
            software=frame.software,
            metadata=None,
            extratags=[*reserved_tags(kept), *_colour_tags(frame.colours, kept)],
        )
        tiff.write(
            frame.pixels,
            photometric=_CFA if frame.pixels.ndim == 2 else _LINEAR_RAW,
            planarconfig=None if frame.pixels.ndim == 2 else "contig",
            subfiletype=0,
            software=False,
            metadata=None,
            extratags=[(*tag, True) for tag in _raw_tags(frame)],
        )
    append_metadata(file, kept)
    use_long_pointers(file)
    return file.getvalue()


def develop_dng(dng: bytes, white_balance: WhiteBalance = "camera") -> U16:
    """Develop a restored DNG by LibRaw to `(H, W, 3)` uint16 sRGB, not rotated. Raises OptionError if LibRaw cannot."""
    chosen: dict[str, Any] = {"use_camera_wb": True}
    if white_balance == "auto":
        chosen = {"use_auto_wb": True}
    elif not isinstance(white_balance, str):
        red, green, blue = white_balance
        chosen = {"user_wb": [red, green, blue, green]}
    try:
        with (
            without_libraw_messages(),
            single_openmp_thread(),
            rawpy.imread(io.BytesIO(dng)) as raw,
        ):
            rgb = raw.postprocess(
                output_bps=16,
                user_flip=0,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
                user_sat=_WHITE,
                **chosen,
            )
    except (rawpy.LibRawError, RuntimeError) as error:
        raise OptionError(
            f"LibRaw cannot develop the restored frame ({error}); choose --format dng"
        ) from error
    return np.asarray(rgb, np.uint16)


def xyz_to_camera(colours: Colours) -> npt.NDArray[np.float64]:
    """Return DNG's ColorMatrix1 `(3, 3)`: XYZ (D65) to camera, with the as-shot white as the white of D65.

    LibRaw scales the rows itself, so its development is that of the photograph. The scale of a row, from which
    the light's colour temperature follows, is not known from the photograph's decoded matrix.
    """
    rows = np.linalg.inv(colours.to_srgb) @ np.linalg.inv(SRGB_TO_XYZ_LIBRAW)
    return np.asarray(rows / colours.gains[:, None])


def _colour_tags(colours: Colours, metadata: PhotoMetadata) -> list[tuple[Any, ...]]:
    """Return the tags of the first directory, except those that tifffile adds."""
    neutral = colours.gains.min() / colours.gains
    names = [metadata.main[code].data.rstrip(b"\0") for code in (MAKE, MODEL)]
    unique = b" ".join(names) + b"\0"
    tags: list[tuple[Any, ...]] = [
        (50706, _BYTE, 4, b"\x01\x04\x00\x00"),  # DNGVersion
        (50707, _BYTE, 4, b"\x01\x03\x00\x00"),  # DNGBackwardVersion
        (50708, ASCII, len(unique), unique),  # UniqueCameraModel
        (50721, _SRATIONAL, 9, rationals(xyz_to_camera(colours).ravel().tolist())),
        (50728, _RATIONAL, 3, rationals(neutral.tolist())),  # AsShotNeutral
        (50730, _SRATIONAL, 1, (0, 1)),  # BaselineExposure
        (50778, _SHORT, 1, _D65),  # CalibrationIlluminant1
    ]
    return [*main_tags(metadata), *((*tag, True) for tag in tags)]


def _raw_tags(frame: RestoredFrame) -> list[tuple[int, int, int, Any]]:
    """Return the tags of the directory of the codes, except those that tifffile adds."""
    height, width = frame.pixels.shape[:2]
    common: list[tuple[int, int, int, Any]] = [
        (50719, _LONG, 2, (0, 0)),  # DefaultCropOrigin
        (50720, _LONG, 2, (width, height)),
        (50829, _LONG, 4, (0, 0, height, width)),  # ActiveArea
    ]
    if frame.pixels.ndim == 3:
        return [
            *common,
            (50714, _RATIONAL, 3, (0, 1) * 3),
            (50717, _LONG, 3, (_WHITE,) * 3),
        ]
    rows = CANONICAL[frame.cfa]
    period = len(rows)
    return [
        *common,
        (33421, _SHORT, 2, (period, period)),
        (33422, _BYTE, period * period, bytes("RGB".index(c) for row in rows for c in row)),
        (50710, _BYTE, 3, b"\x00\x01\x02"),  # CFAPlaneColor
        (50711, _SHORT, 1, 1),  # CFALayout: rectangular
        (50713, _SHORT, 2, (1, 1)),
        (50714, _RATIONAL, 1, (0, 1)),
        (50717, _LONG, 1, _WHITE),
    ]
