"""Machines that are described instead of measured: cores, GPU and disk, with the assumptions behind each figure.

The trade-off: the figures of docs/benchmarks.md stand for every machine, so a comparison needs no access to it, and is
only as good as its cores and its GPU resemble the ones measured there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from darkprep.jobs.measure import Measured
from darkprep.pipeline.plan.plan import Plan
from darkprep.shards import OptionError
from darkprep.trainer.config import TrainConfig

_PUBLISHED_STEP_S = 0.0864
"""A training step of the published code on its authors' V100: a million steps took them less than a day."""
_STEPS_S = {
    "v100": {"fp32": _PUBLISHED_STEP_S},
    "h200": {"fp32": 0.0109, "bf16": 0.0074, "fp16": 0.0072},
}
"""Seconds of a training step of REDIRT with 8 crops of 512 pixels; those of the H200 were measured."""
_STEP_SAMPLES, _STEP_CROP, _STEP_MODEL = 8, 512, "redirt"
_READ_SAMPLES_PER_S = 3808.0
_WRITTEN = "cores,GPU,disk, such as 8,v100,100GB or 16,250/s,2TB"


@dataclass(frozen=True, kw_only=True)
class _FrameTimes:
    """CPU seconds measured on one core of an AMD EPYC (Zen 4), in docs/benchmarks.md."""

    pixels: int
    decode_s: float
    develop_s: float
    sample_s: float


_FRAME_TIMES = {
    "bayer": _FrameTimes(pixels=2848 * 4256, decode_s=0.057, develop_s=0.967, sample_s=0.00115),
    "xtrans": _FrameTimes(pixels=4032 * 6032, decode_s=0.2, develop_s=12.7, sample_s=0.00178),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine to train on. Raises OptionError, which names the invalid field."""

    cores: int
    gpu: str
    """`v100`, `h200`, or a number of samples that the GPU trains per second, such as `250/s`."""
    disk_bytes: int
    """Free space on its disk, beside the photographs."""

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise OptionError(f"machine: {self.cores} cores are too few; write {_WRITTEN}")
        if self.gpu not in _STEPS_S and not self._own_rate:
            raise OptionError(
                f"machine: {self.gpu!r} is neither {' nor '.join(_STEPS_S)} nor a pace in samples per second; write {_WRITTEN}"
            )

    @property
    def _own_rate(self) -> float:
        match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)/s", self.gpu)
        return float(match[1]) if match else 0.0

    def samples_per_s(self, config: TrainConfig, crop: int) -> float:
        """Return how many samples the GPU trains per second if it never waits. Raises OptionError where no figure is known."""
        if self._own_rate:
            return self._own_rate
        steps = _STEPS_S[self.gpu]
        if config.model != _STEP_MODEL or crop != _STEP_CROP or config.precision not in steps:
            raise OptionError(
                f"machine: no pace of a {self.gpu} is known for {config.model} in {config.precision} with crops of {crop}; "
                f"give samples per second instead of the name, such as --machine {self.cores},250/s,{self.disk_bytes // 10**9}GB"
            )
        return _STEP_SAMPLES / steps[config.precision]

    def assumed(self, plan: Plan, config: TrainConfig) -> Measured:
        """Return the times and rates that are assumed on this machine for a plan. Raises OptionError."""
        times = _FRAME_TIMES[plan.cfa]
        size = plan.pairs[0].height * plan.pairs[0].width / times.pixels
        rate = self.samples_per_s(config, plan.stream.crop)
        decode_s = times.decode_s * size
        return Measured(
            decode_s=decode_s,
            develop_s=decode_s if plan.options.target == "raw" else times.develop_s * size,
            sample_s=times.sample_s,
            sample_cpu_s=times.sample_s,
            sample_bytes=plan.stream.layout().sample_bytes,
            read_samples_per_s=_READ_SAMPLES_PER_S,
            train_samples_per_s=rate,
            train_cpu_s=1 / rate,  # the process of the trainer is assumed to keep one core busy
            device=self.gpu,
            cores=self.cores,
            frames="described",
        )


MACHINES = {
    "v100": Machine(cores=8, gpu="v100", disk_bytes=100 * 10**9),
    "h200": Machine(cores=16, gpu="h200", disk_bytes=100 * 10**9),
}
"""Machines with a name. Cores and disk are our choice; what is measured is the step of the GPU."""


def machine_from_text(text: str, sizes: Callable[[str], int]) -> Machine:
    """Return the machine that a name or `cores,GPU,disk` stands for; `sizes` reads a size such as `2TB`. Raises OptionError."""
    if text in MACHINES:
        return MACHINES[text]
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not re.fullmatch(r"\d{1,5}", parts[0]):
        raise OptionError(
            f"machine {text!r} is neither {' nor '.join(MACHINES)} nor a description; write {_WRITTEN}"
        )
    return Machine(cores=int(parts[0]), gpu=parts[1].lower(), disk_bytes=sizes(parts[2]))
