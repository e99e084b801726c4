"""Types of options: sizes, counts without end, frame sizes, parts of a plan, spools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from darkprep.shards.remote.object_store import StoreUrl

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


class SpoolLocation(click.ParamType["Path | StoreUrl"]):
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
SPOOL_LOCATION = SpoolLocation()
