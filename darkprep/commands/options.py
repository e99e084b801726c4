"""Options that several commands share.

The trade-off: defaults and choices are read from the code that uses them, so that each is written only
once; the command line therefore loads this code, but never torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from darkprep.commands.parameters import COUNT_OR_INF, PATH, SIZE, SPOOL_LOCATION, FiniteRange
from darkprep.jobs.remote_spool import STAGING
from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.pairs.folders import LAYOUTS
from darkprep.pipeline.pairs.table import SPLIT_CHOICES
from darkprep.pipeline.plan.options import DEFAULT_CROP, PlanOptions
from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.pipeline.produce.executors.config import BACKENDS, ExecutorConfig
from darkprep.pipeline.produce.executors.pool import MAX_JOBS
from darkprep.pipeline.produce.producer import DEFAULT_EPOCHS_AHEAD
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER
from darkprep.pipeline.raw.resample import XTRANS_MODES
from darkprep.shards import TARGETS
from darkprep.trainer.config import PRECISIONS, TrainConfig

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT_BUDGET = "20GB, at most half of the free space"
ANY_CAMERA = click.Choice(tuple(CAMERAS), case_sensitive=False)


def combined(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several options to a command; help lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


weights_option = click.option(
    "--weights", type=PATH, required=True, metavar="FILE",
    help="Trained weights: the weights.safetensors of a run.",
)  # fmt: skip

model_option = click.option(
    "--model", metavar="MODULE:CLASS", show_default="the network that the weights file names",
    help="Network of the weights, if it is your own: package.module:Class, as for stream-train.",
)  # fmt: skip


# -- directories --------------------------------------------------------------------------------------

spool_option = click.option(
    "--spool", type=SPOOL_LOCATION, default=Path("spool"), show_default=True, metavar="DIR|URL",
    help="Directory of the spool, or its URL in object storage: s3://BUCKET/PREFIX (also gs:// and az://).",
)  # fmt: skip
staging_option = click.option(
    "--staging", type=PATH, show_default=str(STAGING), metavar="DIR",
    help="For a spool in object storage: local directory for shards before they are uploaded and after they were downloaded; give the same directory to all commands on this machine.",
)  # fmt: skip
staging_budget_option = click.option(
    "--staging-budget", type=SIZE, metavar="SIZE",
    show_default="the window and up to 8 more shards, at most about a quarter of the budget",
    help="For a spool in object storage: maximum size of the shards that a trainer has downloaded. It is part of the spool's --disk-budget.",
)  # fmt: skip


def _root_option(purpose: str) -> Callable[[Command], Command]:
    return click.option(
        "--root", type=PATH, default=Path("data"), show_default=True, envvar="DARKPREP_DATA",
        metavar="DIR", help=f"{purpose} The environment variable DARKPREP_DATA sets another default.",
    )  # fmt: skip


root_option = _root_option("Directory of the photographs.")
match_root_option = _root_option("Directory of the data set, for --match-colour CAMERA.")
frames_directory_options = combined(
    click.option(
        "--frames-dir", type=PATH, metavar="DIR",
        help="Store decoded frames in this directory, outside the spool and its --disk-budget; later spools can use them again.",
    ),
    click.option(
        "--frames-budget", type=SIZE, show_default=_DEFAULT_BUDGET, metavar="SIZE",
        help="Maximum size of --frames-dir.",
    ),
)  # fmt: skip


def _disk_budget_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--disk-budget", type=SIZE, show_default=default, metavar="SIZE",
        help="Maximum size of the spool at any time, such as 20GB.",
    )  # fmt: skip


disk_budget_option = _disk_budget_option(_DEFAULT_BUDGET)
build_budget_option = _disk_budget_option(f"that of an existing spool, else {_DEFAULT_BUDGET}")
shrink_option = click.option(
    "--shrink", is_flag=True,
    help="Allow finished shards and decoded frames to be deleted if --disk-budget is smaller than before.",
)  # fmt: skip
epochs_ahead_option = click.option(
    "--epochs-ahead", type=COUNT_OR_INF, default=DEFAULT_EPOCHS_AHEAD, show_default=True, metavar="N|inf",
    help="Number of epochs to make while no trainer is running; inf for as many as the budget holds.",
)  # fmt: skip


# -- photographs --------------------------------------------------------------------------------------

pair_options = combined(
    click.option(
        "--camera", metavar="NAME",
        help=f"Use the pairs of a camera of SID or ELD: {', '.join(CAMERAS)}. If --pairs or --layout is given, --camera may be omitted; it is then only a label for the data set, of your choice.",
    ),
    click.option(
        "--pairs", type=PATH, metavar="FILE.csv",
        help="Use the pairs that this CSV table lists, instead of those of SID or ELD; the command darkprep pairs writes such a table.",
    ),
    click.option(
        "--layout", type=click.Choice(LAYOUTS),
        help="Find pairs in folders of your own, instead of those of SID or ELD: files of equal names in folders short/ and long/ (short-long); "
        "one folder per scene, in which the longest exposure at the lowest ISO is the truth (scenes); or file names like RawNIND's (rawnind).",
    ),
)  # fmt: skip
camera_option = click.option(
    "--camera", type=ANY_CAMERA, required=True, metavar="NAME",
    help=f"Camera: {', '.join(CAMERAS)}.",
)  # fmt: skip
frames_option = click.option(
    "--frames", type=click.Choice(("first", "all")), default=PlanOptions.frames, show_default=True,
    help="SID: use the first frame of each burst, or all frames. ELD: use the 6 pairs of a scene that ELD evaluates (first), or all 12.",
)  # fmt: skip
exclude_misaligned_option = click.option(
    "--exclude-misaligned", is_flag=True,
    help="Leave out the scenes of SID's Sony set whose exposures are not aligned.",
)  # fmt: skip
multiplier_option = click.option(
    "--multiplier", type=FiniteRange(min=0, min_open=True), show_default=f"{DEFAULT_MULTIPLIER:g}",
    metavar="M", help="Factor m of --amplify estimate; larger is brighter.",
)  # fmt: skip
xtrans_option = click.option(
    "--xtrans", type=click.Choice(XTRANS_MODES), default=PlanOptions.xtrans, show_default=True,
    help="How an X-Trans mosaic is fed to the network: as nine planes (native), as four planes as in the published code (plain), "
    "or resampled to a Bayer mosaic (rggb).",
)  # fmt: skip
target_option = click.option(
    "--target", "sample_target", type=click.Choice(TARGETS), default=PlanOptions.target, show_default=True,
    help="Target of training: the long exposure as developed sRGB, as linear camera RGB, or as RAW planes.",
)  # fmt: skip


def _match_option(default: str | None, note: str) -> Callable[[Command], Command]:
    return click.option(
        "--match-colour", metavar="auto|none|CAMERA|FILE", default=default, show_default=default or "none",
        help="Convert frames to the colours of the camera on which the weights were trained. auto: the camera that the weights name; "
        f"frames of that camera itself are not converted. CAMERA: this camera, which has photographs below --root. FILE: the camera of this RAW file. none: convert nothing.{note}",
    )  # fmt: skip


match_option = _match_option(None, "")
restore_match_option = _match_option(
    "auto",
    " With auto the tint of the result is also corrected to the file's own white balance.",
)

dark_shading_option = click.option(
    "--dark-shading", type=PATH, metavar="FILE.json",
    help="Subtract the dark shading and the black-level error of this file of darkprep calibrate from short exposures; use it in training and restoration alike.",
)  # fmt: skip
noise_map_option = click.option(
    "--noise-map", metavar="CAMERA|FILE.json", show_default="of each file's camera, if darkprep has its noise",
    help="For weights that were trained with --noise-map: take the noise levels of a CAMERA whose noise darkprep has, or those of the camera that FILE.json of darkprep calibrate describes.",
)  # fmt: skip

NETWORKS = "redirt, redirt-2rdb, redirt-gn, sid, unet or nafnet"
"""The names of `darkprep.model.MODELS`, without importing torch."""

reuse_option = click.option(
    "--reuse", type=click.IntRange(min=1), default=TrainConfig.reuse, show_default=True, metavar="N",
    help="Number of times that each shard is used before it is deleted.",
)  # fmt: skip

crop_option = click.option(
    "--crop", type=click.IntRange(min=1), metavar="PX",
    show_default="{bayer}, X-Trans {xtrans}".format(**DEFAULT_CROP),
    help="Side of the training crops in pixels.",
)  # fmt: skip
shard_options = combined(
    click.option(
        "--samples-per-shard", type=click.IntRange(1, 9999), default=PlanOptions.samples_per_shard,
        show_default=True, metavar="N", help="Number of samples in a shard.",
    ),
    click.option(
        "--crops-per-visit", type=click.IntRange(min=1), default=PlanOptions.crops_per_visit,
        show_default=True, metavar="N", help="Number of crops cut from a pair each time it is used.",
    ),
)  # fmt: skip


def check_camera(camera: str | None, pairs: Path | None, layout: str | None) -> str | None:
    """Return the camera's name in lower case; for a table or a layout, the user's label. Raises UsageError."""
    if pairs is not None and layout is not None:
        raise click.UsageError("--pairs and --layout cannot be used together.")
    if pairs is not None or layout is not None:
        return camera
    if camera is None:
        raise click.UsageError("Missing option '--camera' (or '--pairs', or '--layout').")
    if camera.lower() not in CAMERAS:
        known = ", ".join(map(repr, CAMERAS))
        raise click.BadParameter(f"{camera!r} is not one of {known}.", param_hint="'--camera'")
    return camera.lower()


def split_option(default: str) -> Callable[[Command], Command]:
    """Return the option `--split`; `default` is the split used without it."""
    return click.option(
        "--split", type=click.Choice(tuple(SPLIT_CHOICES)), default=default, show_default=True,
        help="Split of the data set to use.",
    )  # fmt: skip


# -- work ---------------------------------------------------------------------------------------------

executor_options = combined(
    click.option(
        "--backend", type=click.Choice(BACKENDS), default=ExecutorConfig.backend, show_default=True,
        help="Where workers run: processes on this machine (loky), a Dask cluster or a Ray cluster.",
    ),
    click.option(
        "--address", show_default="start one on this machine", metavar="HOST:PORT",
        help="Address of a running Dask scheduler or Ray cluster.",
    ),
)  # fmt: skip
output_options = combined(
    click.option("--quiet", "-q", is_flag=True, help="Print errors only."),
    click.option(
        "--log-format", type=click.Choice(("text", "json")), default="text", show_default=True,
        help="Print plain text, or one JSON object per line on stdout.",
    ),
)  # fmt: skip
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="NAME",
    help="Device: cpu, cuda, cuda:N, or auto for a GPU if there is one.",
)  # fmt: skip
precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default=TrainConfig.precision, show_default=True,
    help="Number format in which the network computes.",
)  # fmt: skip
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=TrainConfig.seed, show_default=True,
    metavar="N", help="Seed of all random choices; equal seeds give equal results.",
)  # fmt: skip


def jobs_option(
    help: str,
    show_default: str = "all CPUs of the process",
    default: Callable[[], int | None] = lambda: usable_cpus().count,
) -> Callable[[Command], Command]:
    """Return the option `--jobs N`; its default is the number of CPUs that this process may use."""
    return click.option(
        "--jobs", type=click.IntRange(1, MAX_JOBS), default=default,
        show_default=show_default, metavar="N", help=help,
    )  # fmt: skip
