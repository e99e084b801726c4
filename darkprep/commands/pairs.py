"""The command `pairs`: list which short exposure belongs to which long one, as a table that can be edited."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click

from darkprep.commands.echo import echo, echo_data
from darkprep.commands.options import (
    check_camera,
    exclude_misaligned_option,
    frames_option,
    pair_options,
    root_option,
)
from darkprep.commands.output import print_skipped
from darkprep.commands.parameters import PATH
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.pair_table import table_text
from darkprep.pipeline.pairs.table import SPLITS, Frames, Pairs
from darkprep.shards.files import write_bytes
from darkprep.view.numbers import format_count


@click.command("pairs", short_help="List pairs as a table that can be edited and built from.")
@pair_options
@root_option
@frames_option
@exclude_misaligned_option
@click.option(
    "--out", type=PATH, metavar="FILE.csv", show_default="standard output",
    help="File to write the table to.",
)  # fmt: skip
def list_pairs(
    *,
    camera: str | None,
    pairs: Path | None,
    layout: str | None,
    root: Path,
    frames: Frames,
    exclude_misaligned: bool,
    out: Path | None,
) -> None:
    """Find the pairs below --root and write them as a CSV table, which --pairs of other commands takes.

    The table can be edited: replace files, delete rows, set splits, ratios and weights (visits per
    epoch). With --pairs, the command reads a table, fills in missing columns and reports rows that cannot be
    used.

    Example: darkprep pairs --camera sony --out sony.csv
    """
    origin = PairOrigin(
        root=root, camera=check_camera(camera, pairs, layout), table=pairs, layout=layout
    )
    found = origin.find(frames=frames, exclude_misaligned=exclude_misaligned)
    table = table_text(found.pairs).encode("utf-8", "surrogateescape")
    if out is None:
        echo_data(table)
    else:
        write_bytes(out, table, sync=False)
    print_skipped(found.skipped)
    echo(_summary(found, out), err=True)


def _summary(found: Pairs, out: Path | None) -> str:
    count = Counter(pair.split for pair in found.pairs)
    splits = ", ".join(f"{count[split]} {split}" for split in SPLITS if count[split])
    scenes = len({pair.scene for pair in found.pairs})
    text = f"{format_count(len(found.pairs), 'pair')} of {format_count(scenes, 'scene')}: {splits}"
    if out is None:
        return text
    beside = os.path.realpath(found.root) == os.path.realpath(out.parent)
    root = "" if beside else f" --root {found.root}"
    return f"{text}; build from them: darkprep build --pairs {out}{root}"
