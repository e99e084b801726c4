"""Commands that write data and weights for other programs: `export-model`, `pack`."""

from __future__ import annotations

from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import model_option, output_options, weights_option
from darkprep.commands.parameters import PATH, SIZE, SPOOL_LOCATION, FiniteRange
from darkprep.commands.torch_setup import prepare_torch
from darkprep.jobs.background import stop_on_signals
from darkprep.jobs.pack import PackOptions, pack as pack_spool
from darkprep.shards import OptionError
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.live import LogFormat, Progress

_SHARE = FiniteRange(0, 1, max_open=True)


@click.command(
    "export-model", short_help="Write trained weights as ONNX, or as a model for darktable."
)
@weights_option
@model_option
@click.option(
    "--amplify", type=float, metavar="FACTOR",
    help="For a .dtmodel, which needs it: the constant factor by which the model amplifies a frame before it restores it, such as 100.",
)  # fmt: skip
@click.argument("out", type=PATH)
def export_model(*, weights: Path, model: str | None, amplify: float | None, out: Path) -> None:
    """Write trained weights to OUT: ONNX for any size (.onnx), or darktable's raw denoise (.dtmodel).

    What ONNX Runtime computes is compared with torch first. Needs pip install 'darkprep[export]'.

    Example: darkprep export-model --weights runs/X/weights.safetensors night.onnx
    """
    prepare_torch()
    from darkprep.jobs.export import ExportOptions, export

    echo(export(ExportOptions(weights=weights, model=model, amplify=amplify, out=out)))


@click.command(short_help="Make a data set of a spool's shards.")
@click.option(
    "--val",
    type=_SHARE,
    default=PackOptions.val,
    show_default=True,
    metavar="F",
    help="Share of the scenes whose samples form the split val.",
)
@click.option(
    "--test",
    type=_SHARE,
    default=PackOptions.test,
    show_default=True,
    metavar="F",
    help="Share of the scenes whose samples form the split test.",
)
@click.option(
    "--tar-size",
    type=SIZE,
    metavar="SIZE",
    show_default="1GB, less where a split would have fewer than 8 tars",
    help="Largest size of a tar.",
)
@click.option(
    "--incomplete", is_flag=True,
    help="Pack the shards that are there, though others of the plan are missing.",
)  # fmt: skip
@output_options
@click.argument("spool", type=SPOOL_LOCATION)
@click.argument("out", type=PATH)
def pack(
    *,
    val: float,
    test: float,
    tar_size: int | None,
    incomplete: bool,
    quiet: bool,
    log_format: LogFormat,
    spool: Path | StoreUrl,
    out: Path,
) -> None:
    """Copy the finished shards of SPOOL into a new directory OUT: a data set to keep, share or read without darkprep.

    OUT holds tars with unique keys, indexes for WebDataset and Megatron Energon, and a README.md with what the
    samples are. A scene is in one split only. The spool stays as it is, and OUT needs as much space again.

    Example: darkprep pack spool night-set --val 0.1
    """
    if isinstance(spool, StoreUrl):
        raise OptionError(
            f"{spool}: is in object storage, and pack reads directories; copy the objects below it into a directory first"
        )
    options = PackOptions(
        spool=spool, out=out, val=val, test=test, tar_bytes=tar_size, incomplete=incomplete
    )
    stop = stop_on_signals()
    with Progress(quiet=quiet, log_format=log_format) as progress:
        written = pack_spool(options, show=progress.show, stop=stop)
        progress.print(written, event="summary")
