"""Valid records of every kind that darkprep reads, each with the reader that a command uses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.samples import META
from darkprep.jobs.resume import choose_run
from darkprep.jobs.train import training_cameras
from darkprep.pipeline.noise.camera_calibration import (
    CameraCalibration,
    Gain,
    GainMode,
    IsoCalibration,
    JointFit,
    ReadNoise,
    parse_calibration,
    read_shading,
)
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.noise.parameters import IsoNoise, NoiseParameters
from darkprep.pipeline.noise.sampled_darks import DarkFile, SampledDarks
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.quarantine import DecodingRecord, FileQuarantine, QuarantinedFiles
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from darkprep.report.provenance import plan_facts
from darkprep.report.run_page import write_run_report
from darkprep.shards import Cursor, OptionError, Spool
from darkprep.shards.format import decode_meta, encode_meta
from darkprep.shards.heartbeat import Heartbeat, ProducerStatus
from darkprep.shards.own_settings import check_own_settings
from darkprep.shards.plan_record import ProducerSettings, plan_digest
from darkprep.shards.process import ProcessId
from darkprep.shards.quarantine import QuarantineRecord
from darkprep.shards.remote.bucket import Bucket
from darkprep.studies.levels import LevelsTask
from darkprep.studies.target_tasks import CostTask, TwoDomainsTask
from darkprep.studies.task_kinds import EvaluationTask, TrainingTask
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.records import MetricsLine, RunSummary
from darkprep.view.history import SpoolHistoryLine
from darkprep.view.read_status import BucketReader, spool_status
from darkprep.view.text import status_lines
from tests.support.fake_store import FakeStore
from tests.support.study_records import METRICS, first_task, read_study, record_of

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ForeignRecord:
    """A valid record, and the reader of a changed one in an empty directory; it raises DarkprepError for an invalid one."""

    record: Json
    read: Callable[[Path, Any], object]
    parts: tuple[str, ...] = ("",)
    """Beginnings of the places (`stream/crop`) that are changed."""


def _write(path: Path, record: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def _json(record: Any) -> Json:
    copied: Json = json.loads(json.dumps(record))
    return copied


# -- the plan -----------------------------------------------------------------------------------------

_PAIR = Pair(
    id="00001_00_0.1s", scene="00001", camera="sony", split="train", short="Sony/short/a.dng",
    long="Sony/long/a.dng", ratio=100.0, iso=800.0,
)  # fmt: skip
_COLOURS: Json = {
    "camera": "SONY ILCE-7SM2",
    "white_balance": [2.0, 1.0, 1.5],
    "to_srgb": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
}
_PROCESS = ProcessId(host="here", pid=1, started=1)
_OPTIONS = PlanOptions(camera="sony", crop=32, margin=4, samples_per_shard=8, crops_per_visit=4)
_NOISE = NoiseParameters(
    gain=1.0, read_shape=0.1, read_scale=2.0, row_sigma=0.1, colour_bias=(0.0,) * 4
)
_TABLE = IsoTable(
    black=512.0,
    white=16383,
    modes=((IsoNoise(iso=800.0, parameters=_NOISE),),),
    drawn_isos=(100.0, 800.0),
)
_DARKS = SampledDarks(
    files=(DarkFile(path="a.dng", fingerprint="1-a", iso=800.0, gain=1.0),),
    cfa="bayer",
    height=64,
    width=96,
)
_SETTINGS = ProducerSettings(
    pairs="pairs.csv", layout="short-long", darks="darks", dark_shading="camera.json", budget_bytes=10**9, staging_bytes=1,
    jobs=2, frames_dir="/nowhere/frames", frames_budget_bytes=10**9, backend="dask", address="tcp://127.0.0.1:1", part=1, parts=3,
)  # fmt: skip


def plan_record(**options: Any) -> Json:
    """Return a plan.json of one pair, with all settings."""
    planned = PlannedPair(
        pair=_PAIR, height=64, width=96, short_fingerprint="1-a", long_fingerprint="1-b"
    )
    options = asdict(_OPTIONS) | options
    plan = Plan(options=PlanOptions(**options), pairs=(planned,), cfa="bayer", root=Path("data"))
    return _json(plan.record().to_json()) | {
        "place": _json(replace(_SETTINGS, root="data").to_json()),
        "cameras": [_COLOURS],
    }


def _read_plan(folder: Path, record: Any) -> None:
    _write(folder / "plan.json", record)
    spool = Spool(folder).open()
    status_lines(spool_status(spool))
    training_cameras(spool)
    check_own_settings(spool.plan, "spool")


def _read_plan_with_its_digest(folder: Path, record: Any) -> None:
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        record["digest"] = plan_digest(record["stream"], record["recipe"])
    _write(folder / "plan.json", record)
    spool = Spool(folder).open()
    plan_facts(spool)
    Plan.load(spool)


def _read_plan_of_bucket(folder: Path, record: Any) -> None:
    store = FakeStore()
    store.objects["plan.json"] = json.dumps(record).encode()
    bucket = Bucket(store, "s3://bucket").open()
    status_lines(BucketReader(bucket).status())


# -- other files of a spool ---------------------------------------------------------------------------


_PLAN = plan_record()


def _spool_with_plan(folder: Path) -> Spool:
    spool = Spool(folder)
    if not spool.plan_file.exists():
        _write(spool.plan_file, _PLAN)
        spool.restore_directories()
    return spool


def _state(name: str) -> Callable[[Path, Any], None]:
    """Return a reader of the file `name` of a spool: what `darkprep status` prints."""

    def read(folder: Path, record: Any) -> None:
        spool = _spool_with_plan(folder)
        _write(folder / name, record)
        lines = status_lines(spool_status(spool))
        assert max(map(len, lines)) < 2_000, "lines of status"
        quarantine = FileQuarantine(spool, lambda _: False, 1e9)
        quarantine.kill_stuck_workers()
        quarantine.load()
        quarantine.handle_worker_death()
        spool.remove_dead_heartbeats()
        with spool.producer_lock():
            pass

    return read


def _object(name: str) -> Callable[[Path, Any], None]:
    """Return a reader of the object `name` of a bucket: what `darkprep status` prints."""

    def read(folder: Path, record: Any) -> None:
        store = FakeStore()
        store.objects["plan.json"] = json.dumps(plan_record()).encode()
        store.objects[name] = json.dumps(record).encode()
        bucket = Bucket(store, "s3://bucket").open()
        lines = status_lines(BucketReader(bucket).status())
        assert max(map(len, lines)) < 2_000, "lines of status"
        with contextlib.suppress(Exception):
            bucket.producer_lease()

    return read


def _read_sample(folder: Path, record: Any) -> None:
    decode_meta(json.dumps(record).encode(), "0123456789abcdef")


# -- a run --------------------------------------------------------------------------------------------

_RUN: dict[str, Json] = {
    "config.json": _json(asdict(TrainConfig())),
    "about.json": {
        "started": "2026-11-27 10:00:00 +0000",
        "command": "darkprep stream-train",
        "plan": {"digest": "0123456789abcdef", "pairs": 3, "shard_bytes": 1},
        "versions": {"python": "3.11"},
        "machine": {"cores": "2"},
    },
    "summary.json": RunSummary(
        iterations=100, samples=800, first_loss=0.5, last_loss=0.1, data_wait_fraction=0.0, samples_per_second=16.0,
        seconds=50.0, first_batch_seconds=1.5, shards_deleted=6, damaged_shards=0, peak_disk_bytes=10**9,
        parameters=581_792, ended="stopped", limiting_side="the cpu limits", validation_psnr=20.0, validation_ssim=0.5,
        best_validation_psnr=20.0, best_validation_iteration=100,
    ).record(),
    "metrics.jsonl": MetricsLine(
        iteration=50, loss=0.25, learning_rate=1e-4, iterations_per_s=2.0, samples_per_s=16.0, data_wait_fraction=0.0,
        gpu_busy_percent=90.0, shards_deleted=3, damaged=0, seconds=25.0, extra={"disk_bytes": 7},
    ).record(),
    "evaluations.jsonl": {
        "iteration": 50, "psnr": 20.0, "ssim": 0.5, "images": [{"pair": "a", "psnr": 20.0, "ssim": 0.5}],
    },
    "spool.jsonl": asdict(
        SpoolHistoryLine(seconds=1.0, disk_bytes=10, least_disk_bytes=5, shards_ready=3, budget_bytes=20)
    ),
}  # fmt: skip


def _run(name: str) -> Callable[[Path, Any], None]:
    """Return a reader of the file `name` of a run: what resumes the run, or the status of its training."""

    def read(folder: Path, record: Any) -> None:
        run = folder / "run"
        _write_run(run)
        _write(run / name, record)
        if name == "config.json":
            choose_run(run, {}, frozenset(), SingleProcess(), resume=True)
            return
        spool = _spool_with_plan(folder)
        _write(
            folder / "cursors" / "rank-0.json",
            Cursor(rank=0, world=1, batch=0, shard=0, run=str(run)).to_json(),
        )
        with spool.trainer_lock():
            lines = status_lines(spool_status(spool))
        assert max(map(len, lines)) < 2_000, "lines of status"

    return read


def _write_run(run: Path) -> None:
    for name, content in _RUN.items():
        if not (run / name).exists():
            _write(run / name, content)


_ON_THE_PAGE = {
    "config.json": ("model", "iterations", "target"),
    "about.json": ("started", "command", "plan"),
    "summary.json": ("first_loss", "ended"),
    "metrics.jsonl": ("loss", "learning_rate"),
    "evaluations.jsonl": ("psnr", "images"),
    "spool.jsonl": ("disk_bytes", "budget_bytes"),
}
"""Fields that the page of a run shows, by the file; those that are shown alike are left out."""


def _page(name: str) -> Callable[[Path, Any], None]:
    """Return a reader of the file `name` of a run: the run's page."""

    def read(folder: Path, record: Any) -> None:
        _write_run(folder)
        _write(folder / name, record)
        write_run_report(folder)

    return read


# -- noise and colours --------------------------------------------------------------------------------

_CALIBRATION = CameraCalibration(
    camera="SONY ILCE-7SM2",
    cfa="bayer",
    height=64,
    width=96,
    black=512.0,
    white=16383,
    isos=tuple(
        IsoCalibration(
            iso=iso, exposure_s=0.1, darks=6, gain=Gain(value=1.0, error=0.1, channels=(1.0,) * 3, pairs=2),
            read=ReadNoise(shape=0.1, scale=2.0, std=2.0, r2_tukey=0.9, r2_normal=0.9), row_sigma=0.1, row_error=0.1,
            column_sigma=0.1, fixed_column_sigma=0.1, fixed_pixel_sigma=0.1, colour_bias=(0.0,) * 4, step=1,
        )
        for iso in (800.0, 3200.0)
    ),
    modes=tuple(
        GainMode(
            lowest=iso, highest=iso, read=JointFit(slope=1.0, intercept=0.0, spread=0.1),
            row=JointFit(slope=1.0, intercept=0.0, spread=0.1), shading="camera-shading-0", checksums=("xxh3:0", "xxh3:0"),
        )
        for iso in (800.0, 3200.0)
    ),
    warnings=("few frames",),
)  # fmt: skip


def _read_calibration(folder: Path, record: Any) -> None:
    path = folder / "camera.json"
    calibration = parse_calibration(path, json.dumps(record).encode())
    table = calibration.noise_table(str(path))
    for iso in (50.0, 1600.0, 1e6):
        table.parameters(iso)
    with contextlib.suppress(OptionError):  # there are no maps
        read_shading(path, calibration, 1600.0)


def _read_colours(folder: Path, record: Any) -> None:
    for one in cameras_from_text(json.dumps([record])):
        assert one.colours.to_srgb.shape == (3, 3)


# -- studies ------------------------------------------------------------------------------------------

_STUDIED: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("section-7", TrainingTask, ("",)),
    ("x-trans", EvaluationTask, ("result", "seconds")),
    ("noise", EvaluationTask, ("result/groups",)),
    ("levels", LevelsTask, ("result",)),
    (
        "targets",
        TwoDomainsTask,
        ("result/means/x100/raw", "result/images/0/pair", "result/images/0/srgb psnr"),
    ),
    ("targets", CostTask, ("result",)),
)
"""Studies, a kind of their tasks, and the beginnings of the places of its record that are changed."""


def _task_of_study(study: str, kind: type, parts: tuple[str, ...]) -> ForeignRecord:
    task = first_task(study, kind)
    read = read_study(study, lambda context: context.record_path(task.name))
    return ForeignRecord(record=record_of(task), read=read, parts=parts)


def _metrics_of_study(study: str) -> ForeignRecord:
    task = first_task(study, EvaluationTask)
    assert isinstance(task, EvaluationTask)
    return ForeignRecord(
        record=METRICS,
        read=read_study(study, lambda context: task.folder(context) / "metrics.json"),
    )


FOREIGN: Mapping[str, ForeignRecord] = {
    "plan": ForeignRecord(
        record=plan_record(), read=_read_plan, parts=("format", "digest", "place", "cameras")
    ),
    "plan with its digest": ForeignRecord(
        record=plan_record(), read=_read_plan_with_its_digest, parts=("stream", "recipe")
    ),
    "plan of measured noise": ForeignRecord(
        record=plan_record(noise="measured", measured_noise=_TABLE), read=_read_plan_with_its_digest,
        parts=("recipe/options/noise", "recipe/options/measured"),
    ),
    "plan of sampled noise": ForeignRecord(
        record=plan_record(noise="sampled", sampled_darks=_DARKS), read=_read_plan_with_its_digest,
        parts=("recipe/options/noise", "recipe/options/sampled"),
    ),
    "plan in a bucket": ForeignRecord(record=plan_record(), read=_read_plan_of_bucket, parts=("place/b", "place/part")),
    "cursor": ForeignRecord(
        record=Cursor(rank=0, world=1, batch=9, shard=2, run="runs/x", wait_fraction=0.1).to_json(),
        read=_state("cursors/rank-0.json"),
    ),
    "cursor in a bucket": ForeignRecord(
        record=Cursor(rank=0, world=1, batch=9, shard=2).to_json(), read=_object("cursor.json")
    ),
    "heartbeat": ForeignRecord(
        record=Heartbeat(
            status=ProducerStatus(
                state="making", shards_made=3, running_s=10.0, blocked_s=1.0, mb_per_s=5.0, budget_bytes=10**9, until=9,
                shard_bytes=10, disk_bytes=10, frames_decoded=1, frames_kept=2, frames_wanted=3,
            ),
            process=_PROCESS,
        ).to_json(),
        read=_state("producers/here-1.json"),
    ),
    "lease": ForeignRecord(
        record={
            "beat": 1, "machine": "x", "report": ProducerStatus(state="making", disk_bytes=1, damaged=1).to_json(), **asdict(_PROCESS)
        },
        read=_object("producer.lease"),
    ),
    "holder of a lock": ForeignRecord(record=asdict(_PROCESS), read=_state("producers/lock")),
    "quarantined shard": ForeignRecord(
        record=QuarantineRecord(shard=3, reason="x", time=1.0).to_json(), read=_state("damaged/refused.jsonl")
    ),
    "quarantined files": ForeignRecord(
        record=QuarantinedFiles(fingerprints=frozenset({"1-0"})).to_json(), read=_state("producers/crashing.json")
    ),
    "decoding record": ForeignRecord(
        record=DecodingRecord(path="a.dng", fingerprint="1-0", worker=_PROCESS).to_json(), read=_state("producers/decoding-1.json")
    ),
    "sample": ForeignRecord(
        record=json.loads(encode_meta(META, "0123456789abcdef")), read=_read_sample
    ),
    **{
        name: ForeignRecord(record=record, read=_run(name))
        for name, record in _RUN.items()
        if name not in ("about.json", "summary.json", "spool.jsonl")
    },
    **{
        f"page of {name}": ForeignRecord(record=_RUN[name], read=_page(name), parts=parts)
        for name, parts in _ON_THE_PAGE.items()
    },
    "calibration": ForeignRecord(
        record={"format": "darkprep camera calibration", "version": 1, **_json(asdict(_CALIBRATION))},
        read=_read_calibration,
    ),
    "colours of a camera": ForeignRecord(record=_COLOURS, read=_read_colours),
    **{f"{kind.__name__} of {study}": _task_of_study(study, kind, parts) for study, kind, parts in _STUDIED},
    "scores of section-7": _metrics_of_study("section-7"),
}  # fmt: skip
"""By what the record is."""
