"""The command line: each command turns its options into one call and prints what came of it.

Nothing is decided here that a library user could not decide alike. torch is loaded only by the
commands that need it, so producers start in half the time and run where torch is not installed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import logging.handlers
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click
from click.core import ParameterSource

from darkprep import __version__
from darkprep.commands import inspect
from darkprep.commands.parameters import COUNT_OR_INF, FRAME_SIZE, PART, SIZE, SPOOL_LOCATION
from darkprep.jobs import background
from darkprep.jobs.remote_spool import (
    BuildSpool,
    folder_for,
    only_with_bucket,
    stop_here,
    verify_bucket,
)
from darkprep.pipeline.pairs.table import CAMERAS
from darkprep.pipeline.plan.plan import Plan, PlanOptions, make_plan
from darkprep.pipeline.produce.executors.backend import BACKENDS, Backend
from darkprep.pipeline.produce.frames_directory import FramesDirectory, lies_in
from darkprep.pipeline.produce.producer import Producer, ProducerConfig, ProducerReport
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER
from darkprep.shards import DarkprepError, OptionError, Spool
from darkprep.shards.errors import RankStopped
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.object_store import StoreUrl
from darkprep.synth.dataset import synthesise
from darkprep.view.live import LogFormat, Progress
from darkprep.view.numbers import format_bytes, format_duration, one_line
from darkprep.view.status import BucketStatus, spool_status, status_lines, verify_spool

if TYPE_CHECKING:
    from darkprep.pipeline.pairs.table import Skipped

Command = TypeVar("Command", bound=Callable[..., Any])

_CAMERA_HELP = f"One of {', '.join(CAMERAS)}."
_SHOWN_SKIPS = 20
_NOWHERE = "the current directory: is gone; change into one that exists"


class _Commands(click.Group):
    """Turns every expected failure into one line on stderr: status 1, or 2 for bad usage."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the group's own options, of which --help and --version write."""
        with _kept_from_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _kept_from_click():
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            result = super().main(*args, **extra)
        except RankStopped:
            sys.exit(1)  # rank 0 tells why
        except DarkprepError as error:
            _fail(str(error), 1)
        except _Refused as error:
            _fail_refused(error.error)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "darkprep"
            _fail(f"{_folded(error)} (see {where} --help)", 2)
        except click.ClickException as error:
            _fail(_folded(error), error.exit_code)
        except (_Interrupted, click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        sys.exit(result if isinstance(result, int) else 0)


class _Interrupted(Exception):
    """Ctrl-C, to which click would say an empty line first."""


class _Refused(Exception):
    """The operating system refused what no seam foresaw; click would call a pipe's end a failure."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _kept_from_click() -> Iterator[None]:
    """Rename what click would answer with a line or a status of its own."""
    try:
        yield
    except (KeyboardInterrupt, EOFError) as error:
        raise _Interrupted from error
    except OSError as error:
        raise _Refused(error) from error


def _fail(message: str, status: int) -> None:
    try:
        click.echo(f"darkprep: {one_line(message)}", err=True)
    except OSError:
        _give_up(sys.stderr)  # nobody can be told
    sys.exit(status)


def _folded(error: click.ClickException) -> str:
    """click's words, which it may spread over several lines."""
    return " ".join(error.format_message().split())


def _fail_refused(error: OSError) -> None:
    """Say where it happened, which the operating system leaves out where no name was given."""
    if isinstance(error, BrokenPipeError):
        _give_up(sys.stdout, sys.stderr)
        sys.exit(141)
    _fail(_told(error), 1)


def _told(error: OSError) -> str:
    """Where it happened and why; the operating system names neither a stream nor the current directory."""
    why = error.strerror or str(error)
    if not Path(str(error.filename or "")).is_absolute() and not _is_somewhere():
        return _NOWHERE
    if error.filename:
        return f"{error.filename}: {why}"
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    if innermost.f_globals["__name__"].startswith(("click.", "rich.")):  # they write nothing else
        _give_up(sys.stdout)
        return f"standard output: {why}; send it elsewhere"
    return f"a file: {why}"


def _is_somewhere() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _give_up(*streams: TextIO) -> None:
    """Let what waits in a stream go nowhere; the interpreter would try again when it ends, and complain."""
    for stream in streams:
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="darkprep")
def main() -> None:
    """Stream RAW low-light pairs to a trainer through a spool of shards that never outgrows its budget.

    \b
    darkprep demo                                      see all of it work, without data, in minutes
    darkprep build --camera sony --fraction 0.2        make shards from ./data in ./spool
    darkprep stream-train                              train on them while more are made
    """
    logging.basicConfig(level=logging.WARNING, format="darkprep: %(message)s", stream=sys.stderr)


def spool_option(command: Command) -> Command:
    """`--spool DIR|URL`."""
    return click.option(
        "--spool", type=SPOOL_LOCATION, default=Path("spool"), show_default=True, metavar="DIR|URL",
        help="Where shards wait: a directory, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX.",
    )(command)  # fmt: skip


def staging_option(command: Command) -> Command:
    """`--staging DIR`."""
    return click.option(
        "--staging", type=click.Path(path_type=Path), metavar="DIR",
        help="For a spool in object storage: where its directory on this host is.  [default: staging]",
    )(command)  # fmt: skip


def staging_budget_option(command: Command) -> Command:
    """`--staging-budget SIZE`."""
    return click.option(
        "--staging-budget", type=SIZE, metavar="SIZE",
        help="For a spool in object storage: the part of --disk-budget for shards that a trainer has fetched.  [default: its window and up to 8 shards, about a quarter at most]",
    )(command)  # fmt: skip


def root_option(command: Command) -> Command:
    """`--root DIR`."""
    return click.option(
        "--root", type=click.Path(path_type=Path), default=Path("data"), show_default=True, envvar="DARKPREP_DATA",
        help="Where the photographs lie; else $DARKPREP_DATA.",
    )(command)  # fmt: skip


def camera_option(command: Command) -> Command:
    """`--camera NAME`."""
    return click.option("--camera", required=True, metavar="NAME", help=_CAMERA_HELP)(command)


def frames_options(command: Command) -> Command:
    """`--frames-dir DIR` and `--frames-budget SIZE`."""
    with_budget = click.option(
        "--frames-budget", type=SIZE, metavar="SIZE",
        help="Most bytes in --frames-dir.  [default: 20GB, at most half of what is free there]",
    )(command)  # fmt: skip
    return click.option(
        "--frames-dir", type=click.Path(path_type=Path), metavar="DIR",
        help="Keep decoded frames there, on another disk, not in the spool and its budget; they serve later spools too.",
    )(with_budget)  # fmt: skip


def engine_options(command: Command) -> Command:
    """`--backend` and `--address`."""
    with_address = click.option(
        "--address", metavar="HOST:PORT", help="Of a running dask scheduler or ray cluster; else one is started here.",
    )(command)  # fmt: skip
    return click.option(
        "--backend", default="loky", show_default=True, metavar="|".join(BACKENDS),
        help="What runs the workers: this machine's processes, a dask or a ray cluster.",
    )(with_address)  # fmt: skip


def watched(command: Command) -> Command:
    """`--log-format` and `--quiet`."""
    with_format = click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
        help="json: one JSON object a line, on stdout.",
    )(command)  # fmt: skip
    return click.option("--quiet", "-q", is_flag=True, help="Print errors only.")(with_format)


def xtrans_option(command: Command) -> Command:
    """`--xtrans NAME`."""
    return click.option(
        "--xtrans", default="native", show_default=True, metavar="native|plain|rggb",
        help="How an X-Trans camera is fed to the network: its nine planes, the published code's four, or resampled to RGGB.",
    )(command)  # fmt: skip


def match_option(command: Command) -> Command:
    """`--match-colour CAMERA|FILE`."""
    return click.option(
        "--match-colour", metavar="CAMERA|FILE",
        help="Bring frames into the colours of the camera that the weights were trained on, by its photographs below --root or by one RAW file.",
    )(command)  # fmt: skip


# -- data ---------------------------------------------------------------------------------------------


@main.command(short_help="Write a synthetic data set of real DNG files.")
@click.argument("out", type=click.Path(path_type=Path))
@camera_option
@click.option("--scenes", default=6, show_default=True, help="How many scenes.")
@click.option(
    "--shorts", default=2, show_default=True, help="Short exposures per scene (SID cameras)."
)
@click.option(
    "--size", type=FRAME_SIZE, metavar="HxW", help="Frame size HxW; the camera's own by default."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--jobs", type=int, default=lambda: os.cpu_count() or 1, show_default="all cores")
def synth(
    out: Path,
    camera: str,
    scenes: int,
    shorts: int,
    size: tuple[int, int] | None,
    seed: int,
    jobs: int,
) -> None:
    """Write a data set that a camera could have taken, in the layout of SID or ELD, below OUT.

    Example: darkprep synth data --camera sony --scenes 6 --shorts 2
    """
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
    weight = sum(path.stat().st_size for path in files)
    click.echo(
        f"{len(files)} files, {format_bytes(weight)}, below {out} in {format_duration(time.monotonic() - began)}"
    )


# -- producing ----------------------------------------------------------------------------------------


@main.command(short_help="Make shards from RAW pairs, under a disk budget.")
@camera_option
@click.option("--fraction", default=1.0, show_default=True, help="Share of the scenes, in (0, 1].")
@root_option
@spool_option
@click.option(
    "--disk-budget",
    type=SIZE,
    metavar="SIZE",
    help="Most bytes that the spool may ever occupy, such as 20GB.  [default: 20GB, at most half of the free space]",
)
@click.option(
    "--jobs",
    type=int,
    default=lambda: os.cpu_count() or 1,
    show_default="all cores",
    help="Worker processes.",
)
@click.option(
    "--epochs",
    type=COUNT_OR_INF,
    metavar="N|inf",
    default="1",
    show_default=True,
    help="Visits of every pair, or inf.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--crop",
    type=int,
    metavar="PX",
    help="Side of the training crops.  [default: 512, X-Trans 480]",
)
@click.option(
    "--margin",
    type=int,
    metavar="PX",
    help="Pixels stored beyond the crop, for shifts and flips.  [default: 16, X-Trans 24]",
)
@click.option("--samples-per-shard", default=32, show_default=True)
@click.option(
    "--crops-per-visit", default=8, show_default=True, help="Crops cut whenever a pair comes up."
)
@click.option(
    "--window", default=4, show_default=True, help="Consecutive shards that a trainer mixes."
)
@click.option(
    "--amplify",
    default="ratio",
    show_default=True,
    metavar="ratio|estimate|FACTOR",
    help="How the amplification is found.",
)
@click.option(
    "--multiplier",
    type=float,
    metavar="M",
    help="The paper's m, with --amplify estimate.  [default: 5]",
)
@click.option(
    "--frames",
    default="first",
    show_default=True,
    metavar="first|all",
    help="Frames of a burst to use (SID).",
)
@click.option(
    "--exclude-misaligned", is_flag=True, help="Leave out the misaligned scenes of SID's Sony."
)
@click.option(
    "--split",
    default="train",
    show_default=True,
    metavar="train|val|test|val+test",
    help="Which scenes.",
)
@xtrans_option
@click.option(
    "--noise",
    metavar="CAMERA",
    help="Make the short exposures from the long ones, with this camera's noise; none need be there.",
)
@click.option(
    "--lmdb",
    metavar="NAME",
    help="Take ELD's patches NAME_input_Raw.db and NAME_target_Raw.db (with --noise NAME_Raw.db) below --root.",
)
@click.option(
    "--part",
    type=PART,
    metavar="n/N",
    default="0/1",
    show_default="all",
    help="Make only this node's shards: of shards n, n + N, n + 2N ... of the plan (docs/scale.md).",
)
@frames_options
@staging_budget_option
@staging_option
@engine_options
@click.option(
    "--background",
    "in_background",
    is_flag=True,
    help="Return at once; see darkprep status, darkprep stop.",
)
@watched
def build(
    root: Path,
    spool: Path | StoreUrl,
    disk_budget: int | None,
    jobs: int,
    part: tuple[int, int],
    frames_dir: Path | None,
    frames_budget: int | None,
    staging: Path | None,
    staging_budget: int | None,
    backend: str,
    address: str | None,
    in_background: bool,
    quiet: bool,
    log_format: LogFormat,
    amplify: str,
    multiplier: float | None,
    **chosen: Any,
) -> None:
    """Decode, develop, crop and amplify RAW pairs into shards that a trainer uses and deletes.

    Makes one epoch and ends. Where the budget cannot hold it all, waits for the trainer. Started again,
    it goes on where it was.

    Example: darkprep build --camera sony --fraction 0.2 --disk-budget 20GB
    """
    if amplify == "estimate" and multiplier is None:
        multiplier = DEFAULT_MULTIPLIER
    options = PlanOptions(amplify=amplify, multiplier=multiplier, **chosen)
    _keep_apart(spool, root)
    engine = Backend(backend=backend, address=address)
    engine.check()
    stop = threading.Event()
    making = BuildSpool.at(spool, staging, stop)
    plan = make_plan(root, options)
    place, shares = making.spool, making.shares(plan, disk_budget, staging_budget)
    config = ProducerConfig(budget_bytes=shares.own_bytes, jobs=jobs, until=plan.shards)
    frames = FramesDirectory.chosen(place.path, frames_dir, frames_budget)
    _check_part(part, plan)
    settings = ProducerSettings(
        jobs=jobs, backend=engine.backend, address=engine.address, part=part[0], parts=part[1]
    )
    making.save(plan, shares, frames.recorded_in(settings))
    progress = Progress(quiet=quiet, log_format=log_format)
    progress.say(_described(plan, shares.budget_bytes), event="plan")
    if not quiet:
        _name_skipped(plan.skipped)
    if in_background:
        process = background.start_producer(
            place,
            jobs=jobs,
            budget_bytes=shares.own_bytes,
            until=plan.shards,
            engine=engine,
            place=making.words(),
        )
        progress.say(
            f"producing in the background (pid {process.pid}), log in {background.log_path(place)}; darkprep stop ends it"
        )
        return
    with (
        progress,
        progress.watching(making.status, title=f"darkprep build · {plan.options.camera}"),
    ):
        producer, final = _produce(making, config, progress, engine, stop)
    _name_skipped(producer.skipped)
    progress.say(
        f"{final.state}: {final.shards_made} shards made in {format_duration(final.running_s)} ({final.mb_per_s:.1f} MB/s), {final.shards_ready} ready, "
        f"{final.frames_decoded} frames decoded, spool {format_bytes(final.disk_bytes)} of {format_bytes(final.budget_bytes)}",
        event="summary",
    )


def _keep_apart(spool: Path | StoreUrl, root: Path) -> None:
    """A spool is removed when it is done with: refuse one that has the photographs in it. Raises OptionError."""
    if isinstance(spool, Path) and lies_in(root, spool):
        raise OptionError(
            f"spool {spool}: the photographs of --root {root} lie in it; choose a folder of its own"
        )


def _check_part(part: tuple[int, int], plan: Plan) -> None:
    """Raise OptionError when the plan has no such part."""
    if plan.shards is not None and plan.shards < part[1]:
        raise OptionError(
            f"part {part[0]}/{part[1]} of {plan.shards} shards would be empty; give more --epochs, or fewer parts"
        )


def _produce(
    making: BuildSpool,
    config: ProducerConfig,
    progress: Progress,
    engine: Backend,
    stop: threading.Event,
) -> tuple[Producer, ProducerReport]:
    """Run a producer until it is done; say once when it has to wait for a trainer."""
    waiting: list[str] = []

    def report(now: ProducerReport) -> None:
        if now.state == "waiting for the trainer" and not waiting:
            waiting.append("said")
            progress.say(
                f"the budget is full: waiting for `darkprep stream-train --spool {making.place}` to use shards (Ctrl-C ends; nothing is lost)"
            )

    background.stop_on_signals(stop)
    producer = Producer(
        making.spool,
        config,
        engine.pool(config.jobs),
        report=report,
        stop=stop,
        shelf=making.shelf(config.jobs),
    )
    return producer, producer.run()


def _described(plan: Plan, budget: int) -> str:
    layout = plan.stream.layout()
    scenes = len({pair.pair.scene for pair in plan.pairs})
    end = (
        "without end"
        if plan.shards is None
        else f"{plan.shards} shards, {format_bytes(plan.shards * layout.shard_bytes)}"
    )
    return (
        f"{plan.options.camera}: {len(plan.pairs)} pairs of {scenes} scenes, {end}; "
        f"a shard is {plan.options.samples_per_shard} samples, {format_bytes(layout.shard_bytes)}; budget {format_bytes(budget)}"
    )


def _name_skipped(skipped: tuple[Skipped, ...]) -> None:
    for one in skipped[:_SHOWN_SKIPS]:
        click.echo(one_line(f"skipped {one.path}: {one.why}"), err=True)
    if len(skipped) > _SHOWN_SKIPS:
        click.echo(f"and {len(skipped) - _SHOWN_SKIPS} more", err=True)
    if skipped:
        click.echo(f"{len(skipped)} files skipped", err=True)


@main.command(hidden=True)
@spool_option
@staging_option
@click.option("--jobs", type=int, required=True)
@click.option("--disk-budget", type=SIZE, required=True)
@click.option("--until", type=COUNT_OR_INF, required=True)
@engine_options
def produce(
    spool: Path | StoreUrl,
    staging: Path | None,
    jobs: int,
    disk_budget: int,
    until: int | None,
    backend: str,
    address: str | None,
) -> None:
    """What a background producer runs: no progress, waits for disk space as long as it takes."""
    config = ProducerConfig(
        budget_bytes=disk_budget, jobs=jobs, until=until, disk_patience_s=float("inf")
    )
    engine = Backend(backend=backend, address=address)
    stop = threading.Event()
    making = BuildSpool.at(spool, staging, stop)
    making.again()
    producer, _ = _produce(making, config, Progress(quiet=True), engine, stop)
    _name_skipped(producer.skipped)


@main.command(hidden=True)
@spool_option
@staging_option
@click.option("--room", type=int, required=True)
@click.option("--until", type=COUNT_OR_INF, required=True)
def fetch(spool: StoreUrl, staging: Path | None, room: int, until: int | None) -> None:
    """What a trainer has running beside it on a bucket: brings shards, deletes what was used."""
    stop = background.stop_on_signals()
    place = Spool(folder_for(spool, staging, "using")).open()
    bucket = Bucket.at(spool, stop=stop).open()
    Downloader(place, bucket, DownloaderConfig(room=room, until=until), stop=stop).run()


@main.command(short_help="Show what a spool holds and who works on it.")
@spool_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch, one a line.")
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C.")
def status(spool: Path | StoreUrl, as_json: bool, watch: bool) -> None:
    """Show shards, budget, disk use, cursor, rates, producers and damage of a spool.

    Example: darkprep status --spool spool --watch
    """
    look: Callable[[], dict[str, Any]]
    if isinstance(spool, StoreUrl):
        far = BucketStatus(Bucket.at(spool).open())
        look = far.record
        if not watch:
            far.settle()
    else:
        look = functools.partial(spool_status, Spool(spool).open())
    if not watch:
        found = look()
        click.echo(json.dumps(found, indent=1) if as_json else "\n".join(status_lines(found)))
        return
    stop = background.stop_on_signals()
    progress = Progress(log_format="json" if as_json else "text", on_stdout=True)
    with progress, progress.watching(look, title=str(spool)):
        while not stop.wait(0.2):
            if progress.unread.is_set():
                raise BrokenPipeError


@main.command(short_help="Check everything in a spool.")
@spool_option
@staging_option
def verify(spool: Path | StoreUrl, staging: Path | None) -> int:
    """Open and check the plan, every shard and every stored frame; status 1 if anything is damaged.

    Of a spool in object storage, every object is fetched once; frames are not in it.

    Example: darkprep verify --spool spool
    """
    if isinstance(spool, StoreUrl):
        shards, faults = verify_bucket(Bucket.at(spool).open(), staging)
        checked = f"{shards} shards"
    else:
        only_with_bucket(staging)
        shards, frames, faults = verify_spool(Spool(spool).open())
        checked = f"{shards} shards and {frames} frames"
    for fault in faults:
        click.echo(fault)
    click.echo(f"{checked} checked, {len(faults)} damaged")
    return 1 if faults else 0


@main.command(short_help="End the background producers of a spool.")
@spool_option
@staging_option
def stop(spool: Path | StoreUrl, staging: Path | None) -> None:
    """End the background producers of a spool; what is made stays.

    Of a spool in object storage, those that run on this host.

    Example: darkprep stop --spool spool
    """
    if isinstance(spool, StoreUrl):
        click.echo(stop_here(spool, staging))
        return
    only_with_bucket(staging)
    pids = background.stop_producers(Spool(spool).open())
    click.echo(
        f"stopped {', '.join(f'pid {pid}' for pid in pids)}" if pids else "nobody produces here"
    )


# -- training -----------------------------------------------------------------------------------------


@main.command("stream-train", short_help="Train on a spool while it is filled.")
@spool_option
@click.option(
    "--run",
    "--run-dir",
    "run_dir",
    type=click.Path(path_type=Path),
    help="Where the run's files go; under torchrun, which takes --run for its own, --run-dir.  [default: runs/<time>]",
)
@click.option("--iterations", default=1_000_000, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option(
    "--model",
    "model_name",
    default="redirt",
    show_default=True,
    metavar="NAME",
    help="redirt, redirt-2rdb, redirt-gn or sid.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|fp16|bf16")
@click.option(
    "--learning-rate",
    default=1e-4,
    show_default=True,
    help="Of the first half; a tenth in the second.",
)
@click.option(
    "--reuse", default=1, show_default=True, help="Uses of each shard before it is deleted."
)
@click.option(
    "--augment",
    default="cfa",
    show_default=True,
    metavar="cfa|paper|none",
    help="Flips and shifts that keep the CFA's phase, the published flips, or none.",
)
@click.option("--keep-shards", is_flag=True, help="Delete nothing; go round the plan's shards.")
@click.option(
    "--producers",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Workers to start when nobody produces; 0 starts none.",
)
@click.option("--resume", is_flag=True, help="Go on with --run, or with the newest run.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--checkpoint-every",
    default=2000,
    show_default=True,
    metavar="N",
    help="Iterations between checkpoints.",
)
@click.option(
    "--log-every",
    default=50,
    show_default=True,
    metavar="N",
    help="Iterations per line of metrics.jsonl.",
)
@click.option(
    "--evaluate-every",
    type=int,
    metavar="N",
    help="Iterations between looks at a few held-out frames; 0 for none.  [default: each checkpoint]",
)
@click.option(
    "--parts",
    default=1,
    show_default=True,
    metavar="N",
    help="Use a whole spool in the order in which N nodes would, with a part of the plan each.",
)
@click.option(
    "--rank-timeout",
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="How long ranks wait for one that neither answers nor is dead.",
)
@staging_budget_option
@staging_option
@watched
def stream_train(
    quiet: bool,
    log_format: LogFormat,
    rank_timeout: float,
    spool: Path | StoreUrl,
    staging: Path | None,
    staging_budget: int | None,
    **chosen: Any,
) -> None:
    """Train on a spool's shards, deleting each once used, and start producers if nobody makes more.

    Ctrl-C and SIGTERM write a checkpoint and end well; --resume goes on at the exact sample.

    On several GPUs: torchrun --nproc-per-node 4 -m darkprep stream-train ... (docs/scale.md).

    Example: darkprep stream-train --spool spool --iterations 100000 --device cuda --precision bf16
    """
    _before_torch()
    from darkprep.jobs.remote_training import spool_to_train_on
    from darkprep.jobs.training import TrainChoices, stream_training
    from darkprep.trainer.distributed import communicator_from

    stopper = background.stop_on_signals()
    with communicator_from(os.environ, rank_timeout) as ranks:
        quiet = quiet or ranks.rank > 0
        place, using = spool_to_train_on(
            spool, staging=staging, staging_budget=staging_budget, ranks=ranks, stop=stopper
        )
        with ranks.together():
            choices = TrainChoices(spool=place, using=using, **chosen)
        with Progress(quiet=quiet, log_format=log_format) as progress:
            run_dir, summary = stream_training(choices, progress, stopper, ranks=ranks)
    if ranks.rank > 0:
        return
    if log_format == "json":
        progress.event("summary", run=str(run_dir), **vars(summary))
    elif not quiet:
        click.echo(
            f"{summary.ended} after {summary.iterations} iterations, loss {_number(summary.first_loss)} -> {_number(summary.last_loss)}, "
            f"{summary.samples_per_second:.1f} samples/s, waited for data {summary.data_wait_fraction:.1%} of the time, "
            f"{summary.shards_deleted} shards deleted, spool at most {format_bytes(summary.peak_disk_bytes)}"
        )
        click.echo(summary.limiting_side)
        click.echo(f"run in {run_dir}")


def _before_torch() -> None:
    """Tell OpenMP not to spin while it waits, and refuse to work nowhere. Raises OptionError.

    torch reads the one when it is loaded, and only then; spinning threads take the cores from the
    producers beside them. In a directory that was deleted its libraries end the process without asking.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not _is_somewhere():
        raise OptionError(_NOWHERE)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


@main.command(short_help="Score trained weights on whole held-out frames.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help="weights.safetensors of a run.",
)
@camera_option
@root_option
@click.option("--split", default="test", show_default=True, metavar="train|val|test|val+test")
@click.option("--frames", default="first", show_default=True, metavar="first|all")
@click.option(
    "--exclude-misaligned", is_flag=True, help="Leave out the misaligned scenes of SID's Sony."
)
@click.option("--amplify", default="ratio", show_default=True, metavar="ratio|estimate|FACTOR")
@click.option(
    "--multiplier",
    type=float,
    metavar="M",
    help="The paper's m, with --amplify estimate.  [default: 5]",
)
@click.option(
    "--protocol",
    default="redirt",
    show_default=True,
    help="How figures are computed; named in the output.",
)
@xtrans_option
@match_option
@click.option(
    "--baseline",
    is_flag=True,
    help="Also score the short exposure as LibRaw develops it, amplified.",
)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for metrics.json and the pictures."
)
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json instead of words.")
def evaluate(**chosen: Any) -> None:
    """Restore every test frame of a camera and compare it with its long exposure.

    Example: darkprep evaluate --weights runs/X/weights.safetensors --camera sony --out results
    """
    _before_torch()
    from darkprep.jobs.training import EvaluateChoices, evaluation
    from darkprep.report.evaluation_page import write_evaluation_report

    as_json = chosen.pop("as_json")
    choices = EvaluateChoices(**chosen)
    with Progress(quiet=as_json) as progress:
        found = evaluation(choices, progress)
        if choices.out:
            progress.show("writing report.html")
            write_evaluation_report(
                choices.out,
                found.record(),
                root=choices.root,
                camera=choices.camera,
                weights=choices.weights,
            )
    _name_skipped(found.skipped)
    if as_json:
        click.echo(json.dumps(found.record(), indent=1))
    else:
        for line in found.lines():
            click.echo(line)


@main.command(short_help="Restore RAW files to pictures.")
@click.argument("raw", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help="weights.safetensors of a run.",
)
@click.option(
    "--amplify",
    default="estimate",
    show_default=True,
    metavar="estimate|FACTOR",
    help="The paper's estimate, or a factor such as 100.",
)
@click.option(
    "--multiplier",
    type=float,
    metavar="M",
    help="The paper's m, with --amplify estimate.  [default: 5]",
)
@xtrans_option
@match_option
@root_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("restored"), show_default=True)
@click.option("--format", "suffix", default="png", show_default=True, metavar="png|tiff")
@click.option("--bits", default=8, show_default=True, help="8 or 16.")
@click.option("--device", default="auto", show_default=True)
def restore(**chosen: Any) -> int:
    """Restore dark RAW files; a bad file is named and does not stop the others (status 1 at the end).

    Example: darkprep restore night/*.ARW --weights runs/X/weights.safetensors --amplify 100
    """
    _before_torch()
    from darkprep.jobs.training import RestoreChoices, restoration

    failed = 0
    for result in restoration(RestoreChoices(**chosen)):
        if result.error:
            failed += 1
            # Most errors open with the file already.
            named = result.error.startswith(f"{result.source}:")
            said = result.error if named else f"{result.source}: {result.error}"
            click.echo(one_line(f"failed {said}"), err=True)
        else:
            click.echo(f"{result.source} -> {result.target} ({format_duration(result.seconds)})")
    return 1 if failed else 0


@main.command("import-weights", short_help="Convert the paper's released checkpoint.")
@click.argument("published", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def import_weights(published: Path, out: Path) -> None:
    """Convert the released checkpoint PUBLISHED into OUT (.safetensors) for evaluate and restore.

    Example: darkprep import-weights demo_imgs/weights redirt.safetensors
    """
    _before_torch()
    from darkprep.jobs.training import import_released

    click.echo(import_released(published, out))


@main.command(short_help="Make a table of trainings and evaluations.")
@click.argument("name", metavar="NAME")
@root_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="Where trainings, scores and tables go; studies in one folder share trainings.",
)
@click.option("--small", is_flag=True, help="On synthetic photographs, minutes on two CPU cores.")
@click.option(
    "--iterations", type=int, help="Of each training.  [default: 1000000, with --small 3500]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|fp16|bf16")
@click.option(
    "--jobs",
    type=int,
    default=lambda: os.cpu_count() or 1,
    show_default="all cores, with --small 1",
    help="Producer processes beside a training.",
)
@click.option(
    "--disk-budget",
    type=SIZE,
    metavar="SIZE",
    help="For each training's spool.  [default: 20GB, at most half of the free space; with --small 250MB]",
)
@click.option(
    "--xtrans",
    "fuji_xtrans",
    default="rggb",
    show_default=True,
    metavar="rggb|plain",
    help="How section-5 feeds Fuji's X-Trans to a network that reads Bayer cameras too.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A trained network for the study levels, instead of training one.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def study(name: str, jobs: int, quiet: bool, **chosen: Any) -> None:
    """Carry out a study: section-5, section-7, levels, x-trans or noise.

    \b
    section-5  networks of Sony and of Fuji, with all scenes and a fifth, on three cameras they never saw
    section-7  the standard network, with a block less, with group normalisation
    levels     four cameras decoded with the published levels and with the files' own
    x-trans    three ways to feed an X-Trans camera to a network
    noise      trained on photographed pairs, and on long exposures with made noise

    Stopped or killed, the same command goes on; several processes may share one --out.

    Example: darkprep study section-7 --small
    """
    _before_torch()
    from darkprep.studies.catalogue import run_study
    from darkprep.studies.cells import Machine
    from darkprep.studies.options import SMALL_BUDGET_BYTES, Small, StudyOptions
    from darkprep.studies.work import Work

    small = chosen.pop("small")
    own_jobs = click.get_current_context().get_parameter_source("jobs") is ParameterSource.DEFAULT
    machine = Machine(
        device=chosen.pop("device"),
        precision=chosen.pop("precision"),
        jobs=1 if small and own_jobs else jobs,
        disk_budget=chosen.pop("disk_budget") or (SMALL_BUDGET_BYTES if small else None),
    )
    options = StudyOptions(machine=machine, small=Small() if small else None, **chosen)
    with Progress(quiet=quiet) as progress:
        work = Work(
            out=options.out,
            root=options.data_root(),
            progress=progress,
            stop=background.stop_on_signals(),
        )
        page = run_study(name, options, work)
    if not quiet:
        click.echo((page.parent / "table.md").read_text(encoding="utf-8"), nl=False)
        click.echo(f"\n{page}")


@main.command(short_help="See the whole job done on synthetic files.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--minutes", default=3.5, show_default=True, help="Most time to train.")
@click.option("--seed", default=0, show_default=True)
def demo(out: Path, minutes: float, seed: int) -> None:
    """Make RAW files, stream them through a small budget into a training, and score it; offline, on a CPU.

    Example: darkprep demo --out demo
    """
    _before_torch()
    from darkprep.jobs.demo import run_demo

    if not 0 < minutes <= 10_000:  # no clock waits for as long as some numbers say
        raise OptionError(f"minutes must be above 0 and at most 10000, not {minutes:g}")
    with Progress() as progress:
        for line in run_demo(
            out, minutes=minutes, seed=seed, progress=progress, stop=background.stop_on_signals()
        ):
            click.echo(line)


main.add_command(inspect.report)
main.add_command(inspect.advise)
