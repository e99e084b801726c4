"""One RAW file to its mosaic and to what the file says of it. The only importer of rawpy.

The trade-off: whatever darkprep cannot align with certainty (LinearDNG, sRAW, monochrome, rotated
sensors, files without white balance) is refused by name instead of developed somehow. A camera's
levels, phase and gains come from its files alone; no camera is known here.

Settings of the development are `develop.py`'s, cropping to one phase is `pack.py`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rawpy
import rawpy._rawpy

from darkprep.pipeline.raw.exif import pixels_end, read_exposure, why_unreadable
from darkprep.pipeline.raw.mosaic import canonical_origin
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import RawError
from darkprep.shards.format import PERIOD, U16, CfaKind

F32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_LIBRAW_ERRORS = (rawpy.LibRawError, OSError, RuntimeError, NotImplementedError)
"""What rawpy raises on bad files: its own errors have a base class, its helpers raise others."""
_NO_MOSAIC = "holds finished colours (LinearDNG, sRAW, Foveon), not a mosaic of single colours"


@dataclass(frozen=True, eq=False, kw_only=True)
class RawHeader:
    """What is known of a RAW file before its pixels are decoded."""

    path: str
    height: int
    """Rows of the visible area, as stored (never rotated)."""
    width: int
    cfa: CfaKind
    pattern: tuple[str, ...]
    """Filter colours at the top left of the visible area, one period: `("RG", "GB")`, or six rows
    of six. Both greens are G."""
    exposure_s: float
    """Exposure time in seconds; 0 where the file does not say."""
    iso: float
    """0 where the file does not say."""
    make: str
    model: str
    orientation: int
    """LibRaw's flip: how to turn the stored image upright. 0 none, 3 by 180 degrees, 5 and 6 by 90
    degrees counter-clockwise and clockwise. A restored picture is turned so; training data never."""

    def __post_init__(self) -> None:
        period = PERIOD[self.cfa]
        if len(self.pattern) != period or any(len(row) != period for row in self.pattern):
            raise ValueError(f"pattern {self.pattern} is not one period of a {self.cfa} array")


@dataclass(frozen=True, eq=False, kw_only=True)
class RawFrame(RawHeader):
    """One decoded RAW file: what it says of itself, and its mosaic."""

    black: F32
    """`(2, 2)` or `(6, 6)` black level in codes of each site of `pattern`. rawpy tells levels per
    colour only: of an X-Trans file with levels per site, this is their common part."""
    white: int
    """Code at which a pixel counts as saturated."""
    white_balance: tuple[float, float, float, float]
    """As-shot gains of R, G1, B, G2, green 1."""
    camera_to_srgb: F32
    """`(3, 3)` matrix from the camera's white-balanced R, G, B to linear sRGB, the one that development
    applies; zeros where neither the file nor LibRaw's table has one."""
    mosaic: U16
    """`(height, width)` uint16 codes of the visible area as the sensor gave them; owns its memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        period = PERIOD[self.cfa]
        if self.black.shape != (period, period):
            raise ValueError(f"black must be ({period}, {period}), not {self.black.shape}")
        if not self.white > float(self.black.max()):
            raise ValueError(f"white {self.white} must be above black {self.black.max()}")
        if self.mosaic.shape != (self.height, self.width) or self.mosaic.dtype != np.uint16:
            raise ValueError(f"mosaic must be ({self.height}, {self.width}) uint16")

    def header(self) -> RawHeader:
        """Returns what is known without the pixels."""
        return RawHeader(**_values(self, RawHeader))


def _values(header: RawHeader, kind: type[RawHeader]) -> dict[str, Any]:
    return {field.name: getattr(header, field.name) for field in fields(kind)}


def libraw_version() -> str:
    """The version of the LibRaw that decodes and develops here, as `0.22.2`."""
    return ".".join(map(str, rawpy.libraw_version))


def read_raw(path: str | os.PathLike[str]) -> RawFrame:
    """Decodes one RAW file. Raises RawError saying why a file cannot be used.

    0.06 s for 12 MP of uncompressed codes.
    """
    with open_raw(path) as raw:
        return raw.frame


def read_header(path: str | os.PathLike[str]) -> RawHeader:
    """Returns what a RAW file says of itself, in less than a millisecond: no pixel is decoded.

    Raises RawError for what is not a RAW file with a mosaic known here, or cut off. A damaged body,
    or a truncated one of compressed pixels, shows in `read_raw` only.
    """
    name = os.fspath(path)
    with _opened(name) as raw:
        indices = _header_indices(name)
        if indices is None:  # no C interface in this build of LibRaw
            _unpack(name, raw)
            indices = _frame_indices(name, raw)
        return _header(name, raw, indices)


_LEAST_XTRANS = 512
"""Side of the tiles that LibRaw's X-Trans demosaic works in; it refuses smaller frames."""


class OpenRaw:
    """A RAW file while LibRaw holds it: the decoded frame, and one development of it."""

    def __init__(self, raw: rawpy.RawPy, frame: RawFrame) -> None:
        self.frame = frame
        self._raw = raw

    def replace_mosaic(self, mosaic: U16) -> None:
        """Puts `mosaic`, `(H, W)` uint16 codes, in the place of the file's before it is developed."""
        self._raw.raw_image_visible[:] = mosaic

    def postprocess(self, **settings: Any) -> U16:
        """Develops with rawpy's `settings`. Returns `(H, W, 3)` uint16 aligned with the mosaic.

        The result does not depend on the number of OpenMP threads. Raises RawError when LibRaw
        fails or returns another geometry than the mosaic's.
        """
        path = self.frame.path
        if self.frame.cfa == "xtrans" and min(self.frame.mosaic.shape) < _LEAST_XTRANS:
            raise RawError(
                path, f"is smaller than the {_LEAST_XTRANS} pixels of LibRaw's X-Trans tile"
            )
        try:
            with _one_openmp_thread():
                rgb = self._raw.postprocess(output_bps=16, user_flip=0, **settings)
        except _LIBRAW_ERRORS as error:
            raise RawError(path, f"LibRaw cannot develop it ({_said(error)})") from error
        if rgb.shape != (*self.frame.mosaic.shape, 3):
            raise RawError(
                path,
                f"develops to {_by(rgb.shape)} from a mosaic of {_by(self.frame.mosaic.shape)}: "
                "a rotated or stretched sensor, which darkprep does not align",
            )
        return np.asarray(rgb, np.uint16)


@contextlib.contextmanager
def open_raw(path: str | os.PathLike[str]) -> Iterator[OpenRaw]:
    """Opens and decodes a RAW file for a development. Raises RawError saying why it cannot be used."""
    name = os.fspath(path)
    with _opened(name) as raw:
        _unpack(name, raw)
        yield OpenRaw(raw, _frame(name, raw))


def _opened(name: str) -> rawpy.RawPy:
    """Returns LibRaw's handle of a file whose header it has read."""
    try:
        size = Path(name).stat().st_size
        if not size:
            raise RawError(name, "is empty; copy it again from its source")
        with Path(name).open("rb") as file:
            source = name if _is_unicode(name) else io.BytesIO(file.read())
    except OSError as error:
        raise RawError(name, why_unreadable(error)) from error
    end = pixels_end(name)
    if end is not None and end > size:
        missing = f"{size:,} bytes of at least {end:,} are there"
        raise RawError(name, f"is truncated: {missing}; copy it again from its source")
    try:
        return rawpy.imread(source)
    except rawpy.LibRawFileUnsupportedError as error:
        raise RawError(name, "is not a RAW file that LibRaw knows") from error
    except _LIBRAW_ERRORS as error:
        raise RawError(name, f"is truncated, or no RAW file at all ({_said(error)})") from error


def _unpack(name: str, raw: rawpy.RawPy) -> None:
    """Decodes the pixels here, else the first property does and fails in a less definite place."""
    try:
        raw.unpack()
    except _LIBRAW_ERRORS as error:
        raise RawError(name, f"is damaged or truncated ({_said(error)})") from error


def _is_unicode(name: str) -> bool:
    """Tells whether a file name is valid Unicode; rawpy takes no other by name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _said(error: Exception) -> str:
    """Returns a foreign error's text on one line; LibRaw's come as bytes."""
    text = error.args[0] if error.args else type(error).__name__
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _frame(path: str, raw: rawpy.RawPy) -> RawFrame:
    """Gathers everything before the development, which changes LibRaw's colour indices."""
    indices = _frame_indices(path, raw)
    header = _header(path, raw, indices)
    period = PERIOD[header.cfa]
    black = np.array(raw.black_level_per_channel, np.float32)[indices[:period, :period]]
    mosaic = raw.raw_image_visible.copy()  # a view would dangle once the handle is closed
    _refuse_levels(path, black, raw.white_level)
    _refuse_blank(path, mosaic, black)
    return RawFrame(
        **_values(_with_exposure(header, raw), RawHeader),
        black=black,
        white=raw.white_level,
        white_balance=_white_balance(path, raw),
        camera_to_srgb=_camera_to_srgb(raw),
        mosaic=mosaic,
    )


def _header(path: str, raw: rawpy.RawPy, indices: Indices) -> RawHeader:
    """Gathers what LibRaw and the Exif directory tell without the pixels."""
    sizes = raw.sizes
    if not 0.99 < sizes.pixel_aspect < 1.01:
        raise RawError(path, "has pixels that are not square, which darkprep does not align")
    cfa, pattern = _pattern(path, raw, indices)
    exif = read_exposure(path)
    return RawHeader(
        path=path,
        height=sizes.height,
        width=sizes.width,
        cfa=cfa,
        pattern=pattern,
        exposure_s=exif.exposure_s,
        iso=exif.iso,
        make=exif.make,
        model=exif.model,
        orientation=sizes.flip,
    )


_LOOK = 12
"""Two periods of the largest array known here, so that a longer period shows."""


def _frame_indices(path: str, raw: rawpy.RawPy) -> Indices:
    """Returns `(12, 12)` colour indices at the top left of an unpacked file's visible area.

    rawpy's own raw_pattern reads out of bounds where X-Trans has margins of more than six pixels.
    """
    if raw.raw_type is not rawpy.RawType.Flat:
        raise RawError(path, _NO_MOSAIC)
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    return np.array(
        [[raw.raw_color(top + y, left + x) for x in range(_LOOK)] for y in range(_LOOK)]
    )


def _header_indices(path: str) -> Indices | None:
    """Returns the same from the file's header alone, or None where LibRaw cannot be asked.

    rawpy answers only after unpacking all pixels, LibRaw's C interface at once.
    """
    library = _libraw()
    if library is None or not (handle := ctypes.c_void_p(library.libraw_init(0))):
        return None
    try:
        if library.libraw_open_file(handle, os.fsencode(path)):
            return None
        colour = library.libraw_COLOR
        return np.array([[colour(handle, y, x) for x in range(_LOOK)] for y in range(_LOOK)])
    finally:
        library.libraw_close(handle)


@cache
def _libraw() -> ctypes.CDLL | None:
    """Returns LibRaw's C interface, sought down the dependencies of rawpy's extension."""
    library = ctypes.CDLL(rawpy._rawpy.__file__)
    try:
        library.libraw_init.restype = ctypes.c_void_p
        needed = library.libraw_open_file, library.libraw_COLOR, library.libraw_close
    except AttributeError:
        return None
    return library if all(needed) else None


def _pattern(path: str, raw: rawpy.RawPy, indices: Indices) -> tuple[CfaKind, tuple[str, ...]]:
    """Returns the kind of colour filter array and its letters; LibRaw's G2 counts as G."""
    names = raw.color_desc.decode("ascii", "replace")
    if raw.num_colors == 1:
        raise RawError(path, "is monochrome: there is no colour mosaic to restore")
    if indices.min() < 0 or indices.max() >= len(names):  # LibRaw's 6 stands for "no filter"
        raise RawError(path, _NO_MOSAIC)
    if set(names) - set("RGB"):
        raise RawError(path, f"has filters of the colours {names}; darkprep knows R, G and B")
    letters = np.array(list(names))[indices]
    for cfa, period in PERIOD.items():
        rows = tuple("".join(row) for row in letters[:period, :period])
        tiled = np.tile(letters[:period, :period], (12 // period, 12 // period))
        if np.array_equal(tiled, letters) and _is_known(rows, cfa):
            return cfa, rows
    raise RawError(path, "has a colour filter array that is neither Bayer nor X-Trans")


def _is_known(rows: tuple[str, ...], cfa: CfaKind) -> bool:
    try:
        canonical_origin(rows)
    except ValueError:
        return False
    return len(rows) == len(CANONICAL[cfa])


def _white_balance(path: str, raw: rawpy.RawPy) -> tuple[float, float, float, float]:
    red, green, blue, green2 = map(float, raw.camera_whitebalance)
    # Without a camera's balance LibRaw silently measures one from the picture's content.
    if not (red > 0 and green > 0 and blue > 0 and np.isfinite(red + green + blue)):
        raise RawError(path, "states no as-shot white balance, so it has no definite colours")
    return red / green, 1.0, blue / green, (green2 if green2 > 0 else green) / green


_SRGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""Linear sRGB to CIE XYZ (D65), as LibRaw rounds it."""
_LEAST_OWN_MATRIX = 0.25


def _camera_to_srgb(raw: rawpy.RawPy) -> F32:
    """Returns the matrix that LibRaw develops with: the file's own, else from its table of cameras."""
    own = np.array(raw.color_matrix[:, :3], np.float32)
    if own[0, 0] > _LEAST_OWN_MATRIX:  # LibRaw's own test for a file that brings one
        return own
    table = np.array(raw.rgb_xyz_matrix[:3], np.float64)
    if not table.any():
        return np.zeros((3, 3), np.float32)
    product = table @ _SRGB_TO_XYZ
    return np.asarray(np.linalg.inv(product / product.sum(axis=1, keepdims=True)), np.float32)


def _with_exposure(header: RawHeader, raw: rawpy.RawPy) -> RawHeader:
    """Fills in what the Exif directory did not say with LibRaw's answer (32-bit floats)."""
    if header.exposure_s > 0 and header.iso > 0:
        return header
    try:
        other = raw.other
    except (ValueError, OverflowError, OSError):  # it comes with a date that datetime cannot hold
        return header
    return replace(
        header,
        exposure_s=header.exposure_s or max(0.0, float(other.shutter_speed)),
        iso=header.iso or max(0.0, float(other.iso_speed)),
    )


def _refuse_levels(path: str, black: F32, white: int) -> None:
    if not white > float(black.max()):
        raise RawError(
            path, f"states a white level of {white} that is not above black {black.max():g}"
        )


_MOST_ZEROS = 0.01
_MOST_OF_ONE_VALUE = 0.999
_FAR_BLACK = 64
"""A black level that noise does not reach down from: 20 sigma for the noisiest camera known."""


def _refuse_blank(path: str, mosaic: U16, black: F32) -> None:
    """Refuses a mosaic of zeros or of one value: LibRaw decodes a hole in a file without an error."""
    zeros = 1 - np.count_nonzero(mosaic) / mosaic.size
    if zeros > _MOST_ZEROS and black.min() >= _FAR_BLACK:
        raise RawError(
            path,
            f"{zeros:.0%} of its pixels are 0 though black is {black.min():g}: its body is damaged",
        )
    some = mosaic[::17]  # an odd step, so that rows of both parities are looked at
    share = np.bincount(some.ravel()).max() / some.size
    if share > _MOST_OF_ONE_VALUE:
        raise RawError(
            path, f"{share:.1%} of its pixels have one value: its body is damaged or blank"
        )


@cache
def _openmp() -> tuple[tuple[Callable[[], int], Callable[[int], None]], ...]:
    """Returns get and set of the thread count of every OpenMP runtime that LibRaw may call.

    The symbols are looked up from rawpy's extension down its dependencies, which finds the runtime
    bundled in its wheel, and in the global scope, where another library (torch) may have put its
    own first. Empty when LibRaw was built without OpenMP.
    """
    found = {}
    for name in (rawpy._rawpy.__file__, None):
        library = ctypes.CDLL(name)
        with contextlib.suppress(AttributeError):
            get, put = library.omp_get_max_threads, library.omp_set_num_threads
            found[ctypes.cast(put, ctypes.c_void_p).value] = (get, put)
    return tuple(found.values())


@contextlib.contextmanager
def _one_openmp_thread() -> Iterator[None]:
    """Makes LibRaw develop with one thread, in the calling thread alone, and restores the count.

    LibRaw's X-Trans demosaic writes tiles in place while other threads read their borders, so with
    two threads its result differs from run to run (LibRaw issue #845).
    """
    before = [get() for get, _ in _openmp()]
    for _, put in _openmp():
        put(1)
    try:
        yield
    finally:
        for (_, put), count in zip(_openmp(), before, strict=True):
            put(count)
