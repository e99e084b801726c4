"""The records and pictures of finished studies, each of which a test may change, and the reader of all of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from darkprep.studies.catalogue import STUDIES
from darkprep.studies.levels import LevelsTask
from darkprep.studies.options import SmallRun, Study, StudyOptions
from darkprep.studies.result import _page, _record
from darkprep.studies.target_tasks import CostTask, TwoDomainsTask
from darkprep.studies.task_kinds import CalibrationTask, DatasetTask, EvaluationTask, TrainingTask
from darkprep.studies.tasks import StudyContext, Task, _is_finished
from darkprep.trainer.evaluation import GroupScores
from darkprep.trainer.picture import write_picture
from darkprep.trainer.picture_row import side_by_side
from darkprep.view.live import Progress

Json = dict[str, Any]

_LEVELS = ("mean", "truth mean", "input white", "input black", "white", "black", "psnr", "ssim")
_DOMAINS = ("raw psnr", "raw ssim", "srgb psnr", "srgb ssim", "input raw psnr", "input raw ssim", "input srgb psnr", "input srgb ssim")  # fmt: skip
_GROUP = GroupScores(
    group="x100", pairs=1, psnr=20.0, ssim=0.5, baseline_psnr=15.0, baseline_ssim=0.3
)
RESULTS: dict[type, Json] = {
    DatasetTask: {"files": 3},
    CalibrationTask: {"largest error of K": 0.1, "largest error of the scale": 0.1},
    TrainingTask: {
        "pairs": 3, "scenes": 3, "iterations": 10, "batch size": 2, "first loss": 0.5, "last loss": 0.1,
        "parameters": 1000, "seconds": 5.0, "data wait": 0.0,
    },
    EvaluationTask: {
        "pairs": 1, "psnr": 20.0, "ssim": 0.5, "input psnr": 15.0, "input ssim": 0.3, "protocol": "redirt",
        "protocol says": "sRGB", "groups": {"x100": asdict(_GROUP)},
    },
    LevelsTask: {
        **dict.fromkeys(_LEVELS, 0.5), "pairs": 1,
        "images": [{"pair": "a", "iso": 800.0, "black level": 512.0, "white level": 16383, "psnr": 20.0, "ssim": 0.5}],
    },
    TwoDomainsTask: {
        "pairs": 1, "means": {group: dict.fromkeys(_DOMAINS, 20.0) for group in ("all", "x100")},
        "images": [{"pair": "a", "groups": ["x100"], **dict.fromkeys(_DOMAINS, 20.0)}],
    },
    CostTask: {"cpu ms": 1.0, "sample bytes": 10, "frame bytes": 20},
}  # fmt: skip
"""What each kind of task returns."""
METRICS: Json = {"images": [{"pair": "a", "psnr": 20.0, "ssim": 0.5}]}


def first_task(study: str, kind: type) -> Task:
    """Return the first task of a kind in a study."""
    return next(task for task in _study(study, Path()).tasks if type(task) is kind)


def record_of(task: Task) -> Json:
    """Return the record of a finished task."""
    record = {"spec": task.spec(), "seconds": 1.0, "result": RESULTS[type(task)]}
    copied: Json = json.loads(json.dumps(record))
    return copied


def read_study(name: str, file: Callable[[StudyContext], Path]) -> Callable[[Path, Any], None]:
    """Return a reader of one file of a finished study: what `darkprep study` does when it runs again."""

    def read(folder: Path, record: Any) -> None:
        study = _study(name, folder)
        context = StudyContext(
            out=folder, root=folder, progress=Progress(quiet=True), stop=threading.Event()
        )
        if not (folder / "whole").exists():
            _write_study(study, context)
            (folder / "whole").touch()
        file(context).write_text(json.dumps(record))
        if not all([_is_finished(task, context) for task in study.tasks]):
            return  # the task would run again
        # Without the pictures, and without writing: neither depends on a record.
        result = replace(study.result(context), comparisons=(), trainings=())
        _record(result, study.tasks, context)
        _page(result, context)

    return read


def _study(name: str, folder: Path) -> Study:
    return STUDIES[name](StudyOptions(out=folder, root=folder, small=SmallRun()))


def _write_study(study: Study, context: StudyContext) -> None:
    for task in study.tasks:
        path = context.record_path(task.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record_of(task)))
        if isinstance(task, EvaluationTask | LevelsTask | TwoDomainsTask):
            folder = task.folder(context)
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(METRICS))
            write_picture(folder / "a.png", side_by_side([np.zeros((3, 4, 6), np.float32)] * 3))
