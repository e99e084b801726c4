"""Decode one RAW file: its header, its mosaic, and the open file that develops it.

The trade-off: files that darkprep cannot align with certainty (LinearDNG, sRAW, monochrome, rotated
sensors, files without white balance) are refused with a reason instead of being developed incorrectly. A
camera's levels, phase and gains come from its files alone; there is no table of cameras.

Files are opened in `libraw_file.py`, the colour filter array is recognised in `filter_array.py`, the settings of the
development are in `develop.py`, and cropping to the canonical phase is in `mosaic.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import rawpy

from darkprep.pipeline.raw.blank import check_codes
from darkprep.pipeline.raw.borders import Edition, Window, measured_black, used_window
from darkprep.pipeline.raw.colour import SRGB_TO_XYZ_LIBRAW
from darkprep.pipeline.raw.exif import read_exposure
from darkprep.pipeline.raw.filter_array import LEAVE_OUT, filter_array, unpacked_indices
from darkprep.pipeline.raw.frame import F32, RawFrame, RawHeader, header_fields
from darkprep.pipeline.raw.image_data import DEFLATE, ImageData
from darkprep.pipeline.raw.libraw import (
    HeaderFacts,
    Indices,
    header_facts,
    single_openmp_thread,
)
from darkprep.pipeline.raw.libraw_file import (
    LIBRAW_ERRORS,
    compression_reason,
    error_text,
    image_data_of,
    open_header,
    open_in_memory,
)
from darkprep.pipeline.raw.mosaic import shifted
from darkprep.pipeline.raw.window import (
    WindowColours,
    develop_cells,
    develop_windows,
    middle_of,
    window_pixels,
)
from darkprep.shards.errors import RawError
from darkprep.shards.format import PERIOD, U16
from darkprep.shards.machine import raise_machine_error, with_retries

Result = TypeVar("Result")

_MIN_XTRANS_SIDE = 512
"""Side of the tiles that LibRaw's X-Trans demosaic works in; it refuses smaller frames."""
_NO_BORDERS = ImageData()
_MIN_OWN_MATRIX = 0.25
"""LibRaw's own test for a file that brings a colour matrix: the matrix's first number is above this."""


def read_raw(path: str | os.PathLike[str], *, edition: Edition = 2) -> RawFrame:
    """Decode one RAW file. Raises RawError with the reason if it cannot be used.

    Takes 0.06 s for 12 MP of uncompressed codes.
    """
    with open_raw(path, edition=edition) as raw:
        return owning(raw.measured_frame())


def owning(frame: RawFrame) -> RawFrame:
    """Return the frame with a copy of its mosaic, to be used after the file is closed."""
    return replace(frame, mosaic=frame.mosaic.copy())


def read_header(path: str | os.PathLike[str], *, edition: Edition = 2) -> RawHeader:
    """Return the header of a RAW file, in less than a millisecond, without decoding pixels.

    Raises RawError for a file that is truncated or has no supported mosaic. Other damage to image data is
    found only by `read_raw`.
    """
    name = os.fspath(path)
    return with_retries(name, lambda: _read_header_once(name, edition))


def read_white_balance(
    path: str | os.PathLike[str],
) -> tuple[float, float, float, float] | None:
    """Return the as-shot gains of R, G1, B, G2, green 1, of a RAW file's header, as `read_raw` returns them.

    Returns None if only the decoded file, or no file, has them.
    """
    facts = with_retries(os.fspath(path), lambda: header_facts(os.fspath(path)))
    return _gains(facts.white_balance) if facts else None


def _read_header_once(name: str, edition: Edition) -> RawHeader:
    with open_header(name) as raw:
        facts = header_facts(name)
        if facts is not None:
            if not facts.is_decodable:
                raise RawError(name, compression_reason(name))
            if image_data_of(name).compression in DEFLATE:
                open_in_memory(name).close()
            return _header(name, raw, facts.indices, _window(raw, _borders(name, edition)), facts)
    with open_in_memory(name) as raw:  # no C functions in this build of LibRaw
        window = _window(raw, _borders(name, edition))
        header = _header(name, raw, unpacked_indices(name, raw), window, None)
        return _with_libraw_exposure(header, raw)


class OpenRaw:
    """A RAW file opened by LibRaw: the decoded frame, and one development of it."""

    def __init__(self, raw: rawpy.RawPy, frame: RawFrame, borders: ImageData = _NO_BORDERS) -> None:
        self.frame = frame
        """With the whole-number black levels with which LibRaw develops. Its mosaic is LibRaw's memory: valid until the file is closed."""
        self.handle = raw
        self._borders = borders

    @property
    def _whole(self) -> tuple[int, int]:
        """Height and width of the visible area; the frame is smaller if the file states a crop."""
        if self._borders.crop is None:
            return self.frame.height, self.frame.width
        return self.handle.sizes.height, self.handle.sizes.width

    @property
    def _window(self) -> Window:
        return used_window(self._borders.crop, *self._whole)

    def measured_frame(self) -> RawFrame:
        """Return the frame; if its file gives the black level only in masked columns, it is measured from them.

        Its mosaic is valid until the file is closed.
        """
        if not self._borders.has_masked_black or self.frame.cfa != "bayer":
            return self.frame
        sizes = self.handle.sizes
        visible = Window(
            top=sizes.top_margin, left=sizes.left_margin, height=sizes.height, width=sizes.width
        )
        black = measured_black(self.handle.raw_image, visible, self.frame.black)
        return replace(self.frame, black=black)

    def replace_mosaic(self, mosaic: U16) -> None:
        """Replace the codes in memory by `mosaic`, `(H, W)` uint16, before the file is developed."""
        self.handle.raw_image_visible[self._window.slices] = mosaic

    def postprocess(self, *, half_size: bool = False, **settings: Any) -> U16:
        """Develop the file with rawpy's `settings`. Returns `(H, W, 3)` uint16, aligned with the frame's mosaic.

        With `half_size` the whole visible area is developed, to a pixel for each cell of 2 x 2 and without a demosaic.
        The result does not depend on the number of OpenMP threads. Raises RawError when LibRaw fails or
        returns a picture of another size than the mosaic.
        """
        path, shape = self.frame.path, self._whole
        if self.frame.cfa == "xtrans" and min(shape) < _MIN_XTRANS_SIDE:
            raise RawError(
                path,
                f"is smaller than the {_MIN_XTRANS_SIDE} pixels of LibRaw's X-Trans tile; {LEAVE_OUT}",
            )
        try:
            with single_openmp_thread():
                rgb = self.handle.postprocess(
                    output_bps=16, user_flip=0, half_size=half_size, **settings
                )
        except (MemoryError, *LIBRAW_ERRORS) as error:
            raise_machine_error(path, error)
            raise RawError(
                path, f"LibRaw cannot develop it ({error_text(error)}); {LEAVE_OUT}"
            ) from error
        if half_size:
            return np.asarray(rgb, np.uint16)
        if rgb.shape != (*shape, 3):
            raise RawError(
                path,
                f"develops to {_size_text(rgb.shape)} from a mosaic of {_size_text(shape)}: "
                f"rotated or stretched sensors are not supported; {LEAVE_OUT}",
            )
        return np.asarray(rgb[self._window.slices], np.uint16)

    def postprocess_windows(
        self, windows: Sequence[Window], settings: Mapping[str, Any]
    ) -> list[U16] | None:
        """Develop windows of the frame with rawpy's `settings` to what `postprocess` gives there.

        Returns `(h, w, 3)` uint16 for each window. Returns None if only the whole frame can be developed, or if the
        windows have more pixels than it. Call it before `postprocess`, which changes LibRaw's colour indices.
        """
        return self._on_windows(develop_windows, windows, settings)

    def windows_are_exact(
        self, windows: Sequence[Window], developed: Sequence[U16], settings: Mapping[str, Any]
    ) -> bool:
        """Return whether what `postprocess_windows` developed has the bits of `postprocess`, in a tenth of its time.

        Both develop cells of 2 x 2 to a pixel, which compares levels, full scale and colours. Then the middle of the
        first window is developed with less around it: its bits are the same if the demosaic reads no further than the
        margin. Call it before `postprocess`.
        """
        cells = self._on_windows(develop_cells, windows, settings)
        middle = middle_of(windows[0]) if windows else None
        again = self._on_windows(develop_windows, [middle], settings) if middle else None
        if cells is None or middle is None or again is None:
            return False
        top, left = middle.top - windows[0].top, middle.left - windows[0].left
        before = developed[0][top : top + middle.height, left : left + middle.width]
        if self.handle.num_colors != len("RGB") or not np.array_equal(before, again[0]):
            return False
        whole = self.postprocess(half_size=True, **settings)
        return all(np.array_equal(rgb, whole[region.slices]) for region, rgb in cells)

    def _on_windows(
        self,
        function: Callable[..., Result | None],
        windows: Sequence[Window],
        settings: Mapping[str, Any],
    ) -> Result | None:
        """Call `develop_windows` or `develop_cells` for windows of the frame; None if only the whole frame can be developed."""
        (height, width), top, left = self._whole, self._window.top, self._window.left
        moved = [
            replace(window, top=top + window.top, left=left + window.left) for window in windows
        ]
        if self.frame.cfa != "bayer" or window_pixels(moved, height, width) >= height * width:
            return None
        try:
            colours = WindowColours.from_file(self.frame.path, self.handle)
            if colours is None:
                return None
            return function(
                colours,
                self.handle.raw_image_visible,
                shifted(self.frame.pattern, -top, -left),
                np.roll(self.frame.black, (top, left), axis=(0, 1)),
                moved,
                {"user_wb": colours.gains, **settings, "use_camera_wb": False},
            )
        except (MemoryError, *LIBRAW_ERRORS) as error:
            raise_machine_error(self.frame.path, error)
            return None


@contextlib.contextmanager
def open_raw(path: str | os.PathLike[str], *, edition: Edition = 2) -> Iterator[OpenRaw]:
    """Open and decode a RAW file to develop it. Raises RawError if it cannot be used."""
    name = os.fspath(path)
    opened = with_retries(name, lambda: _decode(name, edition))
    with opened.handle:
        yield opened


def _decode(name: str, edition: Edition) -> OpenRaw:
    raw = open_in_memory(name)
    try:
        borders = _borders(name, edition)
        return OpenRaw(raw, _frame(name, raw, _window(raw, borders)), borders)
    except BaseException:
        raw.close()
        raise


def _size_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _borders(name: str, edition: Edition) -> ImageData:
    """Return what the file states about its borders; for edition 1, nothing of it is used."""
    if edition == 1:
        return _NO_BORDERS
    return image_data_of(name)


def _window(raw: rawpy.RawPy, borders: ImageData) -> Window:
    return used_window(borders.crop, raw.sizes.height, raw.sizes.width)


def _frame(path: str, raw: rawpy.RawPy, window: Window) -> RawFrame:
    """Collect all data of the frame before it is developed, because development changes LibRaw's colour indices."""
    indices = unpacked_indices(path, raw)
    header = _header(path, raw, indices, window, None)
    period = PERIOD[header.cfa]
    black = np.array(raw.black_level_per_channel, np.float32)[indices[:period, :period]]
    black = np.roll(black, (-window.top, -window.left), axis=(0, 1))
    mosaic = raw.raw_image_visible[window.slices]
    _check_levels(path, black, raw.white_level)
    check_codes(path, mosaic, black, raw.white_level)
    return RawFrame(
        **header_fields(_with_libraw_exposure(header, raw)),
        black=black,
        white=raw.white_level,
        white_balance=_white_balance(path, raw),
        camera_to_srgb=_camera_to_srgb(raw),
        mosaic=mosaic,
    )


def _header(
    path: str, raw: rawpy.RawPy, indices: Indices, window: Window, facts: HeaderFacts | None
) -> RawHeader:
    """Collect the metadata that LibRaw, `facts` included, and the Exif directory contain."""
    sizes = raw.sizes
    if not 0.99 < sizes.pixel_aspect < 1.01:
        raise RawError(path, f"has non-square pixels, which are not supported; {LEAVE_OUT}")
    cfa, pattern = filter_array(path, raw, indices)
    pattern = shifted(pattern, window.top, window.left)
    exif = read_exposure(path)
    named = facts if exif.model or facts else header_facts(path)
    return RawHeader(
        path=path,
        height=window.height,
        width=window.width,
        cfa=cfa,
        pattern=pattern,
        exposure_s=exif.exposure_s or (facts.exposure_s if facts else 0.0),
        iso=exif.iso or (facts.iso if facts else 0.0),
        make=exif.make if exif.model or not named else named.make,
        model=exif.model or (named.model if named else ""),
        orientation=sizes.flip,
    )


def _white_balance(path: str, raw: rawpy.RawPy) -> tuple[float, float, float, float]:
    gains = _gains(raw.camera_whitebalance)
    # If a file has no white balance, LibRaw silently measures one from the picture's content.
    if gains is None:
        raise RawError(
            path,
            "has no white balance that LibRaw can read (neither AsShotNeutral nor AsShotWhiteXY with a colour matrix); "
            "convert it with Adobe DNG Converter",
        )
    return gains


def _gains(multipliers: Sequence[float]) -> tuple[float, float, float, float] | None:
    """Return LibRaw's multipliers of R, G1, B, G2 divided by that of G1; None if it has not found them."""
    red, green, blue, green2 = map(float, multipliers)
    if not (red > 0 and green > 0 and blue > 0 and np.isfinite(red + green + blue)):
        return None
    return red / green, 1.0, blue / green, (green2 if green2 > 0 else green) / green


def _camera_to_srgb(raw: rawpy.RawPy) -> F32:
    """Return the matrix with which LibRaw develops: the file's own, else the one in LibRaw's table of cameras."""
    own = np.array(raw.color_matrix[:, :3], np.float32)
    if own[0, 0] > _MIN_OWN_MATRIX:
        return own
    table = np.array(raw.rgb_xyz_matrix[:3], np.float64)
    if not table.any():
        return np.zeros((3, 3), np.float32)
    product = table @ SRGB_TO_XYZ_LIBRAW
    return np.asarray(np.linalg.inv(product / product.sum(axis=1, keepdims=True)), np.float32)


def _with_libraw_exposure(header: RawHeader, raw: rawpy.RawPy) -> RawHeader:
    """Add exposure and ISO from LibRaw (32-bit floats) if the Exif directory has none."""
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


def _check_levels(path: str, black: F32, white: int) -> None:
    if not white > float(black.max()):
        raise RawError(
            path,
            f"has an invalid white level {white}, which is not above the black level {black.max():g}; copy it again from its source",
        )
