"""The command `calibrate`: measure the noise of a camera from dark frames and flat fields."""

from __future__ import annotations

from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.parameters import PATH
from darkprep.view.live import Progress
from darkprep.view.numbers import one_line


@click.command(short_help="Measure the noise of your own camera.")
@click.option(
    "--darks", type=PATH, required=True, metavar="DIR",
    help="Directory of dark frames: RAW files taken with the lens covered, 16 or more for each ISO.",
)  # fmt: skip
@click.option(
    "--flats", type=PATH, metavar="DIR",
    help="Directory of flat fields: two frames of an evenly lit surface for each of several exposure times and for each ISO. Without them, the gain K is not measured.",
)  # fmt: skip
@click.option(
    "--out", type=PATH, required=True, metavar="FILE.json",
    help="File to write the calibration to; maps of the dark shading and a page with plots are written beside it.",
)  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def calibrate(*, darks: Path, flats: Path | None, out: Path, quiet: bool) -> None:
    """Measure read noise, row noise, colour bias and dark shading from dark frames, and the gain K from flat fields.

    Frames are grouped by the ISO in their Exif data; folders do not matter. The file can be given to build
    --noise, which then makes short exposures with the noise of this camera.

    Example: darkprep calibrate --darks darks --flats flats --out camera.json
    """
    from darkprep.jobs.calibrate import page_beside, summary_lines, write_camera_calibration

    with Progress(quiet=quiet) as progress:
        result = write_camera_calibration(darks, flats, out, progress.show)
    if quiet:
        return
    for line in summary_lines(result):
        echo(line)
    for warning in result.calibration.warnings:
        echo(one_line(f"warning: {warning}"), err=True)
    echo(f"wrote {out}; plots are in {page_beside(out)}")
