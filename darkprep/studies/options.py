"""What a user chooses of a study, and what all studies make of it: scale, data, cells, notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.gpus import check_gpu
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.produce.executors.pool import MAX_JOBS
from darkprep.shards import DatasetError, OptionError
from darkprep.studies.cells import DATA, Machine, Scale, Score, SyntheticData, Training
from darkprep.studies.outcome import Outcome
from darkprep.studies.work import Cell, Work
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device


@dataclass(frozen=True, kw_only=True)
class Small:
    """What a small run makes and spends: minutes on two CPU cores."""

    size: tuple[int, int] = (516, 768)
    """Of frames: whole periods of both arrays, and no smaller than LibRaw's X-Trans tile."""
    sid_scenes: int = 24
    eld_scenes: int = 3
    shorts: int = 3
    isos: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "sony": (100, 200, 400, 800, 1600),
            "fuji": (100, 200, 400),
        }
    )
    """High enough that noise as strong as ELD's at ISO 800 and 1600 is not new to a network."""
    scale: Scale = field(
        default_factory=lambda: Scale(
            iterations=3500,
            batch_size=2,
            crop=192,
            learning_rate=1e-3,  # ten times the published one, for so few steps
            samples_per_shard=16,
            crops_per_visit=4,
            looks=4,
        )
    )

    def scenes(self, camera: str) -> int:
        """How many scenes a camera's data set has."""
        return self.sid_scenes if camera_named(camera).dataset == "SID" else self.eld_scenes

    def note(self, scale: Scale) -> str:
        """What a table of a small run has to say of itself."""
        return (
            f"A small run: {self.sid_scenes} synthetic scenes of {self.size[0]}x{self.size[1]} for "
            f"training and testing and {self.eld_scenes} others for ELD's cameras, {scale.iterations:,} iterations of {scale.batch_size} crops of "
            f"{scale.crop} pixels, learning rate {scale.learning_rate:g}. It shows that every part "
            "works and which way effects go. Its figures do not compare with published ones: those "
            "are of real photographs, hundreds of times as many iterations and whole sensors."
        )


_OTHER_SCENES = 1000
"""Added to the seed of ELD's scenes, which would be those that SID's cameras train on."""
SMALL_BUDGET_BYTES = 250_000_000
PROTOCOL_NOTE = (
    "PSNR and SSIM by the protocol redirt: sRGB cut to 8 bits, 7x7 uniform windows, mean over all test "
    "frames, amplified by the exposure ratio."
)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a user chooses of a study. Raises OptionError naming the field."""

    out: Path
    root: Path
    small: Small | None = None
    """Synthetic photographs and little time, instead of the user's and the published scale."""
    iterations: int | None = None
    machine: Machine = field(default_factory=Machine)
    fuji_xtrans: str = "rggb"
    """How section 5 feeds Fuji's X-Trans to networks that are to read Bayer cameras too."""
    weights: Path | None = None
    """A trained network for the levels experiment, instead of training one."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, not {self.iterations}")
        if self.fuji_xtrans not in ("plain", "rggb"):
            raise OptionError(
                f"xtrans must be plain or rggb here, not {self.fuji_xtrans!r}: a network of nine planes "
                "reads no Bayer camera"
            )
        if not 1 <= self.machine.jobs <= MAX_JOBS:
            raise OptionError(f"jobs must be 1 to {MAX_JOBS}, not {self.machine.jobs}")
        check_gpu(open_device(self.machine.device))
        self._check_trainings()
        if self.weights is not None and not self.weights.is_file():
            raise OptionError(f"{self.weights}: no such file")

    def _check_trainings(self) -> None:
        """Raises OptionError where a training would, which comes hours after the first cell."""
        scale = self.scale()
        TrainConfig(
            iterations=scale.iterations,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            precision=self.machine.precision,
            seed=scale.seed,
        )

    def scale(self) -> Scale:
        """What each training costs."""
        scale = replace(self.small.scale if self.small else Scale(), seed=self.seed)
        return scale if self.iterations is None else replace(scale, iterations=self.iterations)

    def data_root(self) -> Path:
        """Where the photographs lie: the study's own synthetic ones in a small run."""
        return self.out / DATA if self.small else self.root

    def notes(self) -> tuple[str, ...]:
        """What every table of the study has to say of itself."""
        return (*((self.small.note(self.scale()),) if self.small else ()), PROTOCOL_NOTE)

    # -- cells ------------------------------------------------------------------------------------

    def training(self, label: str, camera: str, **chosen: Any) -> Training:
        """A training at the study's scale."""
        return Training(
            label=label,
            camera=camera,
            scale=self.scale(),
            machine=self.machine,
            synthetic=self.small is not None,
            **chosen,
        )

    def score(self, training: Training, camera: str, **chosen: Any) -> Score:
        """A training's score on a camera."""
        return Score(training=training, camera=camera, synthetic=self.small is not None, **chosen)

    def data(self, cameras: Sequence[str]) -> tuple[Cell, ...]:
        """The cells that make the photographs of a small run; none for a user's own."""
        if self.small is None:
            return ()
        return tuple(
            SyntheticData(
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
        other = _OTHER_SCENES if camera_named(camera).dataset == "ELD" else 0
        return (self.seed + other) % 2**63

    def there(self, cameras: Sequence[str], *, needed: bool = True) -> tuple[str, ...]:
        """The cameras whose photographs are at hand. Raises DatasetError where one is `needed` and none is."""
        if self.small:
            return tuple(cameras)
        found, complaint = [], None
        for camera in cameras:
            try:
                find_pairs(self.root, camera_named(camera))
            except DatasetError as error:
                complaint = complaint or error
            else:
                found.append(camera)
        if needed and not found and complaint:
            raise complaint
        return tuple(found)

    def missing(self, wanted: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
        """A note on cameras that were left out, if any were."""
        absent = [camera_named(camera).title for camera in wanted if camera not in found]
        return (f"Not below {self.root}, so left out: {', '.join(absent)}.",) if absent else ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """Cells to carry out, and what becomes of them."""

    cells: tuple[Cell, ...]
    outcome: Callable[[Work], Outcome]
