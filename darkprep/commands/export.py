"""Commands that write data and weights for other programs: `export-model`."""

from __future__ import annotations

from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import model_option, weights_option
from darkprep.commands.parameters import PATH
from darkprep.commands.torch_setup import prepare_torch


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
