"""What people type and read."""

from __future__ import annotations

import click
import pytest
from hypothesis import given, strategies as st

from darkprep.commands.parameters import COUNT_OR_INF, FRAME_SIZE, SIZE
from darkprep.view.numbers import (
    format_bytes,
    format_count,
    format_duration,
    format_number,
    one_line,
)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("20GB", 20 * 10**9),
        ("500MiB", 500 * 2**20),
        ("1.5 GB", 1_500_000_000),
        ("7", 7),
        ("7B", 7),
        ("2tib", 2 * 2**40),
        (12, 12),
    ],
)
def test_sizes_read_as_people_write_them(typed, meant):
    assert SIZE.convert(typed, None, None) == meant


@pytest.mark.parametrize(
    "typed", ["", "GB", "-1GB", "1e9", "20 GBs", "1.GB", "nan", "20G B", "9" * 400]
)
def test_what_is_no_size_is_refused(typed):
    with pytest.raises(click.BadParameter, match="is not a valid size; write 20GB"):
        SIZE.convert(typed, None, None)


@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_no_size_becomes_negative_or_a_fraction(count, unit):
    size = SIZE.convert(f"{count}{unit}", None, None)

    assert isinstance(size, int)
    assert size >= count


def test_counts_are_whole_or_without_end():
    assert COUNT_OR_INF.convert("3", None, None) == 3
    assert COUNT_OR_INF.convert(3, None, None) == 3
    assert COUNT_OR_INF.convert("inf", None, None) is None
    assert COUNT_OR_INF.convert(None, None, None) is None
    for typed in ("-1", "1.5", "many", "", "²", "9" * 5000):
        with pytest.raises(
            click.BadParameter, match="neither a whole number of at least 1 nor inf"
        ):
            COUNT_OR_INF.convert(typed, None, None)


def test_frame_sizes_are_rows_by_columns():
    assert FRAME_SIZE.convert("2848x4256", None, None) == (2848, 4256)
    assert FRAME_SIZE.convert("96X128", None, None) == (96, 128)
    assert FRAME_SIZE.convert((4, 6), None, None) == (4, 6)
    for typed in ("96", "96x", "x96", "96x96x3", "-96x96", f"96x{'9' * 5000}"):
        with pytest.raises(click.BadParameter, match="write HxW"):
            FRAME_SIZE.convert(typed, None, None)


@pytest.mark.parametrize(
    ("count", "read"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (123_456, "123 kB"),
        (999_600, "1 MB"),
        (3.8e12, "3.80 TB"),
    ],
)
def test_bytes_are_written_with_a_unit(count, read):
    assert format_bytes(count) == read


@pytest.mark.parametrize(
    ("seconds", "read"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (59.6, "1:00 min"),
        (185, "3:05 min"),
        (8100, "2:15 h"),
        (1903.5 * 3600, "1,903:30 h"),
        (float("inf"), "?"),
    ],
)
def test_durations_are_written_with_a_unit(seconds, read):
    assert format_duration(seconds) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (0, "0"),
        (1903.4, "1,903"),
        (999.6, "1,000"),
        (12.5, "12.5"),
        (9.999, "10"),
        (-0.01234, "-0.0123"),
        (1e-5, "1e-05"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_written_without_an_exponent(value, read):
    assert format_number(value) == read


def test_counts_of_one_are_singular():
    assert format_count(1, "file") == "1 file"
    assert format_count(0, "file") == "0 files"
    assert format_count(2000, "file") == "2,000 files"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe  5 · 日本", "Größe  5 · 日本"),
        ("two\nlines\tand\x1b[2J", r"two\nlines\tand\x1b[2J"),
        ("\u2028\x85\r", r"\u2028\x85\r"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_a_line_stays_one_line(text, shown):
    assert one_line(text) == shown
    assert len(one_line(text).splitlines()) == 1
