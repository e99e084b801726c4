"""The options of a training run on a spool, and what follows from them and from the spool's plan."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

from darkprep.jobs.noise_map import TrainingNoise, training_noise
from darkprep.jobs.remote_training import RemoteTraining
from darkprep.model.own import NetworkSource
from darkprep.shards import OptionError, Spool
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.recipe import Loss


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training run on a spool. Raises OptionError, which names the invalid field."""

    spool: Spool
    config: TrainConfig = field(default_factory=TrainConfig)
    """The configuration; `spool_config` sets the fields that the spool's plan decides."""
    run_dir: Path
    """Directory for the run's files."""
    resume: bool = False
    """Whether the directory holds a run, which is continued."""
    read_only: bool = False
    """Whether to change nothing in the spool, whose shards are kept: no lock, no cursor, no deletion."""
    messages: tuple[str, ...] = ()
    """Lines to print when training begins."""
    resume_command: str = ""
    """The command that continues the run, printed when the run fails."""
    producers: int | None = None
    """Number of worker processes of the producer that is started if none is running; 0 to start none; None for as many as `build` used, on a GPU at most the number of CPU cores minus two."""
    network: NetworkSource | None = None
    """The user's own network, if `config.model` names one."""
    loss: Loss | None = None
    """The user's own loss, if `config.loss` names one."""
    remote: RemoteTraining | None = None
    """The bucket from which the shards are downloaded; None for a spool in a directory."""

    def __post_init__(self) -> None:
        if self.read_only and self.remote:
            raise OptionError(
                "--read-only cannot be used with a spool in object storage; leave it out"
            )
        if self.read_only and not self.config.keep_shards:
            raise OptionError(
                "--read-only needs --keep-shards, because a read-only run cannot delete shards; give --keep-shards too"
            )
        if self.remote and self.config.keep_shards:
            raise OptionError(
                "--keep-shards can be used only with a spool in a directory, because shards from object storage are deleted after use"
            )
        if self.remote and self.producers:
            raise OptionError(
                f"producers must be 0 or auto for a spool in object storage, not {self.producers}; run `darkprep build --spool {self.remote.url}` on the machine that has the photographs"
            )
        if self.producers is not None and self.producers < 0:
            raise OptionError(f"producers must be auto or at least 0, not {self.producers}")

    @property
    def may_produce(self) -> bool:
        """Whether this process may start a producer, which makes shards beyond those already built."""
        return self.producers != 0 and not self.remote and not self.read_only

    @property
    def validation_interval(self) -> int:
        """Iterations between evaluations on validation frames; 0 for never."""
        every = self.config.evaluate_every
        return self.config.checkpoint_every if every is None else every

    @functools.cached_property
    def noise(self) -> TrainingNoise | None:
        """The noise levels that the network reads; None without a noise-level map. Raises OptionError."""
        chosen = self.config.noise_map
        return training_noise(chosen, self.spool) if chosen else None

    def spool_config(self, device: str) -> TrainConfig:
        """Return the configuration on `device`, completed with what the spool's plan decides. Raises OptionError."""
        stream = self.spool.stream
        return replace(
            self.config,
            cfa=stream.cfa,
            target=stream.target,
            crop=stream.crop,
            camera=stream.camera,
            plan=self.spool.digest,
            noise_levels=self.noise.identity if self.noise else "",
            parts=max(self.config.parts, self.spool.part[1]),
            device=device,
        )

    def check_batch(self) -> None:
        """Raise OptionError when the plan ends before its first batch is complete."""
        config, spool = self.config, self.spool
        if config.keep_shards or self.may_produce:
            return
        order = spool.use_order(
            seed=config.seed, reuse=config.reuse, shards=spool.stream.shards, parts=config.parts
        )
        nodes = spool.part[1]
        there = len(order.uses(0, config.batch_size // nodes)) * nodes
        if there < config.batch_size - config.batch_size % nodes:
            raise OptionError(
                f"batch-size must be at most {there}, the number of samples in the plan, not {config.batch_size}; "
                "for a larger batch size, build a spool with more --epochs"
            )

    def shards_needed(self) -> int:
        """Return how many shards of the plan the training run needs. Raises OptionError."""
        config, stream = self.config, self.spool.stream
        order = self.spool.use_order(seed=config.seed, reuse=config.reuse, parts=config.parts)
        samples = config.iterations * (config.batch_size // self.spool.part[1])
        needed = order.newest_shard(max(0, samples - 1)) + 1
        if not config.keep_shards:
            return needed
        return min(needed, stream.shards_for("--keep-shards"))
