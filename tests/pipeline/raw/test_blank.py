"""Codes that a decoder made up after an early end are refused at every black level; photographs are not."""

from __future__ import annotations

import numpy as np
import pytest

from darkprep.pipeline.raw.blank import check_codes
from darkprep.shards.errors import RawError

SENSORS = [(0, 1023), (0, 4095), (15, 4095), (31, 1023), (128, 16383), (512, 16383)]
"""Black and white levels of 10, 12 and 14 bits."""


def photograph(black: int, white: int, *, light: float = 0.2) -> np.ndarray:
    """Return `(400, 300)` codes of an evenly lit surface with noise."""
    rng = np.random.default_rng(7)
    codes = rng.normal(black + light * (white - black), 0.004 * (white - black), (400, 300))
    return np.clip(np.rint(codes), 0, white).astype(np.uint16)


def check(mosaic: np.ndarray, black: int, white: int) -> None:
    check_codes("frame.raw", mosaic, np.full((2, 2), black, np.float32), white)


def fill_zero(mosaic: np.ndarray, first: int, end: int) -> None:
    mosaic[first:end] = 0


def fill_one_code(mosaic: np.ndarray, first: int, end: int) -> None:
    mosaic[first:end] = mosaic[0, 0]


def fill_last_row(mosaic: np.ndarray, first: int, end: int) -> None:
    mosaic[first:end] = mosaic[first - 1]


def fill_last_two_rows(mosaic: np.ndarray, first: int, end: int) -> None:
    mosaic[first:end] = np.tile(mosaic[first - 2 : first], ((end - first) // 2, 1))


@pytest.mark.parametrize("black, white", SENSORS)
@pytest.mark.parametrize("fill", [fill_zero, fill_one_code, fill_last_row, fill_last_two_rows])
@pytest.mark.parametrize("first, end", [(200, 400), (380, 400), (100, 120)])
def test_an_early_end_is_named(black, white, fill, first, end):
    mosaic = photograph(black, white)
    check(mosaic, black, white)
    fill(mosaic, first, end)

    with pytest.raises(RawError, match=r"is damaged; copy it again"):
        check(mosaic, black, white)


@pytest.mark.parametrize("black, white", SENSORS)
def test_an_overexposed_part_is_no_damage(black, white):
    mosaic = photograph(black, white)
    mosaic[250:] = white

    check(mosaic, black, white)


@pytest.mark.parametrize("white", [1023, 4095])
def test_a_dark_part_is_no_damage_where_black_is_zero(white):
    fade = np.concatenate([np.linspace(0.2, 0, 200), np.zeros(200)])
    mosaic = np.random.default_rng(3).poisson(fade[:, None] * 100, (400, 300)).astype(np.uint16)

    check(mosaic, 0, white)


def test_a_test_chart_is_no_damage():
    check(np.tile(np.array([[700, 900], [900, 800]], np.uint16), (50, 50)), 512, 16383)
