"""The command `restore`: RAW files to pictures, one line for each."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import (
    dark_shading_option,
    device_option,
    match_root_option,
    model_option,
    multiplier_option,
    noise_map_option,
    precision_option,
    restore_match_option,
    weights_option,
    xtrans_option,
)
from darkprep.commands.parameters import PATH
from darkprep.commands.torch_setup import prepare_torch
from darkprep.trainer.config import Precision
from darkprep.view.live import Progress
from darkprep.view.numbers import format_count, format_duration, one_line

if TYPE_CHECKING:
    from darkprep.jobs.restore_files import PlannedFile
    from darkprep.trainer.restoration import RestoreResult

_BAR_WIDTH = 30


@click.command(short_help="Restore dark RAW files to pictures.")
@click.argument("raw", nargs=-1, required=True, type=PATH)
@weights_option
@model_option
@click.option(
    "--recursive", is_flag=True, help="Also restore the RAW files in subfolders of a folder RAW."
)
@click.option(
    "--amplify", default="estimate", show_default=True, metavar="estimate|FACTOR[,FACTOR...]",
    help="Amplify by a factor estimated from the brightness as in REDIRT (estimate), or by a constant FACTOR such as 100. "
    "Several factors, such as 50,100,200, give a picture each.",
)  # fmt: skip
@multiplier_option
@xtrans_option
@restore_match_option
@dark_shading_option
@noise_map_option
@match_root_option
@click.option(
    "--out", type=PATH, default=Path("restored"), show_default=True, metavar="DIR",
    help="Directory for the pictures.",
)  # fmt: skip
@click.option(
    "--existing", type=click.Choice(("skip", "replace", "rename")), default="skip", show_default=True,
    help="What to do where a picture exists already: keep it and skip the file, replace it, or write the new one under another name.",
)  # fmt: skip
@click.option(
    "--format", type=click.Choice(("png", "jpeg", "tiff", "dng")), default="png", show_default=True,
    help="File format of the pictures; dng for weights that were trained with --target raw or linear.",
)  # fmt: skip
@click.option(
    "--bits", type=click.Choice(("8", "16")), default="8", show_default=True,
    help="Bits per colour; 16 is possible only with png and tiff.",
)  # fmt: skip
@click.option(
    "--quality", type=click.IntRange(1, 100), metavar="N", show_default="92",
    help="Quality of JPEG files, 1 to 100.",
)  # fmt: skip
@click.option(
    "--white-balance", metavar="camera|auto|R,G,B", show_default="camera",
    help="White balance of pictures by weights that were trained with --target raw or linear: the file's (camera), measured by LibRaw (auto), or gains of R, G, B.",
)  # fmt: skip
@click.option(
    "--metadata", type=click.Choice(("all", "no-position", "none")), default="all", show_default=True,
    help="Which metadata of the photograph the pictures keep: date, exposure, lens, author and position (all), or all but the position.",
)  # fmt: skip
@click.option(
    "--preview", is_flag=True,
    help="Also write contact-sheet.jpg: all pictures, small, with name and amplification.",
)  # fmt: skip
@device_option
@precision_option
def restore(
    *,
    raw: tuple[Path, ...],
    weights: Path,
    model: str | None,
    recursive: bool,
    amplify: str,
    multiplier: float | None,
    xtrans: str,
    match_colour: str | None,
    dark_shading: Path | None,
    noise_map: str | None,
    root: Path,
    out: Path,
    existing: str,
    format: str,
    bits: str,
    quality: int | None,
    white_balance: str | None,
    metadata: str,
    preview: bool,
    device: str,
    precision: Precision,
) -> int:
    """Restore dark RAW files, or folders of them, to pictures; a file that fails is reported, and the others are still restored.

    The exit status is 1 if any file failed. Pictures that exist already are kept, unless --existing states otherwise.

    Example: darkprep restore night --recursive --weights runs/X/weights.safetensors --format jpeg
    """
    prepare_torch()
    from darkprep.jobs.contact_sheet import ContactSheet
    from darkprep.jobs.decoding import DecodingOptions
    from darkprep.jobs.picture_files import DEFAULT_QUALITY, PictureFormat
    from darkprep.jobs.restore import RestoreOptions, restoration

    if quality is not None and format != "jpeg":
        raise click.UsageError("--quality can be used only with --format jpeg; leave it out")
    factors = tuple(dict.fromkeys(part.strip() for part in amplify.split(",")))
    options = RestoreOptions(
        raw=raw,
        weights=weights,
        model=model,
        out=out,
        recursive=recursive,
        existing=existing,
        amplify=factors,
        decoding=DecodingOptions(
            amplify=factors[0],
            multiplier=multiplier,
            xtrans=xtrans,
            match_colour=match_colour,
            dark_shading=dark_shading,
            noise_map=noise_map,
            has_ratio=False,
        ),
        root=root,
        picture=PictureFormat(
            format=format, bits=8 if bits == "8" else 16, quality=quality or DEFAULT_QUALITY
        ),
        white_balance=white_balance,
        metadata=metadata,
        device=device,
        precision=precision,
    )
    found = restoration(options)
    _print_kept(found.planned)
    lines = _Lines(sum(not one.exists for one in found.planned))
    sheet = ContactSheet() if preview else None
    with Progress() if sys.stderr.isatty() else contextlib.nullcontext() as progress:
        if progress:
            progress.show(lines.bar(), always=True)
        for result in found.results:
            lines.show(result, progress)
            if sheet:
                sheet.add(result)
    written = sheet.save(out, replace=existing == "replace") if sheet else None
    if written:
        echo(f"wrote {written}")
    return 1 if lines.failed else 0


def _print_kept(planned: Sequence[PlannedFile]) -> None:
    """Print how many pictures exist already and are kept."""
    kept = [one.target for one in planned if one.exists]
    if kept:
        more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
        count = format_count(len(kept), "picture")
        echo(
            one_line(
                f"skipped {count} that exist already: {kept[0]}{more}; --existing replace or rename restores them again"
            ),
            err=True,
        )


class _Lines:
    """Prints the line of each result, and estimates when all are done."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self.failed = total, 0, 0
        self._began = time.monotonic()

    def show(self, result: RestoreResult, progress: Progress | None = None) -> None:
        """Print what became of a file, on stdout, or above the bar of a terminal; warnings and failures go to stderr."""
        self._done += 1
        named = f"{self._done}/{self._total} {result.source}" if self._total > 1 else result.source
        lines = [f"warning {result.source}: {note}" for note in result.notes]
        if result.error:
            self.failed += 1
            # Most errors already begin with the file's name.
            is_named = result.error.startswith(f"{result.source}:")
            lines.append(
                f"failed {result.error if is_named else f'{result.source}: {result.error}'}"
            )
        elif progress is None:
            echo(one_line(self._line(named, result)))
        else:
            lines.insert(0, self._line(named, result))
        for line in map(one_line, lines):
            if progress:
                progress.print(line)
            else:
                echo(line, err=True)
        if progress:
            progress.show(self.bar(), always=True)

    def bar(self) -> str:
        """Return a line with a bar, the number of files done, and the time left."""
        filled = _BAR_WIDTH * self._done // max(1, self._total)
        left = f", {self._left()}" if self._done else ""
        return (
            f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {self._done}/{self._total} done{left}"
        )

    def _line(self, named: str, result: RestoreResult) -> str:
        factor = f"x{result.amplification:.4g} ({result.amplification_source})"
        left = f", {self._left()}" if self._done < self._total else ""
        return f"{named} -> {result.target}, {factor}, {format_duration(result.seconds)}{left}"

    def _left(self) -> str:
        seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        return f"ETA {format_duration(seconds)}"
