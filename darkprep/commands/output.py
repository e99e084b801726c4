"""Output that several commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from darkprep.commands.echo import echo
from darkprep.view.numbers import format_count, one_line

if TYPE_CHECKING:
    from darkprep.pipeline.pairs.table import Skipped

_MOST_LISTED = 20


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Print on stderr the files that could not be used, and their number."""
    for one in skipped[:_MOST_LISTED]:
        echo(one_line(f"skipped {one.path}: {one.reason}"), err=True)
    if len(skipped) > _MOST_LISTED:
        echo(f"and {len(skipped) - _MOST_LISTED} more", err=True)
    if skipped:
        echo(f"{format_count(len(skipped), 'file')} skipped", err=True)
