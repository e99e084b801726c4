"""The configuration of a training: every choice that its result depends on, and the defaults of all of them.

The trade-off: one flat record that goes whole into the run directory and into each checkpoint, though no
single part of the trainer needs all of it. Loading this module loads no torch, so that the command line
can read its defaults here; making a TrainConfig does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, CfaKind

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

AugmentMode = Literal["cfa", "paper", "none"]
AUGMENT_MODES: tuple[AugmentMode, ...] = get_args(AugmentMode)

RANK_TIMEOUT_S = 1800.0
"""How long a rank waits for one that does not answer; long, because rank 0 may be validating."""

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
"""Fields in which a resumed run must equal its checkpoint: they decide the network or the next batch."""

_MAXIMA = {
    "iterations": 10**9,
    "batch_size": 10**6,
    "reuse": 1000,
    "checkpoint_every": 10**9,
    "log_every": 10**9,
    "parts": 10**4,
}
"""Far above any real use; what is computed from these fields stays within 64 bits and in memory."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of one training; the defaults are the published recipe.

    Raises OptionError naming the field.

    Source: M. Lamba, K. Mitra, CVPR 2021, the released training code.
    """

    model: str = "redirt"
    cfa: CfaKind = "bayer"
    crop: int = 512
    """Side of the training crops, in mosaic pixels."""
    iterations: int = 1_000_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    """For the first half of the iterations; a tenth of it for the second half."""
    precision: Precision = "fp32"
    device: str = "cpu"
    reuse: int = 1
    """How many times each sample is used before its shard is deleted."""
    augment: AugmentMode = "cfa"
    seed: int = 0
    checkpoint_every: int = 2000
    """Iterations between checkpoints; another one is written when the training ends or is stopped."""
    log_every: int = 50
    """Iterations that are averaged in one line of metrics.jsonl."""
    keep_checkpoints: int = 3
    camera: str = ""
    """Only recorded: the camera of the photographs."""
    plan: str = ""
    """Only recorded: the digest of the plan that the samples come from."""
    parts: int = 1
    """Number of parts that the plan's shards are divided into, one for each node."""

    def __post_init__(self) -> None:
        # Imported here because they load torch; the defaults above are read without it.
        from darkprep.model import MODELS, Network
        from darkprep.trainer.loss import check_side

        for field, choices in (
            ("model", MODELS),
            ("cfa", tuple(CELL)),
            ("precision", PRECISIONS),
            ("augment", AUGMENT_MODES),
        ):
            _check_choice(field, getattr(self, field), choices)
        self._check_numbers()
        multiple = Network.multiple * CELL[self.cfa]
        if self.crop % multiple:
            raise OptionError(
                f"crop must be a multiple of {multiple} for {self.cfa}, not {self.crop}"
            )
        check_side(self.crop)

    def _check_numbers(self) -> None:
        for field, largest in _MAXIMA.items():
            if getattr(self, field) < 1:
                raise OptionError(f"{field} must be at least 1, not {getattr(self, field)}")
            if getattr(self, field) > largest:
                raise OptionError(
                    f"{field} must be at most {largest:,}, not {getattr(self, field)}"
                )
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

    def record(self) -> dict[str, Any]:
        """Return the fields as config.json holds them; `parts` only if above 1, as in older runs."""
        record = asdict(self)
        if self.parts == 1:
            del record["parts"]
        return record

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate of step `iteration`, counted from 0: a tenth from half time on."""
        return self.learning_rate * (0.1 if 2 * iteration >= self.iterations else 1)


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{field} must be one of {', '.join(choices)}, not {value!r}")
