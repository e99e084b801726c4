"""Commands for looking: `report` of a run. Kept apart from cli.py, which has the commands that do work."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Make a page to look at from a run.")
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Make report.html in the directory RUN: curves, held-out pictures, the disk budget, configuration.

    Every training makes it at its end; this makes it of one that is at work or was killed.

    Example: darkprep report runs/2026-01-31T18-00-00
    """
    from darkprep.report import write_run_report

    click.echo(write_run_report(run))
