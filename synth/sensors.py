"""Sensors of SID's and ELD's cameras, for writing synthetic files only: readers take all these values from each file.

The trade-off: one colour matrix per camera (daylight), although makers publish two, so that a synthetic
file is developed by plain linear algebra.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.pairs.cameras import CAMERAS, Camera
from darkprep.pipeline.raw.colour import SRGB_TO_XYZ
from darkprep.shards.cfa import CANONICAL, Rows
from darkprep.shards.errors import OptionError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """The sensor of one camera, as the camera's files describe it."""

    camera: str
    """Its name in `pairs/cameras.py`, which has the layout of its files."""
    make: str
    model: str
    height: int
    """Visible rows."""
    width: int
    """Visible columns."""
    margins: tuple[int, int]
    """Masked rows at the top and masked columns at the left."""
    xyz_to_camera: tuple[int, ...]
    """Adobe's daylight colour matrix, 3 x 3 row by row, times 10000."""

    @property
    def layout(self) -> Camera:
        """The camera's data set, folder and CFA."""
        return CAMERAS[self.camera]

    @property
    def cfa(self) -> Rows:
        """The CFA at the top left of the visible area; all these cameras have the canonical phase."""
        return CANONICAL[self.layout.cfa]

    @property
    def black(self) -> int:
        """Black level in codes, as in the camera's noise calibration."""
        return int(calibration_of(self.camera).black)

    @property
    def white(self) -> int:
        """White level in codes, as in the camera's noise calibration."""
        return calibration_of(self.camera).white

    @property
    def period(self) -> int:
        """Side in pixels of the square that the colour filter array repeats."""
        return len(self.cfa)

    @property
    def matrix(self) -> F64:
        """The matrix from XYZ (D65) to camera RGB, `(3, 3)`."""
        return np.array(self.xyz_to_camera, np.float64).reshape(3, 3) / 10000.0

    def balanced_from_srgb(self) -> F64:
        """Return the matrix from linear sRGB to camera RGB after white balance, `(3, 3)`. White stays white.

        The matrix is the inverse of what LibRaw applies: colour matrix times sRGB primaries, rows scaled to
        sum 1.
        """
        product = self.matrix @ SRGB_TO_XYZ
        return np.asarray(product / product.sum(axis=1, keepdims=True), np.float64)

    def neutral(self, kelvin: float) -> tuple[float, float, float]:
        """Return the camera RGB of white in light of a colour temperature, scaled so that the largest value is 1."""
        seen = self.matrix @ _white_xyz(kelvin)
        red, green, blue = (float(round(v, 6)) for v in seen / seen.max())
        return red, green, blue


def sensor_of(camera: str) -> Sensor:
    """Return the sensor of the camera with this name. Raises OptionError for other names and lists the valid ones."""
    try:
        return SENSORS[camera]
    except KeyError:
        known = ", ".join(SENSORS)
        raise OptionError(f"unknown camera {camera!r}; choose one of: {known}") from None


def _white_xyz(kelvin: float) -> F64:
    """Return XYZ (Y = 1) of a black body of 1667 to 25000 K (Kim et al. 2002, cubic spline)."""
    t = 1000.0 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return np.array([x / y, 1.0, (1.0 - x - y) / y])


_SONY = Sensor(
    camera="sony",
    make="SONY",
    model="ILCE-7SM2",
    height=2848,
    width=4256,
    margins=(0, 0),
    xyz_to_camera=(5838, -1430, -246, -3497, 11477, 2297, -748, 1885, 5778),
)
_ALL = (
    _SONY,
    Sensor(
        camera="fuji",
        make="FUJIFILM",
        model="X-T2",
        height=4032,
        width=6030,  # of 6032: whole periods of the array
        margins=(0, 0),
        xyz_to_camera=(11434, -4948, -1210, -3746, 12042, 1903, -666, 1479, 5235),
    ),
    replace(_SONY, camera="sonya7s2"),
    Sensor(
        camera="nikond850",
        make="NIKON CORPORATION",
        model="NIKON D850",
        height=5520,
        width=8288,
        margins=(0, 0),
        xyz_to_camera=(10405, -3755, -1270, -5461, 13787, 1793, -1040, 2015, 6785),
    ),
    Sensor(
        camera="canon70d",
        make="Canon",
        model="Canon EOS 70D",
        height=3670,
        width=5496,
        margins=(38, 72),
        xyz_to_camera=(7034, -804, -1014, -4420, 12564, 2058, -851, 1994, 5758),
    ),
    Sensor(
        camera="canon700d",
        make="Canon",
        model="Canon EOS 700D",
        height=3476,
        width=5208,
        margins=(52, 72),
        xyz_to_camera=(6602, -841, -939, -4472, 12458, 2247, -975, 2039, 6148),
    ),
    Sensor(
        camera="canon5d4",
        make="Canon",
        model="Canon EOS 5D Mark IV",
        height=4502,
        width=6744,
        margins=(42, 136),
        xyz_to_camera=(6446, -366, -864, -4436, 12204, 2513, -952, 2496, 6348),
    ),
)

SENSORS: dict[str, Sensor] = {sensor.camera: sensor for sensor in _ALL}
"""Every camera that synthetic files are made for, by name."""
