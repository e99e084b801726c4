"""Commands that score and convert trained weights: `evaluate` and `import-weights`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import (
    check_camera,
    dark_shading_option,
    device_option,
    exclude_misaligned_option,
    frames_option,
    match_option,
    model_option,
    multiplier_option,
    noise_map_option,
    pair_options,
    precision_option,
    root_option,
    split_option,
    weights_option,
    xtrans_option,
)
from darkprep.commands.output import print_skipped
from darkprep.commands.parameters import PATH
from darkprep.commands.torch_setup import prepare_torch
from darkprep.trainer.config import Precision
from darkprep.view.live import Progress


@click.command(short_help="Score trained weights on whole test frames.")
@weights_option
@model_option
@pair_options
@root_option
@split_option("test")
@frames_option
@exclude_misaligned_option
@click.option(
    "--set", "pair_set", metavar="NAME",
    help="Score a test set of SID's Sony on which papers report figures, instead of a split: sid-93 (first frames of the test scenes), sid-88 (the same without misaligned scenes), "
    "sid-562 (all frames, without misaligned scenes) or eld-15 (the fifteen indoor scenes of SID's Sony on which the ELD paper reports figures).",
)  # fmt: skip
@click.option(
    "--amplify", default="ratio", show_default=True, metavar="ratio|estimate|FACTOR",
    help="Amplify short exposures by the exposure ratio (ratio), by a factor estimated from the brightness as in REDIRT (estimate), or by a constant FACTOR.",
)  # fmt: skip
@multiplier_option
@click.option(
    "--protocol", metavar="NAME", show_default="by the target of the weights: redirt for srgb, linear for linear, eld for raw",
    help="How PSNR and SSIM are computed: in sRGB as by the authors of REDIRT (redirt) or SID (sid), in RAW planes as by those of ELD (eld) or PMN (pmn), or in linear camera RGB (linear).",
)  # fmt: skip
@xtrans_option
@match_option
@dark_shading_option
@noise_map_option
@click.option(
    "--baseline", is_flag=True,
    help="Also score the amplified short exposure developed by LibRaw, as a baseline.",
)  # fmt: skip
@device_option
@precision_option
@click.option(
    "--out", type=PATH, metavar="DIR", show_default="write no files",
    help="Directory for metrics.json, report.html and pictures.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json instead of text.")
def evaluate(
    *,
    weights: Path,
    model: str | None,
    camera: str | None,
    pairs: Path | None,
    layout: str | None,
    root: Path,
    split: str,
    frames: str,
    exclude_misaligned: bool,
    pair_set: str | None,
    amplify: str,
    multiplier: float | None,
    protocol: str | None,
    xtrans: str,
    match_colour: str | None,
    dark_shading: Path | None,
    noise_map: str | None,
    baseline: bool,
    device: str,
    precision: Precision,
    out: Path | None,
    as_json: bool,
) -> None:
    """Restore every test frame of a camera, a table or a layout, and compare it with its long exposure.

    Example: darkprep evaluate --weights runs/X/weights.safetensors --camera sony --out results
    """
    prepare_torch()
    from darkprep.jobs.decoding import DecodingOptions
    from darkprep.jobs.evaluate import EvaluateOptions, evaluation
    from darkprep.report.evaluation_page import write_evaluation_report

    options = EvaluateOptions(
        weights=weights,
        model=model,
        camera=check_camera(camera, pairs, layout),
        root=root,
        pairs=pairs,
        layout=layout,
        split=split,
        frames=frames,
        exclude_misaligned=exclude_misaligned,
        pair_set=pair_set,
        decoding=DecodingOptions(
            amplify=amplify,
            multiplier=multiplier,
            xtrans=xtrans,
            match_colour=match_colour,
            dark_shading=dark_shading,
            noise_map=noise_map,
        ),
        protocol=protocol,
        baseline=baseline,
        device=device,
        precision=precision,
        out=out,
    )
    with Progress(quiet=as_json) as progress:
        result = evaluation(options, progress)
        if out:
            progress.show("writing report.html")
            write_evaluation_report(out, result.record(), pairs=result.pairs, weights=weights)
    print_skipped(result.skipped)
    if as_json:
        echo(json.dumps(result.record(), indent=1))
    else:
        echo("\n".join(result.lines()))


@click.command("import-weights", short_help="Convert the checkpoint released by REDIRT's authors.")
@click.argument("published", type=PATH)
@click.argument("out", type=PATH)
def import_weights(published: Path, out: Path) -> None:
    """Convert PUBLISHED, the checkpoint released by REDIRT's authors, to OUT (.safetensors).

    Example: darkprep import-weights demo_imgs/weights redirt.safetensors
    """
    prepare_torch()
    from darkprep.jobs.weights import import_released

    echo(import_released(published, out))
