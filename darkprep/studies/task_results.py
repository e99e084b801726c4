"""The results of finished tasks as tables and pictures use them: typed, and checked when they are read.

The trade-off: a field that no table shows is not checked. In a record the words of a name are separated by spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from darkprep.shards.decode import decode
from darkprep.shards.errors import OptionError
from darkprep.shards.files import read_json
from darkprep.studies.task_kinds import EvaluationTask
from darkprep.studies.tasks import StudyContext, Task

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The figures of a training run."""

    scenes: int
    parameters: int
    last_loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class GroupMeans:
    """Mean scores of a group of pairs; a PSNR of None is infinite. The baseline is the amplified input."""

    psnr: float | None
    ssim: float
    baseline_psnr: float | None
    baseline_ssim: float


@dataclass(frozen=True, kw_only=True)
class EvaluationMeans:
    """Mean scores of an evaluation; a PSNR of None is infinite."""

    psnr: float | None
    ssim: float
    input_psnr: float | None
    """Of the amplified input."""
    input_ssim: float
    groups: Mapping[str, GroupMeans]


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """The PSNR of one pair; None is infinite."""

    pair: str
    psnr: float | None


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """The scores of each pair of an evaluation."""

    images: tuple[PairScore, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True, kw_only=True)
class LevelsImage(PairScore):
    """The score of one frame, and the levels with which it was decoded."""

    iso: float
    black_level: float
    white_level: float


@dataclass(frozen=True, kw_only=True)
class LevelsResult:
    """Means over the frames of one camera, and the scores of each."""

    mean: float
    truth_mean: float
    input_white: float
    input_black: float
    white: float
    black: float
    psnr: float
    ssim: float
    images: tuple[LevelsImage, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True, kw_only=True)
class DomainsImage:
    """The score of one pair."""

    pair: str
    srgb_psnr: float


@dataclass(frozen=True, kw_only=True)
class DomainsResult:
    """Mean scores in two domains by group of pairs and by name, such as `raw_psnr`, and the scores of each pair."""

    means: Mapping[str, Mapping[str, float]]
    images: tuple[DomainsImage, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True, kw_only=True)
class CostResult:
    """What a sample of a target costs to produce."""

    cpu_ms: float
    sample_bytes: float
    frame_bytes: float


def result_of(context: StudyContext, task: Task, kind: type[Result]) -> Result:
    """Return the result of a finished task. Raises OptionError, which names the record and the invalid field."""
    record = context.result(task.name)
    assert record is not None, f"{task.name} must be finished"
    return _decoded(context, task, f"{context.record_path(task.name)}: result", record, kind)


def pair_scores(context: StudyContext, task: EvaluationTask) -> tuple[PairScore, ...]:
    """Return an evaluation's scores for each pair, from its metrics.json. Raises OptionError as `result_of`."""
    path = task.folder(context) / "metrics.json"
    return _decoded(context, task, str(path), read_json(path) or {}, PairScores).images


def entry_of(
    context: StudyContext, task: Task, field: str, values: Mapping[str, Value], name: str
) -> Value:
    """Return the value `name` of a field of a task's result. Raises OptionError if there is none."""
    if name not in values:
        path = context.record_path(task.name)
        raise OptionError(f"{path}: result: {field} lacks {name}; {_remedy(context, task)}")
    return values[name]


def _decoded(
    context: StudyContext, task: Task, where: str, record: Mapping[str, Any], kind: type[Result]
) -> Result:
    try:
        return decode(kind, _with_field_names(record))
    except ValueError as error:
        raise OptionError(f"{where}: {error}; {_remedy(context, task)}") from error


def _remedy(context: StudyContext, task: Task) -> str:
    return (
        f"delete {context.record_path(task.name)} and run the study again, which repeats this task"
    )


def _with_field_names(value: Any) -> Any:
    """Return a JSON value whose names have the form of names in Python."""
    if isinstance(value, dict):
        return {name.replace(" ", "_"): _with_field_names(item) for name, item in value.items()}
    return [_with_field_names(item) for item in value] if isinstance(value, list) else value


def _check_images(images: tuple[object, ...]) -> None:
    if not images:
        raise ValueError("images must not be empty")
