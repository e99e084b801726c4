"""A white balance that is stated as a chromaticity gives the gains and the development of the same neutral colour."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.pipeline.raw.as_shot import _temperature, with_neutral
from darkprep.pipeline.raw.develop import develop, develop_amplified
from darkprep.pipeline.raw.dng import DngTags
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.tiff import Tiff
from darkprep.shards.errors import RawError

NEUTRAL = (0.5, 1.0, 0.625)
MATRIX = np.array(DngTags().color_matrix).reshape(3, 3)


def state_white_xy(path: Path, xy: tuple[float, float]) -> None:
    """Replace the entry AsShotNeutral of a DNG file by AsShotWhiteXY."""
    data = bytearray(path.read_bytes())
    entry = data.index(struct.pack("<HHI", 50728, 5, 3))
    (values,) = struct.unpack_from("<I", data, entry + 8)
    struct.pack_into("<HHI", data, entry, 50729, 5, 2)
    parts = (number for value in xy for number in (round(value * 10**9), 10**9))
    struct.pack_into("<4I", data, values, *parts)
    path.write_bytes(data)


def white_of(neutral: tuple[float, float, float]) -> tuple[float, float]:
    """The chromaticity of the light under which white has these camera colours."""
    x, y, z = np.linalg.inv(MATRIX) @ neutral
    return x / (x + y + z), y / (x + y + z)


def test_the_gains_and_the_development_are_those_of_the_neutral_colour(
    write_raw: Callable[..., Path],
):
    neutral, white = write_raw("neutral.dng"), write_raw("white.dng")
    state_white_xy(white, white_of(NEUTRAL))

    assert np.allclose(read_raw(white).white_balance, read_raw(neutral).white_balance, rtol=1e-6)
    assert np.array_equal(develop(white)[1], develop(neutral)[1])
    assert np.array_equal(develop_amplified(white, 3.0), develop_amplified(neutral, 3.0))


def test_two_matrices_are_interpolated_by_the_inverse_temperature():
    """At 2850 K the first matrix holds, at 6500 K the second, between them a mixture."""

    def gains(xy: tuple[float, float]) -> tuple[float, ...]:
        entries: list[tuple[int, Any]] = [
            (50721, [1.0, 0, 0, 0, 1, 0, 0, 0, 1]), (50722, [0.5, 0, 0, 0, 1, 0, 0, 0, 2]),
            (50729, xy), (50778, 17), (50779, 21),
        ]  # fmt: skip
        at = 8 + 2 + 12 * len(entries) + 4
        directory, values = struct.pack("<H", len(entries)), b""
        for code, value in entries:
            if isinstance(value, int):
                directory += struct.pack("<HHIHH", code, 3, 1, value, 0)
                continue
            directory += struct.pack("<HHII", code, 10, len(value), at + len(values))
            values += b"".join(struct.pack("<2i", round(one * 10**6), 10**6) for one in value)
        data = with_neutral(b"II*\0\x08\0\0\0" + directory + bytes(4) + values)
        tiff = Tiff(io.BytesIO(data))
        red, green, blue = tiff.numbers(tiff.first_directory(), 50728)
        assert max(red, green, blue) == 1
        return green / red, 1.0, green / blue

    def expected(xy: tuple[float, float], red: float, blue: float) -> tuple[float, ...]:
        (x, y) = xy
        return y / (red * x), 1.0, y / (blue * (1 - x - y))

    tungsten, daylight, between = (0.4476, 0.4074), (0.3000, 0.3100), (0.3750, 0.3750)
    assert gains(tungsten) == pytest.approx(expected(tungsten, 1.0, 1.0), rel=0.01)
    assert gains(daylight) == pytest.approx(expected(daylight, 0.5, 2.0), rel=1e-5)
    share = (1 / _temperature(*between) - 1 / 6500) / (1 / 2850 - 1 / 6500)
    assert 0.2 < share < 0.8
    mixed = expected(between, share + 0.5 * (1 - share), share + 2 * (1 - share))
    assert gains(between) == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("kelvin, xy", [(2856, (0.44757, 0.40745)), (6504, (0.31272, 0.32903))])
def test_the_temperature_of_standard_illuminants(kelvin: int, xy: tuple[float, float]):
    assert _temperature(*xy) == pytest.approx(kelvin, rel=0.005)


@pytest.mark.parametrize("xy", [(0.0, 0.3), (0.3, 0.0), (0.9, 0.9)])
def test_an_impossible_white_is_refused_with_the_remedy(
    write_raw: Callable[..., Path], xy: tuple[float, float]
):
    path = write_raw()
    state_white_xy(path, xy)

    with pytest.raises(RawError, match=r"no white balance.*; convert it"):
        read_raw(path)
