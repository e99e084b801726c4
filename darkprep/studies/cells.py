"""What studies are made of: data sets, trainings, and scores of a training on a camera.

The trade-off: everything goes through the same calls as the commands of those names, so a study's
figures are what a user gets by hand; a cell costs the start of a producer, a second or two.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.background import stop_producers
from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.evaluate import EvaluateOptions, evaluation
from darkprep.jobs.train import TrainOptions, stream_training
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import default_budget
from darkprep.shards import Spool
from darkprep.shards.files import disk_errors
from darkprep.shards.plan_record import ProducerSettings
from darkprep.studies.work import Stopped, Work
from darkprep.synth.dataset import synthesise
from darkprep.trainer.config import Precision, TrainConfig

TRAININGS, SCORES, DATA = "trainings", "scores", "data"
"""Folders below the output folder."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is spent on each training; the same for all of a study. The defaults are the papers'."""

    iterations: int = TrainConfig.iterations
    batch_size: int = TrainConfig.batch_size
    crop: int | None = PlanOptions.crop
    learning_rate: float = TrainConfig.learning_rate
    samples_per_shard: int = PlanOptions.samples_per_shard
    crops_per_visit: int = PlanOptions.crops_per_visit
    looks: int = 20
    """How often the network is judged on held-out frames while it trains."""
    seed: int = TrainConfig.seed


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the trainings run on: but for the precision, no part of what they are."""

    device: str = "auto"
    precision: Precision = TrainConfig.precision
    jobs: int = 1
    disk_budget: int | None = None


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """A camera's synthetic data set."""

    camera: str
    scenes: int
    shorts: int
    size: tuple[int, int]
    seed: int
    isos: tuple[int, ...] = ()
    """That the scenes of SID's cameras are drawn from; empty for the usual ones."""
    jobs: int = 1

    @property
    def name(self) -> str:
        """As for every cell."""
        return f"data-{self.camera}"

    @property
    def needs(self) -> tuple[str, ...]:
        """As for every cell."""
        return ()

    def spec(self) -> dict[str, Any]:
        """As for every cell."""
        return {**asdict(replace(self, jobs=1)), "size": list(self.size), "isos": list(self.isos)}

    def run(self, work: Work) -> dict[str, Any]:
        """Make it below the study's data folder."""
        files = synthesise(
            work.root,
            self.camera,
            scenes=self.scenes,
            shorts=self.shorts,
            size=self.size,
            seed=self.seed,
            jobs=self.jobs,
            isos=self.isos or None,
            progress=work.progress.show,
            check=work.check,
        )
        return {"files": len(files)}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One network trained on one camera, or a part of its scenes."""

    label: str
    """What tables call it."""
    camera: str
    scale: Scale
    machine: Machine
    fraction: float = 1.0
    model: str = "redirt"
    xtrans: str = "native"
    noise: str | None = None
    synthetic: bool = False

    @property
    def name(self) -> str:
        """As for every cell."""
        parts = [self.camera, f"{100 * self.fraction:g}", self.model]
        parts += [self.xtrans] if self.xtrans != "native" else []
        parts += [f"noise-{self.noise}"] if self.noise else []
        return "-".join(["train", *parts])

    @property
    def needs(self) -> tuple[str, ...]:
        """As for every cell."""
        return (f"data-{self.camera}",) if self.synthetic else ()

    def spec(self) -> dict[str, Any]:
        """As for every cell."""
        named = ("camera", "fraction", "model", "noise")
        spec = {**{name: getattr(self, name) for name in named}, "form": self.xtrans}
        spec["scale"] = asdict(self.scale)
        # fp32 is not named, so that folders stay valid that were made before there was a choice.
        precision = self.machine.precision
        return spec if precision == "fp32" else spec | {"precision": precision}

    def folder(self, work: Work) -> Path:
        """Where its spool and its run are."""
        return work.out / TRAININGS / self.name.removeprefix("train-")

    def weights(self, work: Work) -> Path:
        """Its trained network."""
        return self.folder(work) / "run" / "weights.safetensors"

    def run(self, work: Work) -> dict[str, Any]:
        """Train it, or go on; its spool is removed when it is done."""
        scale, folder = self.scale, self.folder(work)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        plan = make_plan(work.root, self._plan_options())
        spool = Spool(folder / "spool")
        budget = self.machine.disk_budget or default_budget(spool.path)
        plan.save(spool, ProducerSettings(budget_bytes=budget, jobs=self.machine.jobs))
        _, summary = stream_training(
            self._train_options(spool, folder / "run"), work.progress, work.stop
        )
        if summary.ended != "finished":
            raise Stopped
        stop_producers(spool)
        shutil.rmtree(spool.path, ignore_errors=True)
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

    def _plan_options(self) -> PlanOptions:
        scale = self.scale
        return PlanOptions(
            camera=self.camera,
            fraction=self.fraction,
            xtrans=self.xtrans,
            noise=self.noise,
            epochs=None,
            seed=scale.seed,
            crop=scale.crop,
            samples_per_shard=scale.samples_per_shard,
            crops_per_visit=scale.crops_per_visit,
        )

    def _train_options(self, spool: Spool, run_dir: Path) -> TrainOptions:
        scale = self.scale
        every = max(1, scale.iterations // max(1, scale.looks))
        config = TrainConfig(
            model=self.model,
            iterations=scale.iterations,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            precision=self.machine.precision,
            device=self.machine.device,
            seed=scale.seed,
            checkpoint_every=min(TrainConfig.checkpoint_every, every),
            log_every=max(1, min(TrainConfig.log_every, scale.iterations // 40)),
        )
        return TrainOptions(
            spool=spool,
            config=config,
            run_dir=run_dir,
            resume=(run_dir / "config.json").exists(),
            evaluate_every=every if scale.looks else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """A training's figures on one camera's test frames."""

    training: Training
    camera: str
    xtrans: str = "native"
    matched: bool = False
    """Bring the frames into the colours of the training's camera."""
    protocol: str = "redirt"
    synthetic: bool = False

    @property
    def name(self) -> str:
        """As for every cell."""
        parts = [self.training.name.removeprefix("train-"), "on", self.camera]
        parts += ["matched"] if self.matched else []
        parts += [self.protocol] if self.protocol != "redirt" else []
        return "-".join(["score", *parts])

    @property
    def needs(self) -> tuple[str, ...]:
        """As for every cell."""
        data = (f"data-{self.camera}",) if self.synthetic else ()
        return (self.training.name, *data)

    def spec(self) -> dict[str, Any]:
        """As for every cell."""
        own = {"camera": self.camera, "form": self.xtrans, "matched": self.matched}
        return {**own, "protocol": self.protocol, "training": self.training.spec()}

    def folder(self, work: Work) -> Path:
        """Where metrics.json and the pictures are."""
        return work.out / SCORES / self.name.removeprefix("score-")

    def run(self, work: Work) -> dict[str, Any]:
        """Restore and score all frames."""
        options = EvaluateOptions(
            weights=self.training.weights(work),
            camera=self.camera,
            root=work.root,
            decoding=DecodingOptions(
                xtrans=self.xtrans, match_colour=self.training.camera if self.matched else None
            ),
            protocol=self.protocol,
            baseline=True,
            device=self.training.machine.device,
            out=self.folder(work),
        )
        found = evaluation(options, work.progress, check=work.check).evaluation
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
