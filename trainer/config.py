"""The configuration of a training run: every setting that its result depends on, with the defaults.

The trade-off: one flat record is written whole to the run directory and into each checkpoint, although no
single part of the trainer needs all of it. Importing this module does not load torch, so that the command
line can read the defaults; creating a TrainConfig does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from darkprep.shards.decode import decode
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, TARGETS, CfaKind, Target

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

AugmentMode = Literal["cfa", "paper", "none"]
AUGMENT_MODES: tuple[AugmentMode, ...] = get_args(AugmentMode)

RANK_TIMEOUT_S = 1800.0
"""How long a rank waits for another rank's answer; long, because rank 0 may be evaluating the network."""

DEFAULT_LOSS = "default"
"""Name of the loss of each target, `trainer.loss.target_loss`."""

IDENTITY_FIELDS = (
    "model",
    "cfa",
    "camera",
    "plan",
    "crop",
    "batch_size",
    "reuse",
    "augment",
    "shot_noise",
    "full_scale_electrons",
    "noise_levels",
    "seed",
    "parts",
    "target",
)
"""Fields that must be equal in a checkpoint and in the run that resumes it: they decide the network or the next batch."""

_LATER_FIELDS = (
    *("target", "loss", "parts", "keep_shards", "evaluate_every"),
    *("shot_noise", "full_scale_electrons", "noise_map", "noise_levels"),
)
"""Fields that config.json did not always have."""

_MAXIMA = {
    "iterations": 10**9,
    "batch_size": 10**6,
    "reuse": 1000,
    "checkpoint_every": 10**9,
    "log_every": 10**9,
    "parts": 10**4,
}
"""Far above any real use; they keep numbers computed from these fields within 64 bits and within memory."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of a training run; the defaults are the published ones.

    Raises OptionError, which names the invalid field.

    Source: M. Lamba, K. Mitra, CVPR 2021, the released training code.
    """

    model: str = "redirt"
    """Name of the network: one of model.MODELS, or `package.module:Class` for one that `train` is given."""
    cfa: CfaKind = "bayer"
    crop: int = 512
    """Side of the training crops, in mosaic pixels."""
    iterations: int = 1_000_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    """Used for the first half of the iterations; a tenth of it is used for the second half."""
    precision: Precision = "fp32"
    device: str = "cpu"
    reuse: int = 1
    """How many times each sample is used before its shard is deleted."""
    augment: AugmentMode = "cfa"
    shot_noise: float = 0.0
    """Largest share of its own light that is added to a short exposure with shot noise; 0 for none (trainer/shot_noise.py)."""
    full_scale_electrons: float = 0.0
    """Electrons from black to white at ISO 100, for `shot_noise`; 0 without it."""
    noise_map: str = ""
    """Whose noise the noise-level map holds, which the network reads as further planes: `auto`, a published camera, or a
    calibration file; empty for a network without the map (trainer/noise_map.py). Recorded, not used."""
    noise_levels: str = ""
    """What identifies these noise levels; empty without the map. The network has the map if this is not empty."""
    seed: int = 0
    checkpoint_every: int = 2000
    """Iterations between checkpoints; another one is written when the training ends or is stopped."""
    log_every: int = 50
    """Iterations between lines of metrics.jsonl; a line holds means over these iterations."""
    keep_checkpoints: int = 3
    loss: str = DEFAULT_LOSS
    """Name of the loss: the default one of the target, or `package.module:function` for one that `train` is given."""
    camera: str = ""
    """The camera of the photographs; recorded, not used."""
    plan: str = ""
    """The digest of the plan of the samples; recorded, not used."""
    target: Target = "srgb"
    """What the network restores, as the plan of the samples says: `srgb`, `linear` or `raw`."""
    parts: int = 1
    """Number of parts that the plan's shards are divided into, one for each node."""
    keep_shards: bool = False
    """Whether the reader keeps the shards of the plan and repeats them; recorded, not used."""
    evaluate_every: int | None = None
    """Iterations between evaluations on validation frames; None: at each checkpoint, 0: never. Recorded, not used."""

    def __post_init__(self) -> None:
        # Imported here because they load torch; the defaults above are read without it.
        from darkprep.model import MODELS, Network
        from darkprep.model.own import is_own
        from darkprep.trainer.loss import check_crop

        for field, choices in (
            ("model", (self.model,) if is_own(self.model) else MODELS),
            ("loss", (self.loss,) if is_own(self.loss) else (DEFAULT_LOSS,)),
            ("cfa", tuple(CELL)),
            ("target", TARGETS),
            ("precision", PRECISIONS),
            ("augment", AUGMENT_MODES),
        ):
            _check_choice(field, getattr(self, field), choices)
        self._check_numbers()
        check_shot_noise(self.shot_noise, self.full_scale_electrons)
        multiple = Network.multiple * CELL[self.cfa]
        if self.crop % multiple:
            raise OptionError(
                f"crop must be a multiple of {multiple} for {self.cfa}, not {self.crop}"
            )
        if self.loss == DEFAULT_LOSS:
            check_crop(self.crop, self.target)

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
                f"batch_size must be a multiple of the number of parts {self.parts}, not {self.batch_size}"
            )
        if self.evaluate_every is not None and self.evaluate_every < 0:
            raise OptionError(f"evaluate_every must be at least 0, not {self.evaluate_every}")
        if self.keep_checkpoints < 1:
            raise OptionError(f"keep_checkpoints must be at least 1, not {self.keep_checkpoints}")
        if not 0 < self.learning_rate < 1:
            raise OptionError(f"learning_rate must be between 0 and 1, not {self.learning_rate}")
        if self.seed < 0:
            raise OptionError(f"seed must be at least 0, not {self.seed}")
        if self.seed >= 2**63:
            raise OptionError(f"seed must be below 2^63, not {self.seed}")

    def record(self) -> dict[str, Any]:
        """Return the fields as config.json holds them; fields added later are left out if they have the default value."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER_FIELDS or value != getattr(TrainConfig, name)
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Create a configuration from the content of a config.json. Raises OptionError, which names the invalid field."""
        missing = [one.name for one in fields(cls) if one.name not in {*record, *_LATER_FIELDS}]
        if missing:
            raise OptionError(f"{missing[0]} is missing")
        try:
            return decode(cls, record)
        except ValueError as error:
            raise OptionError(str(error)) from error

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate of step `iteration`, from 0: it drops to a tenth after half of the steps."""
        return self.learning_rate * (1 if iteration < self.half_time else 0.1)

    @property
    def has_noise_map(self) -> bool:
        """Whether the network reads a noise-level map."""
        return bool(self.noise_levels)

    @property
    def half_time(self) -> int:
        """Number of steps with the full learning rate."""
        return -(-self.iterations // 2)


def check_shot_noise(shot_noise: float, full_scale_electrons: float) -> None:
    """Raise OptionError if only one of the two settings is given."""
    if (shot_noise > 0) != (full_scale_electrons > 0):
        raise OptionError(
            "shot_noise and full_scale_electrons can be used only together; give both or neither"
        )


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{field} must be one of {', '.join(choices)}, not {value!r}")
