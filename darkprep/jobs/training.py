"""Where the two sides meet: pipeline makes samples and producers, trainer uses them; neither knows the other.

The trade-off: choices are spelled once more here than in the library, so that the library needs no
command line and the command line no knowledge of torch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darkprep.jobs.background import Supervisor
from darkprep.jobs.gpus import refuse_undrivable
from darkprep.jobs.placement import (
    RankPlacement,
    check_ranks,
    check_room,
    own_device,
    rank_placement,
)
from darkprep.jobs.protocols import ELD_CENTRE, packed_raw
from darkprep.jobs.remote_training import RemoteTraining
from darkprep.jobs.validation import ValidationFrames
from darkprep.model import (
    PUBLISHED_LICENCE,
    ModelError,
    build_model,
    import_published,
    load_model,
    load_weights,
)
from darkprep.model.inference import ready_for_inference
from darkprep.pipeline.pairs.reference_colours import reference_colours
from darkprep.pipeline.pairs.table import (
    MISALIGNED,
    Pairs,
    Skipped,
    camera_named,
    find_pairs,
    reported_in,
    splits_named,
)
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import default_budget
from darkprep.pipeline.produce.frames_directory import lies_in
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER, Amplification, parse_amplification
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.resample import parse_xtrans_mode
from darkprep.report.provenance import FILE as ABOUT
from darkprep.report.provenance import run_provenance
from darkprep.report.run_page import write_run_report
from darkprep.shards import (
    DarkprepError,
    DatasetError,
    OptionError,
    RawError,
    Sample,
    Spool,
    SpoolReader,
    WeightsError,
)
from darkprep.shards.files import disk_errors, write_json
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.trainer.distributed import Communicator, SingleProcess
from darkprep.trainer.evaluation import Evaluation, ImageScores, Restorer, evaluate
from darkprep.trainer.loop import Validation, check_unused, only_training_in, train
from darkprep.trainer.metrics import protocol_named
from darkprep.trainer.prefetch import Allocate
from darkprep.trainer.records import RunSummary
from darkprep.trainer.restoration import LoneFrame, RestoreJob, RestoreResult, restore_all
from darkprep.view.history import SpoolHistory
from darkprep.view.live import Progress
from darkprep.view.status import spool_status

log = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where runs go that are given no directory of their own."""


# -- stream-train -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainChoices:
    """What a user chooses of a training on a spool."""

    spool: Spool
    run_dir: Path | None
    iterations: int
    batch_size: int
    model_name: str
    device: str
    precision: str
    learning_rate: float
    reuse: int
    augment: str
    keep_shards: bool
    producers: str
    resume: bool
    seed: int
    checkpoint_every: int
    log_every: int
    evaluate_every: int | None = None
    """Iterations between looks at held-out frames; None for each checkpoint, 0 for never."""
    parts: int = 1
    """Use a whole spool in the order in which so many nodes would, with a part of the plan each."""
    using: RemoteTraining | None = None
    """Where the spool's shards come from, when it is fetched from object storage."""

    def __post_init__(self) -> None:
        if self.using and self.keep_shards:
            raise OptionError(
                "keep-shards needs a spool in a directory: from object storage shards are fetched, used and deleted"
            )
        if self.using and self.producers not in ("auto", "0"):
            raise OptionError(
                f"producers {self.producers}: for a spool in object storage run `darkprep build --spool {self.using.url}` where the photographs are"
            )

    @property
    def may_produce(self) -> bool:
        """Whether producers may be started here, so that the stream goes on behind what was built."""
        return self.producers != "0" and not self.using

    def config(self) -> TrainConfig:
        """The trainer's record of it; raises OptionError."""
        stream = self.spool.stream
        return TrainConfig(
            model=self.model_name,
            cfa=stream.cfa,
            crop=stream.crop,
            iterations=self.iterations,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            precision=self.precision,  # type: ignore[arg-type] # TrainConfig checks it
            device=self.device,
            reuse=self.reuse,
            augment=self.augment,  # type: ignore[arg-type] # TrainConfig checks it
            seed=self.seed,
            checkpoint_every=self.checkpoint_every,
            log_every=self.log_every,
            camera=stream.camera,
            plan=self.spool.digest,
            parts=max(self.parts, self.spool.part[1]),
        )

    def until(self) -> int:
        """How many shards of the plan the training needs; raises OptionError."""
        order = self.spool.use_order(seed=self.seed, reuse=self.reuse, parts=self.parts)
        samples = self.iterations * (self.batch_size // self.spool.part[1])
        until = order.newest_shard(max(0, samples - 1)) + 1
        if not self.keep_shards:
            return until
        if self.spool.stream.shards is None:
            raise OptionError("keep-shards needs a plan with an end; build with --epochs N")
        return min(until, self.spool.stream.shards)


def stream_training(
    choices: TrainChoices,
    progress: Progress,
    stop: threading.Event,
    *,
    ends_at: float | None = None,
    ranks: Communicator | None = None,
) -> tuple[Path, RunSummary]:
    """Train on the spool, with producers if need be; the run's directory and its summary.

    `ends_at` is the `time.monotonic()` at which `stop` will be set, for the view to say. Of several
    ranks each calls this alike; rank 0 alone writes and shows.
    """
    ranks = ranks or SingleProcess()
    with ranks.together():
        choices = replace(choices, device=own_device(choices.device, ranks))
        config, spool, place = choices.config(), choices.spool, rank_placement(choices.spool, ranks)
        supervisor = _supervisor(choices, place)
        device = open_device(config.device)
        refuse_undrivable(device)
    check_ranks(spool, config, ranks, {"keep_shards": choices.keep_shards})
    run_dir, frames = _prepare(choices, config, device, place, ranks, progress)
    history = SpoolHistory(run_dir)

    def open_reader(start: int, allocate: Allocate | None) -> SpoolReader:
        if ranks.rank == 0:
            history.begin()
            write_json(run_dir / ABOUT, run_provenance(spool, device), sync=False)
        if frames:
            frames.start()
        reader = SpoolReader(
            spool,
            batch_size=config.batch_size,
            seed=config.seed,
            start=start,
            stop_after=config.iterations,
            rank=place.rank,
            world=place.world,
            parts=choices.parts,
            shards=None if choices.keep_shards or choices.may_produce else spool.stream.shards,
            reuse=config.reuse,
            keep=choices.keep_shards,
            run=str(run_dir.absolute()),
            stop=stop,
            allocate=allocate,
            on_starving=supervisor.starving,
        )
        try:
            if place.keeps_house and supervisor.ensure() and not choices.using:
                progress.say("nobody made shards here: started a producer in the background")
        except BaseException:
            reader.close()
            raise
        return reader

    title = f"darkprep stream-train · {config.model} on {config.camera}"
    with (
        contextlib.closing(supervisor),
        contextlib.closing(frames) if frames else contextlib.nullcontext(),
        progress.watching(
            lambda: spool_status(spool), title=title, also=history.take if ranks.rank == 0 else None
        ) as watch,
    ):
        watch.ends_at(ends_at)
        summary = train(
            config,
            open_reader,
            run_dir,
            resume=choices.resume,
            on_step=watch.step,
            stop=stop,
            held_out=_held_out(choices, frames),
            gauges=watch.gauges,
            ranks=ranks,
        )
    if ranks.rank == 0:
        _report(run_dir, progress)
    return run_dir, summary


def _report(run_dir: Path, progress: Progress) -> None:
    """Make the run's page; a training that is done does not fail for want of it."""
    try:
        progress.say(f"report: {write_run_report(run_dir)}", event="report")
    except (DarkprepError, OSError) as error:
        log.warning("no report was made, `darkprep report %s` makes it: %s", run_dir, error)


def _prepare(
    choices: TrainChoices,
    config: TrainConfig,
    device: torch.device,
    place: RankPlacement,
    ranks: Communicator,
    progress: Progress,
) -> tuple[Path, ValidationFrames | None]:
    """The run's directory, on all ranks, and what rank 0 judges the training by."""
    run_dir, frames = Path(), None
    with ranks.together():
        if place.keeps_house:
            # Refuses a second trainer before its run leaves anything behind.
            if choices.using:
                choices.using.check_free()
            with choices.spool.trainer_lock():
                pass
        if ranks.rank == 0:
            run_dir = _run_dir(choices)
            frames = _held_out_frames(choices, run_dir, device)
            _introduce(choices, config, run_dir, device, frames, progress)
    return Path(ranks.tell(str(run_dir))), frames


def _held_out_frames(
    choices: TrainChoices, run_dir: Path, device: torch.device
) -> ValidationFrames | None:
    """What the training is judged by; nothing where that is not wanted or no photograph is at hand."""
    if choices.evaluate_every == 0:
        return None
    try:
        frames = ValidationFrames(Plan.load(choices.spool), run_dir, device)
    except DatasetError:
        return None
    return frames if len(frames) else None


def _held_out(choices: TrainChoices, frames: ValidationFrames | None) -> Validation | None:
    if frames is None:
        return None
    return Validation(every=choices.evaluate_every or choices.checkpoint_every, judge=frames.judge)


def _introduce(
    choices: TrainChoices,
    config: TrainConfig,
    run_dir: Path,
    device: torch.device,
    frames: ValidationFrames | None,
    progress: Progress,
) -> None:
    """Say what is about to be done, before the first minutes of it are spent."""
    stream = choices.spool.stream
    judged = (
        f"judged by {len(frames)} held-out frame{'s' * (len(frames) > 1)} every "
        f"{choices.evaluate_every or choices.checkpoint_every:,} iterations"
        if frames
        else "not judged by held-out frames"
    )
    for text in (
        f"{config.model} on {config.camera}, {config.iterations:,} iterations of "
        f"{config.batch_size} x {config.crop} px, {device}, {config.precision}, run {run_dir}",
        f"  learning rate {config.learning_rate:g}, then {config.learning_rate / 10:g}; "
        f"reuse {config.reuse}, augment {config.augment}, seed {config.seed}; {judged}",
        f"  plan {choices.spool.digest} in {choices.using.url if choices.using else choices.spool.path}, {stream.samples} samples a shard, "
        f"{'no end' if stream.shards is None else f'{stream.shards} shards'}; "
        f"{'shards are kept' if choices.keep_shards else 'shards are deleted after use'}",
    ):
        progress.say(text, event="config")


def _supervisor(choices: TrainChoices, here: RankPlacement) -> Supervisor:
    if choices.using:
        jobs = 0
    elif choices.producers == "auto":
        jobs = choices.spool.settings.jobs or os.cpu_count() or 1
    elif re.fullmatch(r"\d{1,4}", choices.producers):
        jobs = int(choices.producers)
    else:
        raise OptionError(f"producers must be auto or a whole number, not {choices.producers!r}")
    budget = choices.spool.settings.budget_bytes or default_budget(choices.spool.path)
    until, planned = choices.until(), choices.spool.stream.shards
    check_room(choices.spool, choices.parts, budget, kept=until if choices.keep_shards else None)
    if choices.using and planned is not None:
        until = min(until, planned)
    return Supervisor(
        choices.spool,
        jobs=jobs,
        budget_bytes=budget,
        until=until,
        keeps_house=here.keeps_house,
        fetch=functools.partial(choices.using.fetching, until) if choices.using else None,
    )


def _run_dir(choices: TrainChoices) -> Path:
    """The run's directory; one that cannot be used is refused before anything is said of a training to come."""
    run_dir = choices.run_dir
    if run_dir:
        check_folder("run", run_dir)
        # A spool is removed when it is done with.
        if lies_in(run_dir, choices.spool.path):
            raise OptionError(
                f"{run_dir}: is the spool or lies in it, which is removed some day; choose another --run"
            )
        if choices.resume and not (run_dir / "config.json").exists():
            raise OptionError(f"{run_dir}: holds no run to resume; leave out --resume")
    else:
        run_dir = _newest_run() if choices.resume else _new_run()
    if choices.resume:
        with only_training_in(run_dir):
            pass  # nobody else goes on with it
    else:
        check_unused(run_dir)
    return run_dir


def _newest_run() -> Path:
    runs = list(RUNS.glob("*/config.json"))
    if not runs:
        raise OptionError(f"{RUNS}: holds no run to resume; name one with --run")
    # Written anew whenever a run goes on; names are of people's own choice.
    return max(runs, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def _new_run() -> Path:
    name = time.strftime("%Y-%m-%dT%H-%M-%S")
    taken = sum(1 for _ in RUNS.glob(f"{name}*"))
    return RUNS / (f"{name}-{taken + 1}" if taken else name)


# -- evaluate -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvaluateChoices:
    """What a user chooses of an evaluation."""

    weights: Path
    camera: str
    root: Path
    split: str
    frames: str
    exclude_misaligned: bool
    amplify: str
    multiplier: float | None
    protocol: str
    baseline: bool
    device: str
    out: Path | None
    xtrans: str = "native"
    match_colour: str | None = None

    def settings(self) -> dict[str, str]:
        """What the figures depend on beside the protocol, for the record."""
        left_out = self.exclude_misaligned and self.camera.lower() in MISALIGNED
        return {
            "split": self.split,
            "frames": self.frames,
            "misaligned scenes": "left out" if left_out else "as found",
            "amplify": self.amplify + self._multiplier_words(),
            "cfa": self.xtrans,
            "match colour": self.match_colour or "no",
        }

    def _multiplier_words(self) -> str:
        if self.amplify != "estimate":
            return ""
        return f", m = {_multiplier(self.multiplier, 'estimate'):g}"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the files that had to be left out."""

    evaluation: Evaluation
    skipped: tuple[Skipped, ...]

    def record(self) -> dict[str, Any]:
        """What metrics.json holds."""
        return asdict(self.evaluation)

    def lines(self) -> list[str]:
        """For people."""
        found = self.evaluation
        lines = [
            f"{found.camera}: {_pairs(found.pairs)}, PSNR {_decibels(found.psnr)}, SSIM {found.ssim:.4f}"
        ]
        if found.baseline_ssim is not None:
            lines.append(
                f"amplified input: PSNR {_decibels(found.baseline_psnr)}, SSIM {found.baseline_ssim:.4f}"
            )
        lines += [
            f"  {group.group}: {_pairs(group.pairs)}, PSNR {_decibels(group.psnr)}, SSIM {group.ssim:.4f}"
            for group in found.groups
        ]
        lines.append(f"protocol {found.protocol}, {found.region}: {found.protocol_says}")
        return lines


def evaluation(
    choices: EvaluateChoices, progress: Progress, *, check: Callable[[], None] = lambda: None
) -> Evaluated:
    """Score weights on a camera's frames; raises DatasetError when no frame is usable.

    `check` is called before each frame, and may raise to end it.
    """
    if choices.frames not in ("first", "all"):
        raise OptionError(f"frames must be first or all, not {choices.frames!r}")
    splits_named(choices.split)  # before weights are read
    check_folder("out", choices.out)
    device = open_device(choices.device)
    network = restorer(choices.weights, device)
    camera = camera_named(choices.camera)
    found = find_pairs(
        choices.root,
        camera,
        frames=choices.frames,  # type: ignore[arg-type] # checked above
        exclude_misaligned=choices.exclude_misaligned,
    ).of_split(choices.split)
    by_id = {pair.id: pair for pair in found.pairs}
    skipped: list[RawError] = []
    done: list[ImageScores] = []

    def on_image(image: ImageScores) -> None:
        done.append(image)
        progress.show(
            f"{len(done)}/{len(by_id)} {image.pair}: PSNR {_decibels(image.psnr)}, SSIM {image.ssim:.4f}"
        )

    def amplified_input(sample: Sample) -> np.ndarray[Any, np.dtype[np.uint16]]:
        return develop_amplified(
            found.root / by_id[sample.meta.pair].short, sample.meta.amplification
        )

    in_raw = protocol_named(choices.protocol).domain == "packed RAW"
    centre = ELD_CENTRE if in_raw and camera.dataset == "SID" else None
    result = evaluate(
        network,
        _whole_frames(choices, found, skipped, check),
        choices.out,
        protocol=choices.protocol,
        device=device,
        baseline=amplified_input if choices.baseline else None,
        compared=packed_raw(found.root, by_id, centre=centre) if in_raw else None,
        region=f"the middle {centre} x {centre} packed pixels" if centre else "whole frames",
        settings=choices.settings(),
        groups=lambda pair: reported_in(by_id[pair]),
        on_image=on_image,
    )
    bad = [Skipped(error.path, error.reason) for error in skipped]
    return Evaluated(result, (*found.skipped, *bad))


def _whole_frames(
    choices: EvaluateChoices, found: Pairs, skipped: list[RawError], check: Callable[[], None]
) -> Iterator[Sample]:
    """The samples to score; files that cannot be used go into `skipped`."""
    amplification = parse_amplification(choices.amplify)
    multiplier = _multiplier(choices.multiplier, amplification)
    xtrans = parse_xtrans_mode(choices.xtrans)
    match = reference_colours(choices.match_colour, choices.root) if choices.match_colour else None
    for pair in found.pairs:
        check()
        try:
            yield whole_frame(
                found.root,
                pair,
                amplification=amplification,
                multiplier=multiplier,
                xtrans=xtrans,
                match=match,
            )
        except RawError as error:
            skipped.append(error)
    if len(skipped) == len(found.pairs):
        raise DatasetError(
            f"{found.root}: none of the {len(skipped)} pairs can be used; the first: {skipped[0]}"
        )


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f} dB"


def _multiplier(chosen: float | None, amplification: Amplification) -> float:
    """The paper's m; raises OptionError when it is given where it has no meaning."""
    if amplification != "estimate":
        if chosen is not None:
            raise OptionError("multiplier goes with --amplify estimate only")
        return 1.0
    return DEFAULT_MULTIPLIER if chosen is None else chosen


def restorer(weights: Path, device: torch.device) -> Restorer:
    """A network with trained weights, ready for whole frames; raises WeightsError."""
    _check_named(weights)
    try:
        if weights.suffix == ".safetensors":
            network = load_model(weights)
        else:
            network = build_model("redirt")
            load_weights(network, weights)
        return ready_for_inference(network, device=device)
    except ModelError as error:
        raise WeightsError(str(error)) from error


def _check_named(weights: Path) -> None:
    """Say what was meant where another thing of a run was named; raises WeightsError."""
    if weights.is_dir():
        raise WeightsError(f"{weights}: is a directory; name the weights.safetensors in it")
    if weights.suffix == ".pt" and (weights.parent.parent / "config.json").exists():
        raise WeightsError(
            f"{weights}: is a checkpoint, for --resume; name weights.safetensors of the run, which a training writes when it ends"
        )
    if not weights.exists() and (weights.parent / "config.json").exists():
        raise WeightsError(
            f"{weights}: is not there yet, a training writes it when it ends; go on with `darkprep stream-train --resume --run {shlex.quote(str(weights.parent))}`"
        )


def check_folder(option: str, folder: Path | None) -> None:
    """Raises OptionError for a folder to write into that cannot be one, before any work."""
    for place in (folder, *folder.parents) if folder else ():
        if place.is_dir():
            return
        if os.path.lexists(place):
            what = "is a file" if place.exists() else "is a link that leads nowhere"
            raise OptionError(f"{place}: {what}; give --{option} a folder")


# -- restore and import -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RestoreChoices:
    """What a user chooses of restoring files."""

    raw: tuple[Path, ...]
    weights: Path
    amplify: str
    multiplier: float | None
    out: Path
    suffix: str
    bits: int
    device: str
    xtrans: str = "native"
    match_colour: str | None = None
    root: Path = Path("data")


def restoration(choices: RestoreChoices) -> Iterator[RestoreResult]:
    """Restore the files one by one, telling of each."""
    if choices.suffix not in ("png", "tiff"):
        raise OptionError(f"format must be png or tiff, not {choices.suffix!r}")
    if choices.bits not in (8, 16):
        raise OptionError(f"bits must be 8 or 16, not {choices.bits}")
    check_folder("out", choices.out)
    targets = _targets(choices)
    _keep_sources(choices, targets)
    amplification = parse_amplification(choices.amplify)
    if amplification == "ratio":
        raise OptionError("amplify must be estimate or a number: a lone file has no exposure ratio")
    multiplier = _multiplier(choices.multiplier, amplification)
    device = open_device(choices.device)
    network = restorer(choices.weights, device)
    decoding: dict[str, Any] = {
        "amplification": amplification,
        "multiplier": multiplier,
        "xtrans": parse_xtrans_mode(choices.xtrans),
        "match": reference_colours(choices.match_colour, choices.root)
        if choices.match_colour
        else None,
    }
    jobs = [
        RestoreJob(source=str(path), load=_loader(path, decoding), target=target)
        for path, target in zip(choices.raw, targets, strict=True)
    ]
    yield from restore_all(network, jobs, bits=choices.bits, device=device)  # type: ignore[arg-type] # checked above


def _targets(choices: RestoreChoices) -> list[Path]:
    """A picture per file; files of one name from several folders get numbers."""
    taken: dict[str, None] = {}
    for path in choices.raw:
        name, count = path.stem, 1
        while name in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken[name] = None
    return [choices.out / f"{name}.{choices.suffix}" for name in taken]


def _keep_sources(choices: RestoreChoices, targets: list[Path]) -> None:
    """A RAW file may be named like a picture: raises OptionError before one would be written over."""
    sources = {_identity(path) for path in choices.raw} - {None}
    for target in targets:
        if _identity(target) in sources:
            raise OptionError(
                f"{target}: is one of the files to restore and would be written over; choose another --out"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever links lead to it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _loader(path: Path, decoding: dict[str, Any]) -> Callable[[], LoneFrame]:
    def load() -> LoneFrame:
        sample, header = lone_frame(path, **decoding)
        text = {
            "Camera": f"{header.make} {header.model}".strip(),
            "Exposure": f"{header.exposure_s:g} s, ISO {header.iso:g}",
            "Amplification": f"{sample.meta.amplification:g} ({sample.meta.amplification_source})",
            "Software": "darkprep",
        }
        return LoneFrame(sample=sample, orientation=header.orientation, text=text)

    return load


def import_released(published: Path, out: Path) -> str:
    """Convert the paper's checkpoint; what to tell the user. Raises WeightsError, DiskFull and SpoolError."""
    try:
        with disk_errors(out):
            import_published(published, out)
    except ModelError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise WeightsError(
            f"{out}: cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from error
    return f"wrote {out}. {PUBLISHED_LICENCE}"
