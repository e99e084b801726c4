"""What of a training run the caller may replace: network, loss, optimiser and schedule; by default the published ones.

The trade-off: before the training, a network or loss of the caller's own is tried on one batch of zeros. This
takes the time of one step without the backward pass, but a wrong shape is then reported in one line at once.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from darkprep.model import MOSAICS, ModelError, Network, Target, build_model
from darkprep.model.own import NetworkSource, is_own, own_network
from darkprep.shards.errors import OptionError, first_line
from darkprep.trainer.adam import EagerAdam
from darkprep.trainer.checkpoint import TrainState
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import out_of_memory_errors
from darkprep.trainer.loss import target_loss

Loss = Callable[[Tensor, Tensor], Tensor]
"""Returns a scalar for the restored batch and its target, both float32 `(B, *target shape)`."""
MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Returns an optimiser of the given parameters."""
Schedule = Callable[[int], float]
"""Returns the learning rate of a step, counted from 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What a training run uses instead of the network, loss, optimiser and schedule of its configuration."""

    network: NetworkSource | None = None
    loss: Loss | None = None
    optimiser: MakeOptimiser | None = None
    schedule: Schedule | None = None

    @property
    def is_own(self) -> bool:
        """Whether network or loss is the caller's code."""
        return self.network is not None or self.loss is not None

    def named(self, config: TrainConfig) -> TrainConfig:
        """Return the configuration with the names of network and loss. Raises OptionError where one is missing."""
        for field in ("model", "loss"):
            if is_own(getattr(config, field)) and not getattr(self, _ARGUMENTS[field]):
                raise OptionError(
                    f"{field} {getattr(config, field)}: is code of your own; pass it as the argument `{_ARGUMENTS[field]}` (for safety, darkprep imports only code that you name yourself)"
                )
        if self.network is not None and not is_own(config.model):
            name = (
                self.network.name if isinstance(self.network, Network) else _name_of(self.network)
            )
            config = replace(config, model=name)
        if self.loss is not None and not is_own(config.loss):
            config = replace(config, loss=_name_of(self.loss))
        return config

    def new_state(self, config: TrainConfig, device: torch.device) -> TrainState:
        """Create a network, its optimiser and its loss scaler; also seed torch's random number generators.

        Raises OptionError when the caller's network or loss breaks the contract.
        """
        torch.manual_seed(config.seed)
        network = self._network(config).to(device).train()
        if self.is_own:
            self._try(network, config, device)
        parameters = [one for one in network.parameters() if one.requires_grad]
        return TrainState(
            network=network,
            optimiser=self.optimiser(parameters)
            if self.optimiser
            else EagerAdam(parameters, lr=config.learning_rate, fused=True),
            scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        )

    def learning_rate_at(self, config: TrainConfig, step: int) -> float | None:
        """Return the learning rate of a step; None where the caller's optimiser keeps its own."""
        if self.schedule:
            return self.schedule(step)
        return None if self.optimiser else config.learning_rate_at(step)

    def loss_of(self, restored: Tensor, truth: Tensor, target: Target) -> Tensor:
        """Return the loss of a batch, a scalar."""
        if self.loss is None:
            return target_loss(restored, truth, target)
        return self.loss(restored.float(), truth)

    def _network(self, config: TrainConfig) -> Network:
        if self.network is None:
            return build_model(
                config.model, config.cfa, config.target, noise_map=config.has_noise_map
            )
        try:
            network = own_network(
                config.model,
                self.network,
                config.cfa,
                config.target,
                noise_map=config.has_noise_map,
            )
        except ModelError as error:
            raise OptionError(first_line(error)) from error
        if (network.cfa, network.target) != (config.cfa, config.target):
            raise OptionError(
                f"model {network.name}: is for {network.cfa} and the target {network.target}, but the samples are {config.cfa} with the target {config.target}; choose a spool or a model that fits"
            )
        if network.noise_map != config.has_noise_map:
            raise OptionError(
                f"model {network.name}: was built with{'' if network.noise_map else 'out'} a noise-level map, but the training run uses {'one' if config.has_noise_map else 'none'}; build the model to match the run"
            )
        return network

    def _try(self, network: Network, config: TrainConfig, device: torch.device) -> None:
        """Raise OptionError unless network and loss keep to the contract; neither is changed by the trial."""
        mosaic = MOSAICS[config.cfa]
        side = config.crop // mosaic.cell
        count = min(config.batch_size, _MOST_TRIED)
        low = torch.zeros(count, network.mosaic.inputs, side, side, device=device)
        planes = mosaic.planes if config.target == "raw" else 3
        size = side * mosaic.head(config.target).shuffle
        truth = torch.zeros(count, planes, size, size, device=device)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        memory = out_of_memory_errors(f"batch_size {config.batch_size}", device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), memory:
            what = f"model {config.model}: forward of {tuple(low.shape)}"
            restored = _call(what, lambda: network(low))
            if not isinstance(restored, Tensor) or restored.shape != truth.shape:
                raise OptionError(
                    f"{what} must return {tuple(truth.shape)}, not {_described(restored)}"
                )
            loss = _call(
                f"loss {config.loss}", lambda: self.loss_of(restored, truth, config.target)
            )
            if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
                raise OptionError(
                    f"loss {config.loss}: must return a scalar tensor that depends on the restored batch, not {_described(loss)}"
                )
        network.load_state_dict(before)


_ARGUMENTS = {"model": "network", "loss": "loss"}
"""The argument of `train` that holds the code which a field of TrainConfig names."""
_MOST_TRIED = 2
"""Samples of the trial, which layers that normalise over a batch need."""


def _name_of(code: object) -> str:
    """Return `module:name` of a class, a function, or an object's class."""
    named = code if hasattr(code, "__qualname__") else type(code)
    return f"{named.__module__}:{named.__qualname__}"


def _described(value: object) -> str:
    """Return what a value is, for a message: shape of a tensor, or type."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.ndim:
        return str(tuple(value.shape))
    return "a scalar" if value.requires_grad else "a scalar without a gradient"


def _call(what: str, code: Callable[[], object]) -> object:
    """Return the result of the caller's code; raise OptionError that names the line in which it failed."""
    try:
        return code()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f"{Path(frame.f_code.co_filename).name}, line {line}"
        raise OptionError(
            f"{what} failed: {type(error).__name__}: {first_line(error)} ({place})"
        ) from error
