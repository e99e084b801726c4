"""Commands that need no photographs: `synth` makes synthetic ones, `demo` shows all of darkprep with them."""

from __future__ import annotations

import time
from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import camera_option, jobs_option, seed_option
from darkprep.commands.parameters import FRAME_SIZE, PATH, FiniteRange
from darkprep.commands.torch_setup import prepare_torch
from darkprep.jobs.background import stop_on_signals
from darkprep.view.live import Progress
from darkprep.view.numbers import format_bytes, format_count, format_duration


@click.command(short_help="Write a synthetic data set of real DNG files.")
@click.argument("out", type=PATH)
@camera_option
@click.option(
    "--scenes", type=click.IntRange(1, 9999), default=6, show_default=True, metavar="N",
    help="Number of scenes.",
)  # fmt: skip
@click.option(
    "--shorts", type=click.IntRange(1, 100), default=2, show_default=True, metavar="N",
    help="Number of short exposures per scene (SID cameras).",
)  # fmt: skip
@click.option(
    "--size", type=FRAME_SIZE, show_default="the camera's", metavar="HxW",
    help="Height and width of the photographs in pixels.",
)  # fmt: skip
@seed_option
@jobs_option("Number of processes.")
def synth(
    out: Path,
    camera: str,
    scenes: int,
    shorts: int,
    size: tuple[int, int] | None,
    seed: int,
    jobs: int,
) -> None:
    """Write RAW photographs of synthetic scenes below the directory OUT, in the layout of SID or ELD.

    Example: darkprep synth data --camera sony --scenes 6 --shorts 2
    """
    from darkprep.synth.dataset import synthesise  # its renderer takes a while to load

    began = time.monotonic()
    with Progress() as progress:
        files = synthesise(
            out,
            camera,
            scenes=scenes,
            shorts=shorts,
            size=size,
            seed=seed,
            jobs=jobs,
            progress=progress.show,
        )
    written = format_bytes(sum(path.stat().st_size for path in files))
    echo(
        f"wrote {format_count(len(files), 'file')} ({written}) below {out} in {format_duration(time.monotonic() - began)}"
    )


@click.command(short_help="Try everything on synthetic photographs.")
@click.option(
    "--out", type=PATH, default=Path("demo"), show_default=True, metavar="DIR",
    help="New directory for everything that the demo makes.",
)  # fmt: skip
@click.option(
    "--minutes", type=FiniteRange(0, 10_000, min_open=True), default=3.5, show_default=True, metavar="M",
    help="Maximum training time in minutes.",
)  # fmt: skip
@seed_option
def demo(out: Path, minutes: float, seed: int) -> None:
    """Make RAW files, train on them through a spool with a small disk budget, and score the result.

    Needs neither a network connection nor a GPU.

    Example: darkprep demo --out demo
    """
    prepare_torch()
    from darkprep.jobs.demo import run_demo

    with Progress() as progress:
        for line in run_demo(
            out, minutes=minutes, seed=seed, progress=progress, stop=stop_on_signals()
        ):
            echo(line)
