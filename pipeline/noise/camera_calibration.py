"""The calibration of a camera that its owner measured, and its file: JSON beside plain `.npy` maps.

The trade-off: the file holds parameters only, not the evidence from which they were estimated; plots are on the
page that is written with it. Nothing in it can execute, and every number is checked when it is read.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from darkprep.pipeline.noise.dark_shading import F32, ShadingMaps
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.noise.parameters import (
    IsoNoise,
    NoiseParameters,
    checked_number,
)
from darkprep.shards.decode import decode, short_repr
from darkprep.shards.errors import OptionError, first_line
from darkprep.shards.files import (
    open_regular_file,
    read_regular_file,
    replace_atomically,
    write_bytes,
)
from darkprep.shards.format import PERIOD, CfaKind

VERSION = 1
_MAX_BYTES = 4 << 20
_MAX_ISOS = 200
_MAX_SIDE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The system gain of one ISO. Raises ValueError, which names the invalid field."""

    value: float
    """K in codes per electron."""
    error: float
    """Standard error of `value`."""
    channels: tuple[float, float, float]
    """K of red, green and blue alone."""
    pairs: int
    """Pairs of flat fields; 0 if K was taken from other ISO values, in proportion to ISO."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        if min(self.value, *self.channels) <= 0:
            raise ValueError("`value` and all numbers in `channels` must be positive")


@dataclass(frozen=True, kw_only=True)
class ReadNoise:
    """The read noise of one ISO, by pixel, without row noise. Raises ValueError, which names the invalid field."""

    shape: float
    """Tukey lambda."""
    scale: float
    """In codes."""
    std: float
    """Standard deviation in codes, without quantisation."""
    r2_tukey: float
    """Squared correlation of the probability plot with Tukey's lambda distribution."""
    r2_normal: float
    """The same with a normal distribution, which fits better if this is larger."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        if not (abs(self.shape) < 0.5 and self.scale >= 0 and self.std >= 0):
            raise ValueError("shape must be between -0.5 and 0.5, and scale and std not negative")


@dataclass(frozen=True, kw_only=True)
class IsoCalibration:
    """Everything that was measured at one ISO; standard deviations and biases in codes. Raises ValueError, which names the invalid field."""

    iso: float
    exposure_s: float
    """Exposure time of the dark frames; 0 if unknown."""
    darks: int
    """Number of dark frames."""
    gain: Gain | None
    """None without flat fields."""
    read: ReadNoise
    row_sigma: float
    row_error: float
    column_sigma: float
    fixed_column_sigma: float
    fixed_pixel_sigma: float
    colour_bias: tuple[float, float, float, float]
    """Mean of the dark frames above the file's black level: R, G (in the rows of R), B, G (in the rows of B)."""
    step: int
    """Difference between neighbouring codes."""
    is_clipped: bool = False
    """Whether the camera cuts off noise below black: then only the scale of the read noise is known."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        for name in ("iso", "exposure_s", "darks", "row_sigma", "row_error", "column_sigma", "fixed_column_sigma", "fixed_pixel_sigma", "step"):  # fmt: skip
            checked_number(name, getattr(self, name), low=0)


@dataclass(frozen=True, kw_only=True)
class JointFit:
    """log(sigma) = slope * log(K) + intercept + normal(0, spread) over the ISO values of one gain mode, in codes."""

    slope: float
    intercept: float
    spread: float

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class GainMode:
    """The ISO values between which the sensor's amplifier does not switch. Raises ValueError, which names the invalid field."""

    lowest: float
    highest: float
    read: JointFit | None = None
    """Of the read noise's scale; None with fewer than two ISO values or without K."""
    row: JointFit | None = None
    shading: str | None = None
    """Beginning of the names of the files of the dark shading; None if there are none."""
    checksums: tuple[str, str] = ("", "")
    """Checksums of the shading's slope and offset."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.lowest <= 0:
            raise ValueError("`lowest`, the lowest ISO of a mode, must be positive")
        name = self.shading
        if name is not None and (Path(name).name != name or not name.isprintable()):
            raise ValueError("shading must be a file name")


@dataclass(frozen=True, kw_only=True)
class CameraCalibration:
    """The noise of one camera at several ISO values. Raises ValueError, which names the invalid field."""

    camera: str
    """Maker and model as the files state them."""
    cfa: CfaKind
    height: int
    """Rows of the canonical mosaic."""
    width: int
    black: float
    """Black level in codes, mean of the sites."""
    white: int
    isos: tuple[IsoCalibration, ...]
    """In ascending order of ISO."""
    modes: tuple[GainMode, ...]
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.cfa not in PERIOD:
            raise ValueError(f"cfa must be one of {', '.join(PERIOD)}")
        if not (0 < self.height < _MAX_SIDE and 0 < self.width < _MAX_SIDE):
            raise ValueError(f"height and width must be 1 to {_MAX_SIDE - 1}")
        if not 0 <= self.black < self.white <= 65535:
            raise ValueError("black and white need 0 <= black < white <= 65535")
        values = [one.iso for one in self.isos]
        if not 0 < len(values) <= _MAX_ISOS or sorted(set(values)) != values or values[0] <= 0:
            raise ValueError(
                f"isos must be a list of 1 to {_MAX_ISOS} positive values in ascending order"
            )
        if not self.modes or not all(self._of_mode(mode) for mode in self.modes):
            raise ValueError(
                "modes (ranges of ISO with the same conversion gain) must not be empty"
            )
        if sum(len(self._of_mode(mode)) for mode in self.modes) != len(values):
            raise ValueError(
                "modes (ranges of ISO with the same conversion gain) must cover each ISO once"
            )

    def _of_mode(self, mode: GainMode) -> list[IsoCalibration]:
        return [one for one in self.isos if mode.lowest <= one.iso <= mode.highest]

    def noise_table(self, where: str) -> IsoTable:
        """Return the parameters for simulating noise. Raises OptionError, which names the file `where`, if some are missing."""
        clipped = [one.iso for one in self.isos if one.is_clipped]
        if clipped:
            raise OptionError(
                f"{where}: {self.camera} cuts off noise below black at ISO {clipped[0]:g}, so its noise cannot be simulated from a calibration; give the directory of its dark frames to --noise instead"
            )
        missing = [one.iso for one in self.isos if one.gain is None]
        if missing:
            raise OptionError(
                f"{where}: has no gain K at ISO {missing[0]:g}; calibrate with --flats too, or give the directory of the dark frames to --noise, which needs no K"
            )
        modes = tuple(
            tuple(IsoNoise(iso=one.iso, parameters=_parameters(one)) for one in self._of_mode(mode))
            for mode in self.modes
        )
        return IsoTable(
            black=self.black,
            white=self.white,
            modes=modes,
            drawn_isos=(self.isos[0].iso, self.isos[-1].iso),
        )


def _check_sizes(record: Any) -> None:
    """Raise ValueError, which names the field, if a number of a dataclass, or of a list in it, is larger than LARGEST."""
    for one in fields(record):
        value = getattr(record, one.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                checked_number(one.name, float(number))


def _parameters(one: IsoCalibration) -> NoiseParameters:
    assert one.gain is not None, "checked by the caller"
    return NoiseParameters(
        gain=one.gain.value,
        read_shape=one.read.shape,
        read_scale=one.read.scale,
        row_sigma=one.row_sigma,
        colour_bias=one.colour_bias,
    )


# -- the file -----------------------------------------------------------------------------------------


def write_calibration(path: Path, calibration: CameraCalibration) -> None:
    """Write the JSON file. Raises DiskFull or SpoolError."""
    record = {"format": "darkprep camera calibration", "version": VERSION, **asdict(calibration)}
    write_bytes(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(), sync=False)


def read_calibration(path: Path) -> CameraCalibration:
    """Read the JSON file. Raises OptionError, which names the file and what is invalid in it."""
    return read_identified(path)[0]


def read_identified(path: Path) -> tuple[CameraCalibration, str]:
    """Read the JSON file; return also the 16 hex digits that identify its content. Raises the errors of read_calibration."""
    data = _content(path)
    return parse_calibration(path, data), xxhash.xxh3_64_hexdigest(data)


def _content(path: Path) -> bytes:
    try:
        data = read_regular_file(path, _MAX_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) > _MAX_BYTES:
        raise OptionError(
            f"{path}: is not a calibration, since it is larger than {_MAX_BYTES >> 20} MiB; write one with `darkprep calibrate`"
        )
    return data


def parse_calibration(path: Path, data: bytes) -> CameraCalibration:
    """Parse the content of the JSON file at `path`. Raises OptionError, which names the file and what is invalid in it."""
    try:
        record = json.loads(data)
        version = record.pop("version")
        if record.pop("format") != "darkprep camera calibration":
            raise ValueError("its field `format` is not 'darkprep camera calibration'")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise OptionError(
            f"{path}: is not a calibration ({error}); write one with `darkprep calibrate`"
        ) from error
    if type(version) is not int or version != VERSION:
        raise OptionError(
            f"{path}: has version {short_repr(version)}, but this darkprep reads {VERSION}; calibrate again"
        )
    try:
        for name in ("height", "width", "black", "white"):
            checked_number(name, record.get(name))
        return decode(CameraCalibration, record, strict=True)
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"{path}: is damaged ({error}); write it again with `darkprep calibrate`"
        ) from error


# -- maps ---------------------------------------------------------------------------------------------


def write_shading(path: Path, number: int, maps: ShadingMaps) -> tuple[str, tuple[str, str]]:
    """Write slope and offset of gain mode `number` beside the JSON file `path`; return the names' beginning and checksums.

    Raises DiskFull or SpoolError.
    """
    stem = f"{path.stem}-shading-{number}"
    sums = []
    for kind, values in (("slope", maps.slope), ("offset", maps.offset)):
        replace_atomically(
            path.with_name(f"{stem}-{kind}.npy"),
            lambda file, values=values: np.lib.format.write_array(file, values, allow_pickle=False),  # type: ignore[misc]
            sync=False,
            wanted=values.nbytes,
        )
        sums.append(_checksum(values))
    return stem, (sums[0], sums[1])


def read_shading(path: Path, calibration: CameraCalibration, iso: float) -> F32 | None:
    """Return the dark shading at an ISO, `(H, W)` codes; None if the calibration has none for its gain mode.

    `path` is the JSON file, beside which the maps lie. Raises OptionError for a map that is missing or differs
    from the calibration.
    """
    mode = min(
        calibration.modes,
        key=lambda one: (
            0.0
            if one.lowest <= iso <= one.highest
            else min(abs(math.log(iso / one.lowest)), abs(math.log(iso / one.highest)))
        ),
    )
    if mode.shading is None:
        return None
    slope, offset = (
        _read_map(path.with_name(f"{mode.shading}-{kind}.npy"), calibration, checksum)
        for kind, checksum in zip(("slope", "offset"), mode.checksums, strict=True)
    )
    return ShadingMaps(isos=(mode.lowest, mode.highest), slope=slope, offset=offset).at(iso)


def _read_map(path: Path, calibration: CameraCalibration, checksum: str) -> F32:
    """Read a map. Its header is compared, not parsed, so nothing in it decides how much memory is allocated."""
    wanted = (calibration.height, calibration.width)
    header = _map_header(wanted)
    try:
        with open(path, "rb", opener=open_regular_file) as file:
            data = file.read(len(header) + 4 * math.prod(wanted))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{path}: cannot be read ({first_line(error)}); write it again with `darkprep calibrate`"
        ) from error
    if not data.startswith(header) or len(data) < len(header) + 4 * math.prod(wanted):
        raise OptionError(
            f"{path}: is not a map of {wanted[0]}x{wanted[1]} float32 values; write it again with `darkprep calibrate`"
        )
    values = np.frombuffer(data, np.float32, offset=len(header)).reshape(wanted)
    if _checksum(values) != checksum:
        raise OptionError(
            f"{path}: is damaged (its checksum differs); write it again with `darkprep calibrate`"
        )
    return values


def _map_header(shape: tuple[int, int]) -> bytes:
    """Return the bytes before the pixels in the `.npy` file of a map."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _checksum(values: F32) -> str:
    return f"xxh3:{xxhash.xxh3_64_hexdigest(np.ascontiguousarray(values).data)}"
