"""Render the pages of all reports from jinja2 templates, and write them.

A page is one file: style, script and pictures are part of it, and it loads nothing from the network. Python
computes the values, templates/ contains the markup. The trade-off: charts are downsampled and pictures are
JPEG, so that a report has only megabytes and opens on a phone.
"""

from __future__ import annotations

import base64
import functools
import time
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from darkprep import __version__
from darkprep.shards.files import write_bytes

FILE = "report.html"
"""The page of a run or an evaluation, in its directory."""


def render_page(template: str, **values: object) -> str:
    """Fill `template` with `values` and return the page; every value is escaped."""
    made = time.strftime("%Y-%m-%d %H:%M")
    return _environment().get_template(template).render(version=__version__, made=made, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page atomically. Raises DiskFull or SpoolError."""
    # A run's name may be bytes that are no text, its files may hold half of a surrogate pair: they are
    # shown escaped, as on the command line.
    write_bytes(path, page.encode("utf-8", "backslashreplace"), sync=False)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("darkprep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["setting"] = _format_setting
    return environment


def _format_setting(value: object) -> str:
    """Return the value of an option as text for a reader."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
