"""The kinds of tasks of which studies consist: synthetic data sets, training runs and evaluations.

The trade-off: each task calls the same functions as the command of that name, so that its figures are the
same as a user's; each training run therefore has to start a producer, which takes a second or two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.background import stop_producers
from darkprep.jobs.calibrate import noise_options, write_camera_calibration
from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.evaluate import EvaluateOptions, evaluation
from darkprep.jobs.train import stream_training
from darkprep.jobs.train_options import TrainOptions
from darkprep.pipeline.noise.calibrations import NoiseEdition
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import default_budget
from darkprep.shards import Spool, Target
from darkprep.shards.files import disk_errors, remove
from darkprep.shards.plan_record import ProducerSettings
from darkprep.studies.tasks import Stopped, StudyContext
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.dataset import synthesise
from darkprep.synth.sensors import sensor_of
from darkprep.trainer.config import Precision, TrainConfig

TRAININGS, SCORES, DATA = "trainings", "scores", "data"
"""Subdirectories of the output directory."""


@dataclass(frozen=True, kw_only=True)
class TrainingScale:
    """Length and batch size of each training run of a study. The defaults are the published values."""

    iterations: int = TrainConfig.iterations
    batch_size: int = TrainConfig.batch_size
    crop: int | None = PlanOptions.crop
    learning_rate: float = TrainConfig.learning_rate
    samples_per_shard: int = PlanOptions.samples_per_shard
    crops_per_visit: int = PlanOptions.crops_per_visit
    validations: int = 20
    """Number of evaluations on validation frames during a run; 0 for none."""
    seed: int = TrainConfig.seed

    def record(self) -> dict[str, Any]:
        """Return the JSON object that is part of a training task's specification."""
        record = asdict(self)
        return {("looks" if name == "validations" else name): record[name] for name in record}


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How training runs are executed on this machine; only the precision changes results, so only it is recorded."""

    device: str = "auto"
    precision: Precision = TrainConfig.precision
    jobs: int = 1
    disk_budget: int | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetTask:
    """Make a camera's synthetic data set."""

    camera: str
    scenes: int
    shorts: int
    size: tuple[int, int]
    seed: int
    isos: tuple[int, ...] = ()
    """ISO values from which the scenes' ISO is drawn; empty for the default values."""
    jobs: int = 1

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        return f"data-{self.camera}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one: none."""
        return ()

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the data set depends, as JSON values."""
        own = {**asdict(replace(self, jobs=1)), "size": list(self.size), "isos": list(self.isos)}
        return own | {"noise_edition": PlanOptions.noise_edition}

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Make the data set; return its description as JSON values."""
        files = synthesise(
            context.root,
            self.camera,
            scenes=self.scenes,
            shorts=self.shorts,
            size=self.size,
            seed=self.seed,
            jobs=self.jobs,
            isos=self.isos or None,
            progress=context.progress.show,
            check=context.raise_if_stopped,
        )
        return {"files": len(files)}


CALIBRATED, SAMPLED_DARKS = "calibrated", "sampled-darks"
"""Kinds of noise of a training run besides the published one: from a calibration, and from real dark frames."""


@dataclass(frozen=True, kw_only=True)
class CalibrationTask:
    """Make dark frames and flat fields of a camera with its published noise, and calibrate it from them."""

    camera: str
    isos: tuple[int, ...]
    seed: int
    size: tuple[int, int]
    """Height and width of the frames in pixels."""
    darks: int = 20
    """Dark frames per ISO."""

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        return f"calibration-{self.camera}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one: none."""
        return ()

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the calibration depends, as JSON values."""
        own = {**asdict(self), "size": list(self.size), "isos": list(self.isos)}
        return own | {"noise_edition": PlanOptions.noise_edition}

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Write the frames and calibrate from them; return the largest relative errors as JSON values."""
        folder = calibration_folder(context, self.camera)
        sensor = sensor_of(self.camera)
        settings = FrameSettings(size=self.size, darks=self.darks)
        context.progress.show(f"writing calibration frames of {self.camera}")
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        truth = write_calibration_frames(
            folder, sensor, self.isos, seed=self.seed, settings=settings
        )
        found = write_camera_calibration(
            folder / "darks", folder / "flats", folder / "camera.json", context.progress.show
        ).calibration
        remove(folder / "flats")
        errors = [
            (one.gain.value / known.gain - 1, one.read.scale / known.read_scale - 1)
            for one in found.isos
            if one.gain and (known := truth[int(one.iso)])
        ]
        gain, scale = (max(map(abs, own)) for own in zip(*errors, strict=True))
        return {"largest error of K": gain, "largest error of the scale": scale}


def calibration_folder(context: StudyContext, camera: str) -> Path:
    """Return the directory of a camera's calibration and its dark frames."""
    return context.out / "calibrations" / camera


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """Train one network on all scenes of one camera, or on a share of them."""

    label: str
    """The name of the training run in tables."""
    camera: str
    scale: TrainingScale
    execution: ExecutionOptions
    fraction: float = 1.0
    model: str = "redirt"
    target: Target = "srgb"
    xtrans: str = "native"
    noise: str | None = None
    """None for photographed pairs; a camera's name, `calibrated` or `sampled-darks` for synthetic noise."""
    noise_edition: NoiseEdition = PlanOptions.noise_edition
    pairs: Path | None = None
    """A pair table to use instead of a camera's pairs; `camera` is then a label."""
    layout: str | None = None
    """A folder layout in which to find pairs, instead of a camera's pairs."""
    synthetic: bool = False
    group: str = ""
    """First part of the name, for training runs at another scale than those of other studies."""

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        parts = [self.group] if self.group else []
        parts += [self.camera, f"{100 * self.fraction:g}", self.model]
        parts += [self.target] if self.target != "srgb" else []
        parts += [self.xtrans] if self.xtrans != "native" else []
        parts += [f"noise-{self.noise}"] if self.noise else []
        parts += ["edition-1"] if self.noise and self.noise_edition == 1 else []
        return "-".join(["train", *parts])

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""
        data = (f"data-{self.camera}",) if self.synthetic else ()
        is_measured = self.noise in (CALIBRATED, SAMPLED_DARKS)
        return (*data, f"calibration-{self.camera}") if is_measured else data

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the trained weights depend, as JSON values."""
        named = ("camera", "fraction", "model", "noise")
        spec = {**{name: getattr(self, name) for name in named}, "form": self.xtrans}
        spec["scale"] = self.scale.record()
        later = {"target": "srgb", "pairs": None, "layout": None}
        chosen = {name: getattr(self, name) for name in later}
        spec |= {name: str(chosen[name]) for name in later if chosen[name] != later[name]}
        if self.noise and self.noise_edition > 1:  # records without it are of edition 1
            spec["noise_edition"] = self.noise_edition
        # fp32 is left out, so that records of versions without this choice stay valid.
        precision = self.execution.precision
        return spec if precision == "fp32" else spec | {"precision": precision}

    def origin(self, root: Path) -> PairOrigin:
        """Return the origin of the pairs; `root` is the directory of the photographs."""
        return PairOrigin(root=root, camera=self.camera, table=self.pairs, layout=self.layout)

    def folder(self, context: StudyContext) -> Path:
        """Return the directory for the spool and the run of this task."""
        return context.out / TRAININGS / self.name.removeprefix("train-")

    def weights(self, context: StudyContext) -> Path:
        """Return the path of the trained weights."""
        return self.folder(context) / "run" / "weights.safetensors"

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Train, continuing an earlier attempt; then remove the spool and return the summary. Raises Stopped."""
        scale, folder = self.scale, self.folder(context)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        origin = self.origin(context.root)
        found = None if origin.is_data_set else origin.find()
        root = found.root if found else context.root
        is_sampled = self.noise == SAMPLED_DARKS
        darks = calibration_folder(context, self.camera) / "darks" if is_sampled else None
        plan = make_plan(root, self._plan_options(context), pairs=found, darks=darks)
        spool = Spool(folder / "spool")
        budget = self.execution.disk_budget or default_budget(spool.path)
        plan.save(spool, ProducerSettings(budget_bytes=budget, jobs=self.execution.jobs))
        summary = stream_training(
            self._train_options(spool, folder / "run"), context.progress, context.stop
        )
        if summary.ended != "finished":
            raise Stopped
        stop_producers(spool)
        remove(spool.path)
        scenes = {planned.pair.scene for planned in plan.pairs}
        return {
            "pairs": len(plan.pairs),
            "scenes": len(scenes),
            "iterations": summary.iterations,
            "batch size": scale.batch_size,
            "first loss": summary.first_loss,
            "last loss": summary.last_loss,
            "parameters": summary.parameters,
            "seconds": summary.seconds,
            "data wait": summary.data_wait_fraction,
        }

    def _noise_options(self, context: StudyContext) -> dict[str, Any]:
        folder = calibration_folder(context, self.camera)
        if self.noise == CALIBRATED:
            return noise_options(str(folder / "camera.json"), None)
        if self.noise == SAMPLED_DARKS:
            return noise_options(str(folder / "darks"), folder / "camera.json")
        return {"noise": self.noise, "noise_edition": self.noise_edition}

    def _plan_options(self, context: StudyContext) -> PlanOptions:
        scale = self.scale
        return PlanOptions(
            camera=self.camera,
            fraction=self.fraction,
            target=self.target,
            xtrans=self.xtrans,
            epochs=None,
            seed=scale.seed,
            crop=scale.crop,
            samples_per_shard=scale.samples_per_shard,
            crops_per_visit=scale.crops_per_visit,
            **self._noise_options(context),
        )

    def _train_options(self, spool: Spool, run_dir: Path) -> TrainOptions:
        scale = self.scale
        every = max(1, scale.iterations // max(1, scale.validations))
        config = TrainConfig(
            model=self.model,
            iterations=scale.iterations,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            precision=self.execution.precision,
            device=self.execution.device,
            seed=scale.seed,
            checkpoint_every=min(TrainConfig.checkpoint_every, every),
            log_every=max(1, min(TrainConfig.log_every, scale.iterations // 40)),
            evaluate_every=every if scale.validations else 0,
        )
        return TrainOptions(
            spool=spool,
            config=config,
            run_dir=run_dir,
            resume=(run_dir / "config.json").exists(),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Evaluate the weights of a training task on one camera's test frames."""

    training: TrainingTask
    camera: str
    xtrans: str = "native"
    matched: bool = False
    """Whether to convert the frames to the colours of the camera on which the network was trained."""
    protocol: str = "redirt"
    synthetic: bool = False

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        parts = [self.training.name.removeprefix("train-"), "on", self.camera]
        parts += ["matched"] if self.matched else []
        parts += [self.protocol] if self.protocol != "redirt" else []
        return "-".join(["score", *parts])

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""
        data = (f"data-{self.camera}",) if self.synthetic else ()
        return (self.training.name, *data)

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the scores depend, as JSON values."""
        own = {"camera": self.camera, "form": self.xtrans, "matched": self.matched}
        return {**own, "protocol": self.protocol, "training": self.training.spec()}

    def folder(self, context: StudyContext) -> Path:
        """Return the directory for metrics.json and the pictures."""
        return context.out / SCORES / self.name.removeprefix("score-")

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Evaluate the weights; return the scores as JSON values."""
        options = EvaluateOptions(
            weights=self.training.weights(context),
            camera=self.camera,
            root=context.root,
            pairs=self.training.pairs if self.camera == self.training.camera else None,
            layout=self.training.layout if self.camera == self.training.camera else None,
            decoding=DecodingOptions(
                xtrans=self.xtrans, match_colour=self.training.camera if self.matched else None
            ),
            protocol=self.protocol,
            baseline=True,
            device=self.training.execution.device,
            out=self.folder(context),
        )
        found = evaluation(options, context.progress, check=context.raise_if_stopped).evaluation
        return {
            "pairs": found.pairs,
            "psnr": found.psnr,
            "ssim": found.ssim,
            "input psnr": found.baseline_psnr,
            "input ssim": found.baseline_ssim,
            "protocol": found.protocol,
            "protocol says": found.protocol_says,
            "groups": {group.group: asdict(group) for group in found.groups},
        }
