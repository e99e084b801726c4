"""The options of a study, and what all studies derive from them: scale of training, data sets, tasks, notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.gpus import check_gpu
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.produce.executors.pool import MAX_JOBS
from darkprep.shards import DatasetError, OptionError
from darkprep.studies.result import StudyResult
from darkprep.studies.task_kinds import (
    DATA,
    DatasetTask,
    EvaluationTask,
    ExecutionOptions,
    TrainingScale,
    TrainingTask,
)
from darkprep.studies.tasks import StudyContext, Task
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.view.numbers import format_count

SMALL_BUDGET_BYTES = 250_000_000
PROTOCOL_NOTE = (
    "PSNR and SSIM by the protocol redirt: 8-bit sRGB, 7x7 uniform windows, mean over all test frames, "
    "amplified by the exposure ratio."
)
_ELD_SEED_OFFSET = 1000
"""Added to the seed of ELD's scenes, so that they differ from SID's scenes, on which networks are trained."""


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """The scale of a study with --small: synthetic data sets and short training runs that take minutes on two CPU cores."""

    size: tuple[int, int] = (516, 768)
    """Rows and columns of a frame: whole periods of both CFAs, and not below LibRaw's X-Trans tile."""
    sid_scenes: int = 24
    eld_scenes: int = 3
    shorts: int = 3
    isos: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "sony": (100, 200, 400, 800, 1600),
            "fuji": (100, 200, 400),
        }
    )
    """High enough that a network is trained on noise as strong as ELD's at ISO 800 and 1600."""
    scale: TrainingScale = field(
        default_factory=lambda: TrainingScale(
            iterations=3500,
            batch_size=2,
            crop=192,
            learning_rate=1e-3,  # ten times the published one, for so few steps
            samples_per_shard=16,
            crops_per_visit=4,
            validations=4,
        )
    )

    def scenes(self, camera: str) -> int:
        """Return the number of scenes in a camera's synthetic data set."""
        return self.sid_scenes if camera_named(camera).dataset == "SID" else self.eld_scenes

    def note(self, scale: TrainingScale) -> str:
        """Return the note that is printed below the tables of a small run."""
        rows, columns = self.size
        return (
            f"A small run: {self.sid_scenes} synthetic scenes of {rows}x{columns} for training and testing, "
            f"{self.eld_scenes} more for ELD's cameras, {scale.iterations:,} iterations of {format_count(scale.batch_size, 'crop')} of "
            f"{scale.crop} pixels, learning rate {scale.learning_rate:g}. It shows that every part works, "
            "and the direction of each effect. Its figures are not comparable with published ones, which are "
            "of real photographs, hundreds of times as many iterations and whole sensors."
        )


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """The options of a study. Raises OptionError, which names the invalid option."""

    out: Path
    root: Path
    """Directory of the user's photographs."""
    pairs: Path | None = None
    """A pair table to use instead of a camera's photographs, for the studies of one camera."""
    layout: str | None = None
    """A folder layout in which to find pairs instead."""
    small: SmallRun | None = None
    """Use synthetic photographs and short training runs instead of `root` and the published scale."""
    iterations: int | None = None
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)
    fuji_xtrans: str = "rggb"
    """How section 5 feeds Fuji's X-Trans to networks that also read Bayer cameras."""
    weights: Path | None = None
    """Trained weights for the study `levels`, which otherwise trains a network."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, not {self.iterations}")
        if self.fuji_xtrans not in ("plain", "rggb"):
            raise OptionError(
                f"xtrans must be plain or rggb here, not {self.fuji_xtrans!r}: a network of nine planes "
                "cannot read files of a Bayer camera"
            )
        if not 1 <= self.execution.jobs <= MAX_JOBS:
            raise OptionError(f"jobs must be 1 to {MAX_JOBS}, not {self.execution.jobs}")
        if self.small and self.has_own_pairs:
            raise OptionError(
                "--small uses synthetic photographs; leave out --small, or --pairs and --layout"
            )
        check_gpu(open_device(self.execution.device))
        self._check_training_options()
        if self.weights is not None and not self.weights.is_file():
            raise OptionError(f"{self.weights}: does not exist; choose another --weights")

    def _check_training_options(self) -> None:
        """Raise OptionError at once for options that a training run would refuse hours later."""
        scale = self.scale()
        TrainConfig(
            iterations=scale.iterations,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            precision=self.execution.precision,
            seed=scale.seed,
        )

    def scale(self) -> TrainingScale:
        """Return the scale of each training run."""
        scale = replace(self.small.scale if self.small else TrainingScale(), seed=self.seed)
        return scale if self.iterations is None else replace(scale, iterations=self.iterations)

    def data_root(self) -> Path:
        """Return the directory of the photographs: the user's, or with --small that of the synthetic ones the study makes."""
        return self.out / DATA if self.small else self.root

    def notes(self) -> tuple[str, ...]:
        """Return the notes that are printed below the tables of every study."""
        return (*((self.small.note(self.scale()),) if self.small else ()), PROTOCOL_NOTE)

    @property
    def has_own_pairs(self) -> bool:
        """Whether the pairs are those of a table or a layout, not of a camera in SID or ELD."""
        return self.pairs is not None or self.layout is not None

    def camera_or_label(self, camera: str) -> str:
        """Return the camera of a study of one camera, which must have photographs; the label of a table or layout.

        Raises DatasetError or OptionError if there are no pairs.
        """
        if not self.has_own_pairs:
            return self.available_cameras((camera,))[0]
        origin = PairOrigin(root=self.root, table=self.pairs, layout=self.layout)
        origin.find()
        return origin.label

    def training_task(self, label: str, camera: str, **chosen: Any) -> TrainingTask:
        """Create a training task at the study's scale; `chosen` are further fields of TrainingTask."""
        return TrainingTask(
            label=label,
            camera=camera,
            scale=self.scale(),
            execution=self.execution,
            pairs=self.pairs,
            layout=self.layout,
            synthetic=self.small is not None,
            **chosen,
        )

    def evaluation_task(self, training: TrainingTask, camera: str, **chosen: Any) -> EvaluationTask:
        """Create a task that evaluates a training task on a camera; `chosen` are further fields of EvaluationTask."""
        synthetic = self.small is not None
        return EvaluationTask(training=training, camera=camera, synthetic=synthetic, **chosen)

    def dataset_tasks(self, cameras: Sequence[str]) -> tuple[Task, ...]:
        """Return the tasks that make synthetic photographs for --small; none if the user's photographs are used."""
        if self.small is None:
            return ()
        return tuple(
            DatasetTask(
                camera=camera,
                scenes=self.small.scenes(camera),
                shorts=self.small.shorts,
                size=self.small.size,
                seed=self._scenes_seed(camera),
                isos=self.small.isos.get(camera, ()),
                jobs=2,
            )
            for camera in dict.fromkeys(cameras)
        )

    def _scenes_seed(self, camera: str) -> int:
        offset = _ELD_SEED_OFFSET if camera_named(camera).dataset == "ELD" else 0
        return (self.seed + offset) % 2**63

    def available_cameras(
        self, cameras: Sequence[str], *, required: bool = True
    ) -> tuple[str, ...]:
        """Return the cameras that have photographs. Raises DatasetError if none has and `required` is set."""
        if self.small:
            return tuple(cameras)
        found, first_error = [], None
        for camera in cameras:
            try:
                find_pairs(self.root, camera_named(camera))
            except DatasetError as error:
                first_error = first_error or error
            else:
                found.append(camera)
        if required and not found and first_error:
            raise first_error
        return tuple(found)

    def missing_note(self, wanted: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
        """Return a note that names the cameras left out for lack of photographs; empty if there are none."""
        absent = [camera_named(camera).title for camera in wanted if camera not in found]
        return (f"Left out, not found in {self.root}: {', '.join(absent)}.",) if absent else ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """The tasks of a study, and the function that makes the study's result from the results of the tasks."""

    tasks: tuple[Task, ...]
    result: Callable[[StudyContext], StudyResult]
