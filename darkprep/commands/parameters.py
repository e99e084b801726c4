"""Types of option values: sizes, counts that may be infinite, frame sizes, parts of a plan, spools.

Each raises click's usage error, which names the option and how to write its value.
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
    """`20GB`, `500MiB`, `1.5 GB`: a number of bytes."""

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
    """A whole number, or a word such as `inf` that means None."""

    def __init__(self, word: str, *, smallest: int) -> None:
        self.name = f"n|{word}"
        self._word, self._smallest = word, smallest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number, or None for the word."""
        if value is None or isinstance(value, int):
            return value
        if str(value).lower() == self._word:
            return None
        if not re.fullmatch(r"\d{1,18}", str(value)) or int(value) < self._smallest:
            self.fail(
                f"{value!r} is neither a whole number from {self._smallest} on nor {self._word}",
                param,
                ctx,
            )
        return int(value)


class FiniteRange(click.FloatRange):
    """click.FloatRange, which would let nan and inf pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class FrameSize(click.ParamType["tuple[int, int]"]):
    """`HxW` in pixels, rows first."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (rows, columns)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", str(value))
        if not match:
            self.fail(
                f"{value!r} is not a valid frame size; write HxW, such as 2848x4256", param, ctx
            )
        return int(match[1]), int(match[2])


class Part(click.ParamType["tuple[int, int]"]):
    """`n/N`: part n, from 0, of N."""

    name = "n/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (n, N)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        if not match or int(match[1]) >= int(match[2]):
            self.fail(
                f"{value!r} is not a valid part; write n/N with n from 0 to N - 1", param, ctx
            )
        return int(match[1]), int(match[2])


class SpoolLocation(click.ParamType["Path | StoreUrl"]):
    """A directory, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`."""

    name = "dir|url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | StoreUrl:
        """Return the directory or URL. Raises OptionError for an invalid URL, without repeating secrets in it."""
        if isinstance(value, Path | StoreUrl):
            return value
        return StoreUrl.parse(str(value)) if "://" in str(value) else Path(str(value))


SIZE, FRAME_SIZE, PART, SPOOL_LOCATION = Size(), FrameSize(), Part(), SpoolLocation()
COUNT_OR_INF = CountOrWord("inf", smallest=1)
COUNT_OR_AUTO = CountOrWord("auto", smallest=0)
