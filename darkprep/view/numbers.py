"""Format numbers and lines for readers: counts, bytes, durations, one line of text."""

from __future__ import annotations

import logging
import math


def one_line(text: str) -> str:
    """Return `text` with line ends, control characters and undecodable bytes escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def printable(text: str) -> str:
    """Return lines of text with everything escaped that is neither printable nor a line end or tab."""
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else one_line(letter) for letter in text
    )


class PrintableFormatter(logging.Formatter):
    """Formats a log record with control characters escaped; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log record."""
        return printable(super().format(record))


def format_count(count: float, noun: str) -> str:
    """Return a number with its noun, such as `1 shard` or `2,000 shards`."""
    return f"{count:,.0f} {noun}" if count == 1 else f"{count:,.0f} {noun}s"


def format_number(value: float) -> str:
    """Return a number with at least three significant digits: `1,903`, `12.5`, `0.0123`; `1e-05` below 0.0001."""
    if not math.isfinite(value) or abs(value) < 1e-4:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def format_bytes(count: float) -> str:
    """Return a size with its unit, such as `1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < (1000 if unit == "B" else 999.5):  # what rounds to 1000 is one of the next unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def format_duration(seconds: float) -> str:
    """Return a duration: `12 s`, `3:05 min`, `2:15 h`, `1,903:20 h`, or `?` if `seconds` is not finite."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60:,}:{minutes % 60:02d} h"
