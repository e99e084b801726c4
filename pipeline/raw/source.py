"""The Source protocol: one side of a pair, and its implementation for RAW files.

The trade-off: a source decodes its file at every call and keeps nothing, so that it needs no memory and can
be opened in any process; frames that are needed twice are stored (`produce/frame_store.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash

from darkprep.pipeline.raw.borders import Edition, Window
from darkprep.pipeline.raw.develop import Brightness, develop, develop_windows
from darkprep.pipeline.raw.exif import refuse_pipe, unreadable_reason
from darkprep.pipeline.raw.frame import F32, RawFrame, RawHeader
from darkprep.pipeline.raw.image_data import read_image_data
from darkprep.pipeline.raw.mosaic import (
    canonical_mosaic,
    canonical_origin,
    canonical_rgb,
    canonical_shape,
    pack,
    plane_black,
    plane_sites,
)
from darkprep.pipeline.raw.reader import open_raw, read_header, read_white_balance
from darkprep.pipeline.raw.resample import XtransMode, sample_cfa, xtrans_to_rggb
from darkprep.shards.cfa import PLANE_COLOURS, Site
from darkprep.shards.errors import RawError
from darkprep.shards.format import U16, CfaKind
from darkprep.shards.machine import raise_machine_error, with_retries

_FINGERPRINT_BYTES = 1 << 16


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedFrame:
    """A decoded exposure: its canonical mosaic as packed planes, with the levels and colours of its codes."""

    planes: U16
    """`(C, h, w)` uint16 codes."""
    black: tuple[float, ...]
    """Black level in codes of each plane."""
    white: int
    """Code at which a pixel counts as saturated."""
    header: RawHeader
    """Exposure, ISO, camera, orientation, and the size before cropping."""
    white_balance: tuple[float, float, float, float]
    """As-shot gains of R, G1, B, G2, green 1."""
    camera_to_srgb: F32
    """`(3, 3)` matrix from white-balanced R, G, B to linear sRGB; zeros if unknown."""
    xtrans: XtransMode = "native"
    """How an X-Trans mosaic was converted before it was packed."""

    @property
    def cfa(self) -> CfaKind:
        """The colour filter array of the packed planes, `bayer` or `xtrans`."""
        return sample_cfa(self.header.cfa, self.xtrans)

    @property
    def iso(self) -> float:
        """ISO; 0 if unknown."""
        return self.header.iso

    @property
    def exposure_s(self) -> float:
        """Exposure time in seconds; 0 if unknown."""
        return self.header.exposure_s


@dataclass(frozen=True, eq=False, kw_only=True)
class DevelopedCrops:
    """Crops of a developed exposure."""

    height: int
    """Number of rows of the whole canonical mosaic."""
    width: int
    crops: Sequence[U16]
    """`(3, size, size)` uint16 for each origin."""


class Source(Protocol):
    """One exposure that can be read: a RAW file, or a patch in an LMDB file.

    Every method raises RawError with the path and the reason if the exposure cannot be used.
    """

    @property
    def path(self) -> Path:
        """The path of the file, or the address of the patch."""

    def header(self) -> RawHeader:
        """Return size, CFA and camera without decoding pixels."""

    def white_balance(self) -> tuple[float, float, float, float] | None:
        """Return the as-shot gains of R, G1, B, G2, green 1, without decoding pixels; None if this cannot find them."""

    def decode(self, *, xtrans: XtransMode = "native") -> PackedFrame:
        """Decode and pack the canonical mosaic; an X-Trans mosaic is converted as `xtrans` requests."""

    def develop(self, *, linear: bool = False) -> U16:
        """Develop the canonical mosaic, pixel for pixel, to `(3, H, W)` uint16 sRGB, or with `linear` to camera RGB."""

    def develop_crops(
        self, origins: Sequence[Site], size: int, *, linear: bool = False
    ) -> DevelopedCrops:
        """Return square crops of `size` pixels of what `develop` returns, the top left of each at one of `origins`.

        For a source that need not be developed whole, this is faster.
        """

    def fingerprint(self) -> str:
        """Return a short text that changes when the content changes."""


@dataclass(frozen=True)
class RawFile:
    """A RAW file as a source."""

    path: Path
    edition: Edition = 2
    """How the sensor's borders are treated."""

    def header(self) -> RawHeader:
        """Return the header in less than a millisecond. Raises the errors of `read_header`."""
        return read_header(self.path, edition=self.edition)

    def white_balance(self) -> tuple[float, float, float, float] | None:
        """Return the as-shot gains of the header, or None. Raises MachineError."""
        return read_white_balance(self.path)

    def decode(self, *, xtrans: XtransMode = "native") -> PackedFrame:
        """Decode and pack the canonical mosaic. Raises the errors of `read_raw`."""
        with open_raw(self.path, edition=self.edition) as raw:
            return _packed(raw.measured_frame(), xtrans)

    def develop(self, *, brightness: Brightness = "paper", linear: bool = False) -> U16:
        """Develop the canonical mosaic to `(3, H, W)` uint16 sRGB, or camera RGB. Raises RawError as `read_raw`."""
        frame, rgb = develop(self.path, edition=self.edition, brightness=brightness, linear=linear)
        return canonical_rgb(rgb, canonical_origin(frame.pattern), canonical_shape(frame))

    def develop_crops(
        self,
        origins: Sequence[Site],
        size: int,
        *,
        brightness: Brightness = "paper",
        linear: bool = False,
    ) -> DevelopedCrops:
        """Return crops of what `develop` returns; a Bayer file is developed only where they are.

        Raises RawError as `read_raw`, also for a crop that is not in the canonical mosaic.
        """

        def windows(header: RawHeader) -> list[Window]:
            (top, left), (height, width) = canonical_origin(header.pattern), canonical_shape(header)
            if any(max(y + size - height, x + size - width) > 0 for y, x in origins):
                reason = (
                    f"decodes to {height}x{width}, which is too small for its crops; replace it"
                )
                raise RawError(str(self.path), reason)
            return [Window(top=top + y, left=left + x, height=size, width=size) for y, x in origins]

        header, parts = develop_windows(
            self.path, windows, edition=self.edition, brightness=brightness, linear=linear
        )
        height, width = canonical_shape(header)
        crops = [np.ascontiguousarray(part.transpose(2, 0, 1)) for part in parts]
        return DevelopedCrops(height=height, width=width, crops=crops)

    def fingerprint(self) -> str:
        """Return size and hash of the first and last 64 KiB, to detect a replaced or truncated file quickly.

        If the editions decode a file differently, its fingerprints differ too. So a plan of an older
        version, which records the older fingerprint, still decodes its files as before.
        """
        return with_retries(str(self.path), self._fingerprint_once)

    def _fingerprint_once(self) -> str:
        try:
            refuse_pipe(self.path)
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                head = file.read(_FINGERPRINT_BYTES)
                file.seek(max(0, size - _FINGERPRINT_BYTES))
                tail = file.read(_FINGERPRINT_BYTES)
                has_borders = self.edition > 1 and read_image_data(file).has_borders
        except OSError as error:
            raise_machine_error(str(self.path), error)
            raise RawError(str(self.path), unreadable_reason(error)) from error
        edition = f"-{self.edition}" if has_borders else ""
        return f"{size:x}-{xxhash.xxh3_64_hexdigest(head + tail)}{edition}"


def _packed(frame: RawFrame, xtrans: XtransMode) -> PackedFrame:
    mosaic, black = canonical_mosaic(frame), plane_black(frame)
    if frame.cfa == "xtrans" and xtrans == "rggb":
        mosaic, black = xtrans_to_rggb(mosaic), _rggb_black(black)
    elif frame.cfa == "xtrans" and xtrans == "plain":
        black = _plain_black(frame)
    return PackedFrame(
        planes=pack(mosaic, sample_cfa(frame.cfa, xtrans)),
        black=black,
        white=frame.white,
        header=frame.header(),
        white_balance=frame.white_balance,
        camera_to_srgb=frame.camera_to_srgb,
        xtrans=xtrans,
    )


def _rggb_black(black: tuple[float, ...]) -> tuple[float, ...]:
    """Return the black levels of the R, G, G, B planes to which an X-Trans mosaic was resampled."""
    of_colour = {
        letter: float(
            np.mean([black[i] for i, own in enumerate(PLANE_COLOURS["xtrans"]) if own == letter])
        )
        for letter in "RGB"
    }
    return tuple(of_colour[letter] for letter in PLANE_COLOURS["bayer"])


def _plain_black(frame: RawFrame) -> tuple[float, ...]:
    """Return for each of four planes the mean black level of the pixels it collects, regardless of their colours."""
    dy, dx = canonical_origin(frame.pattern)
    black = np.roll(frame.black, (-dy, -dx), axis=(0, 1))
    return tuple(float(black[y::2, x::2].mean()) for ((y, x),) in plane_sites("bayer"))
