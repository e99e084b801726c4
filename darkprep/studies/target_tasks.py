"""The tasks of the study `targets`: scores of a network in packed RAW and in sRGB, and the cost of a target's samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from darkprep.jobs.developed_results import developed_result
from darkprep.jobs.protocols import packed_raw
from darkprep.jobs.weights import load_restorer
from darkprep.pipeline.pairs.groups import report_groups
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import frame_array_bytes, frame_names_of
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardTask, make_shard
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.guard import guarded, guarded_call
from darkprep.shards import DatasetError, Spool
from darkprep.shards.files import disk_errors, remove
from darkprep.studies.task_kinds import TrainingTask
from darkprep.studies.tasks import StudyContext
from darkprep.trainer.device import open_device
from darkprep.trainer.evaluation import amplified_planes, restore_frame
from darkprep.trainer.metrics import PROTOCOLS, Scores, score
from darkprep.trainer.picture import write_picture
from darkprep.trainer.picture_row import picture_file_name, side_by_side

RAW_PROTOCOL, SRGB_PROTOCOL = "pmn", "redirt"
"""The protocols of the scores in packed RAW and in sRGB; both are of whole frames."""
_COST_PAIRS = 4
_CROPS_PER_PAIR = 8


@dataclass(frozen=True, kw_only=True)
class TwoDomainsTask:
    """Restore the test frames of a training task's camera, and score them in packed RAW and in sRGB."""

    training: TrainingTask

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        return self.training.name.replace("train-", "domains-", 1)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""
        return (self.training.name,)

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the scores depend, as JSON values."""
        return {"protocols": [RAW_PROTOCOL, SRGB_PROTOCOL], "training": self.training.spec()}

    def folder(self, context: StudyContext) -> Path:
        """Return the directory for the pictures: amplified input, restored picture and truth in one row."""
        return context.out / "domains" / self.name.removeprefix("domains-")

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Restore and score the frames; return the scores. Raises DatasetError if there are no test frames."""
        device = open_device(self.training.execution.device)
        network, target = (
            load_restorer(self.training.weights(context), device),
            self.training.target,
        )
        found = self.training.origin(context.root).find().of_split("test")
        by_id = {pair.id: pair for pair in found.pairs}
        if not by_id:
            raise DatasetError(
                f"{found.root}: holds no pairs of split `test`, on which the study scores networks; set the column `split` to `test` for some pairs of the table"
            )
        compared = packed_raw(found.root, by_id, centre=None, target=target)
        with disk_errors(self.folder(context)):
            self.folder(context).mkdir(parents=True, exist_ok=True)
        images = []
        for pair in found.pairs:
            context.raise_if_stopped()
            short, long = found.root / pair.short, found.root / pair.long
            sample = guarded_call(partial(whole_frame, found.root, pair, target=target), short)
            restored = restore_frame(network, sample, device)
            truth = guarded(lambda path: open_source(path).develop(), long)
            picture = guarded(partial(developed_result, meta=sample.meta, restored=restored), long)
            plain = guarded(
                partial(develop_amplified, amplification=sample.meta.amplification), short
            )
            scores = {
                "raw": score(*compared(sample, restored), PROTOCOLS[RAW_PROTOCOL]),
                "srgb": score(picture, truth, PROTOCOLS[SRGB_PROTOCOL]),
                "input srgb": score(plain, truth, PROTOCOLS[SRGB_PROTOCOL]),
            }
            if target == "raw":
                planes = compared(sample, amplified_planes(sample))
                scores["input raw"] = score(*planes, PROTOCOLS[RAW_PROTOCOL])
            images.append({"pair": pair.id, "groups": report_groups(pair), **_values(scores)})
            write_picture(
                self.folder(context) / picture_file_name(pair.id),
                side_by_side([plain, picture, truth]),
            )
            context.progress.show(f"{self.training.label}: {pair.id}")
        return {"pairs": len(images), "means": _group_means(images), "images": images}


def _values(scores: dict[str, Scores]) -> dict[str, float]:
    return {
        f"{domain} {name}": value
        for domain, one in scores.items()
        for name, value in (("psnr", one.psnr), ("ssim", one.ssim))
    }


def _group_means(images: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean scores of all pairs, under `all`, and of each exposure ratio, such as `x100`."""
    members: dict[str, list[dict[str, Any]]] = {"all": list(images)}
    for image in images:
        for group in image["groups"]:
            if group.startswith("x"):
                members.setdefault(group, []).append(image)
    names = [name for name in images[0] if name not in ("pair", "groups")]
    return {
        group: {name: sum(image[name] for image in some) / len(some) for name in names}
        for group, some in sorted(members.items())
    }


@dataclass(frozen=True, kw_only=True)
class CostTask:
    """Measure what cold samples of a target cost to produce: processor time of one worker, from RAW files to a shard."""

    training: TrainingTask
    """A training task of the target."""

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        return f"cost-{self.training.camera}-{self.training.target}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""
        return self.training.needs

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the cost depends, as JSON values."""
        return {"target": self.training.target, "crop": self.training.scale.crop}

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Make one shard in one process, from an empty store of frames; return CPU time and sizes."""
        # Where the user's own link leads to, because nothing is deleted through a link.
        folder, plan = context.out.resolve() / self.name, self._plan(context)
        try:
            used = guarded_call(partial(_seconds_to_make_again, plan, folder), plan.root)
        finally:
            remove(folder)
        pair = plan.pairs[0]
        return {
            "cpu ms": 1e3 * used / plan.options.samples_per_shard,
            "sample bytes": plan.stream.layout().sample_bytes,
            "frame bytes": sum(frame_array_bytes(pair, kind, plan) for kind in ("short", "long")),
        }

    def _plan(self, context: StudyContext) -> Plan:
        """Return a plan of one shard, in which each of a few pairs, all of other scenes, is visited once."""
        origin = self.training.origin(context.root)
        found = origin.find()
        first = {pair.scene: pair for pair in reversed(found.of_split("train").pairs)}
        some = list(first.values())[:_COST_PAIRS]
        options = PlanOptions(
            camera=origin.label,
            target=self.training.target,
            crop=self.training.scale.crop,
            samples_per_shard=_CROPS_PER_PAIR * len(some),
            crops_per_visit=_CROPS_PER_PAIR,
        )
        return make_plan(found.root, options, pairs=replace(found, pairs=tuple(some)))


def _seconds_to_make_again(plan: Plan, folder: Path) -> float:
    """Make the first shard of a plan twice in `folder`; return the second time, as the first also loads libraries."""
    _seconds_to_make(plan, Spool(folder / "spool"))
    remove(folder)
    return _seconds_to_make(plan, Spool(folder / "spool"))


def _seconds_to_make(plan: Plan, spool: Spool) -> float:
    """Return the CPU seconds of this process to make the first shard of a plan in a new spool."""
    plan.save(spool)
    FrameStore(spool.frames).create()
    with spool.producer_lock():
        began = time.process_time()
        make_shard(ShardTask.of_this_process(spool, 0, frame_names_of(plan)))
        return time.process_time() - began
