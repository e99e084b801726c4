"""Types of option values: sizes, counts that may be infinite, frame sizes, parts of a plan, spools.

Each type raises click's usage error, which names the option and the form of its value.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

from darkprep.shards.remote.url import StoreUrl

PATH = click.Path(path_type=Path)

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


class Size(click.ParamType[int]):
    """A number of bytes, written as `20GB`, `500MiB` or `1.5 GB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*", str(value))
        if not match or match[2].upper() not in _UNITS:
            self.fail(
                f"{value!r} is not a valid size; write 20GB, 500MiB or a number of bytes",
                param,
                ctx,
            )
        return int(float(match[1]) * _UNITS[match[2].upper()])


class CountOrWord(click.ParamType["int | None"]):
    """A whole number, or a word such as `inf`, which is converted to None."""

    def __init__(self, word: str, *, smallest: int) -> None:
        self.name = f"n|{word}"
        self._word, self._smallest = word, smallest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number; None for the word."""
        if value is None or isinstance(value, int):
            return value
        if str(value).lower() == self._word:
            return None
        if not re.fullmatch(r"\d{1,18}", str(value)) or int(value) < self._smallest:
            self.fail(
                f"{value!r} is neither a whole number of at least {self._smallest} nor {self._word}",
                param,
                ctx,
            )
        return int(value)


class FiniteRange(click.FloatRange):
    """A number in a range; unlike click.FloatRange it refuses nan and inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class FrameSize(click.ParamType["tuple[int, int]"]):
    """A frame size `HxW` in pixels, rows first."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the size as (rows, columns)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", str(value))
        if not match:
            self.fail(
                f"{value!r} is not a valid frame size; write HxW, such as 2848x4256", param, ctx
            )
        return int(match[1]), int(match[2])


class Part(click.ParamType["tuple[int, int]"]):
    """A part of a plan, written as `n/N`: part n of N, counted from 0."""

    name = "n/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the part as (n, N)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        if not match or int(match[1]) >= int(match[2]):
            self.fail(
                f"{value!r} is not a valid part; write n/N with n from 0 to N - 1", param, ctx
            )
        return int(match[1]), int(match[2])


class SpoolLocation(click.ParamType["Path | StoreUrl"]):
    """A spool: a directory, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`."""

    name = "dir|url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | StoreUrl:
        """Return the directory or the URL. Raises OptionError for an invalid URL; its message contains no secrets."""
        if isinstance(value, Path | StoreUrl):
            return value
        return StoreUrl.parse(str(value)) if "://" in str(value) else Path(str(value))


SIZE, FRAME_SIZE, PART, SPOOL_LOCATION = Size(), FrameSize(), Part(), SpoolLocation()
COUNT_OR_INF = CountOrWord("inf", smallest=1)
COUNT_OR_AUTO = CountOrWord("auto", smallest=0)
