"""What people type and read: sizes, counts without end, frame sizes, durations, lines."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

from shards.objects import StoreUrl

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


class Size(click.ParamType[int]):
    """`20GB`, `500MiB`, `1.5 GB`: a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; fails with the accepted spellings."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*", str(value))
        if not match or match[2].upper() not in _UNITS:
            self.fail(f"{value!r} is no size; write 20GB, 500MiB or a number of bytes", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


class CountOrInf(click.ParamType["int | None"]):
    """A positive whole number, or `inf` (None) for no end."""

    name = "n|inf"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """The number, None for `inf`."""
        if value is None or isinstance(value, int):
            return value
        if str(value).lower() == "inf":
            return None
        if not re.fullmatch(r"\d{1,18}", str(value)):
            self.fail(f"{value!r} is neither a whole number nor inf", param, ctx)
        return int(value)


class FrameSize(click.ParamType["tuple[int, int]"]):
    """`HxW` in pixels, rows first."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(rows, columns)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", str(value))
        if not match:
            self.fail(f"{value!r} is no frame size; write HxW, such as 2848x4256", param, ctx)
        return int(match[1]), int(match[2])


class Part(click.ParamType["tuple[int, int]"]):
    """`n/N`: part n, from 0, of N."""

    name = "n/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(n, N)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        if not match or int(match[1]) >= int(match[2]):
            self.fail(f"{value!r} is no part; write n/N with n from 0 to N - 1", param, ctx)
        return int(match[1]), int(match[2])


class SpoolPlace(click.ParamType["Path | StoreUrl"]):
    """A directory, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`."""

    name = "dir|url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | StoreUrl:
        """The place; raises OptionError for a URL that cannot be one, without repeating what may be secret."""
        if isinstance(value, Path | StoreUrl):
            return value
        return StoreUrl.parse(str(value)) if "://" in str(value) else Path(str(value))


SIZE, COUNT_OR_INF, FRAME_SIZE, PART = Size(), CountOrInf(), FrameSize(), Part()
SPOOL_PLACE = SpoolPlace()


def one_line(text: str) -> str:
    """`text` with what cannot be printed escaped: line ends, control characters, bytes that are no text."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def spelled_bytes(count: float) -> str:
    """`1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < (1000 if unit == "B" else 999.5):  # what rounds to 1000 is one of the next unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def spelled_seconds(seconds: float) -> str:
    """`12 s`, `3:05 min`, `2:15 h`, `?` when it is not known."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
