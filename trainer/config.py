"""What a training is: every choice that its result depends on, checked when it is made.

The trade-off: one flat record that goes whole into the run directory and each checkpoint, though no
single part of the trainer needs all of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from darkprep.model import MODELS, MOSAICS, Network
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, CfaKind
from darkprep.trainer.augment import MODES, AugmentMode
from darkprep.trainer.loss import check_side

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}

IDENTITY_FIELDS = (
    "model",
    "cfa",
    "camera",
    "plan",
    "crop",
    "batch_size",
    "reuse",
    "augment",
    "seed",
    "parts",
)
"""What a resumed run must share with its checkpoint: it decides the network or the next batch."""

_MOST = {
    "iterations": 10**9,
    "batch_size": 10**6,
    "reuse": 1000,
    "checkpoint_every": 10**9,
    "log_every": 10**9,
    "parts": 10**4,
}
"""Nobody needs more, and all that is computed from them stays in 64 bits and in memory."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training; the defaults are the published recipe. Raises OptionError naming the field.

    Source: M. Lamba, K. Mitra, CVPR 2021, the released training code.
    """

    model: str = "redirt"
    cfa: CfaKind = "bayer"
    crop: int = 512
    """Side of the training crops, in mosaic pixels."""
    iterations: int = 1_000_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    """Of the first half of the iterations; a tenth of it in the second."""
    precision: Precision = "fp32"
    device: str = "cpu"
    reuse: int = 1
    """Uses of each sample before its shard is deleted."""
    augment: AugmentMode = "cfa"
    seed: int = 0
    checkpoint_every: int = 2000
    """Iterations between checkpoints; one is also written at the end and when told to stop."""
    log_every: int = 50
    """Iterations that one line of metrics.jsonl sums up."""
    keep_checkpoints: int = 3
    camera: str = ""
    """For the record: whose photographs these are."""
    plan: str = ""
    """For the record: the digest of the plan that the samples come from."""
    parts: int = 1
    """Into how many parts the plan's shards are dealt, a node of its own each."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for field, most in _MOST.items():
            if getattr(self, field) < 1:
                raise OptionError(f"{field} must be at least 1, not {getattr(self, field)}")
            if getattr(self, field) > most:
                raise OptionError(f"{field} must be at most {most:,}, not {getattr(self, field)}")
        if self.batch_size % self.parts:
            raise OptionError(
                f"batch_size {self.batch_size} must be a multiple of parts {self.parts}"
            )
        if self.keep_checkpoints < 1:
            raise OptionError(f"keep_checkpoints must be at least 1, not {self.keep_checkpoints}")
        if not 0 < self.learning_rate < 1:
            raise OptionError(f"learning_rate must be between 0 and 1, not {self.learning_rate}")
        if self.seed < 0:
            raise OptionError(f"seed must not be negative, not {self.seed}")
        if self.seed >= 2**63:
            raise OptionError(f"seed must be below 2^63, not {self.seed}")
        multiple = Network.multiple * CELL[self.cfa]
        if self.crop % multiple:
            raise OptionError(
                f"crop must be a multiple of {multiple} for {self.cfa}, not {self.crop}"
            )
        check_side(self.crop)

    def record(self) -> dict[str, Any]:
        """All fields, as JSON takes them; `parts` only where there are several, as in older runs."""
        record = asdict(self)
        if self.parts == 1:
            del record["parts"]
        return record

    def learning_rate_at(self, iteration: int) -> float:
        """The rate of step `iteration`, counted from 0: it drops to a tenth once, at half time."""
        return self.learning_rate * (0.1 if 2 * iteration >= self.iterations else 1)


def _check_choices(config: TrainConfig) -> None:
    for field, choices in (
        ("model", MODELS),
        ("cfa", tuple(MOSAICS)),
        ("precision", tuple(PRECISIONS)),
        ("augment", MODES),
    ):
        if getattr(config, field) not in choices:
            raise OptionError(
                f"{field} must be one of {', '.join(choices)}, not {getattr(config, field)!r}"
            )


def open_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one. Raises OptionError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {name}: this machine shows torch {torch.cuda.device_count()} GPUs; use cpu, or "
            f"install a build of torch with CUDA"
        )
    return device
