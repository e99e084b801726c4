"""A training step alone, its batch already on the device: the pace that no loader can exceed.

The trade-off: always the same batch, so that only the step is measured; its values have no effect on the pace.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import published
import torch
from gpu_section import (
    PRECISIONS,
    Row,
    Section,
    interleaved,
    kernel_rows,
    peak_memory,
    set_precision,
)
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.loss import restoration_loss
from darkprep.trainer.recipe import Recipe
from darkprep.trainer.step import TrainStep
from darkprep.trainer.stream import DeviceBatch

BATCH, CROP = 8, 512
TINY_BATCH, TINY_CROP = 1, 192
_BENCHMARKED = ("darkprep", "darkprep, channels last")
"""Forms that are measured with cudnn.benchmark too."""


def main() -> None:
    """Measure the step at each precision and in each form, then its longest kernels."""
    section = Section(__doc__)
    batch = random_batch(section)
    rows: list[Row] = []
    kernels: list[Row] = []
    for precision in section.precisions:
        if section.has_time(f"steps in {precision}", 8):
            rows += measure(section, batch, precision)
            section.save("A training step alone", rows)
    for precision in section.profiled:
        with section.guarded(f"kernels in {precision}"):
            set_precision(precision)
            step = our_step(section, batch, precision)
            step()
            kernels += kernel_rows(precision, step, section.device)
    section.show("Longest kernels of a step", kernels)
    section.finish()


def random_batch(section: Section) -> DeviceBatch:
    """Return a batch of the published size on the device; a tiny one on a CPU."""
    count, crop = (TINY_BATCH, TINY_CROP) if section.cpu else (BATCH, CROP)
    low = torch.rand(count, 4, crop // 2, crop // 2, device=section.device)
    gt = torch.rand(count, 3, crop, crop, device=section.device)
    return DeviceBatch(index=0, low=low, gt=gt, metas=(), uses=())


def measure(section: Section, batch: DeviceBatch, precision: str) -> list[Row]:
    """Return a row for each form of the step, in turn with the others."""
    set_precision(precision)
    forms: dict[str, Callable[[], Callable[[], Any]]] = {
        "published network": partial(published_step, batch, precision),
        "darkprep": partial(our_step, section, batch, precision),
        "darkprep, no CUDA graph": partial(our_step, section, batch, precision, graph=False),
        "darkprep, channels last": partial(our_step, section, batch, precision, channels_last=True),
        "loss alone": partial(loss_alone, batch),
    }
    steps: dict[str, Callable[[], Any]] = {}
    peaks: dict[str, dict[str, float]] = {}
    for name, build in forms.items():
        with section.guarded(f"{name}, step in {precision}"):
            with peak_memory(section.device) as peak:
                step = build()
                step()
            steps[name], peaks[name] = step, peak
    found = interleaved(steps, section.device)
    rows = [row(batch, name, precision, ms) | peaks[name] for name, ms in found.items()]
    if section.device.type == "cuda":
        with (
            section.guarded(f"cudnn.benchmark, step in {precision}"),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=True, allow_tf32=precision != "fp32"
            ),
        ):
            # Built anew, because a CUDA graph keeps the kernels with which it was captured.
            again = {f"{name}, cudnn.benchmark": forms[name]() for name in _BENCHMARKED}
            rows += [
                row(batch, name, precision, ms)
                for name, ms in interleaved(again, section.device).items()
            ]
    return rows


def row(batch: DeviceBatch, name: str, precision: str, ms: float) -> Row:
    """Return a row of the table."""
    samples = batch.gt.shape[0] / ms * 1e3
    return {"step": name, "precision": precision, "ms": ms, "samples/s": samples}


def our_step(
    section: Section,
    batch: DeviceBatch,
    precision: str,
    *,
    channels_last: bool = False,
    graph: bool = True,
    change: Callable[[nn.Module], nn.Module] | None = None,
) -> Callable[[], Tensor]:
    """Return a call that does the training step of `stream-train` on the batch.

    `change` returns what takes the place of the network's body, such as the compiled body.
    """
    name = "fp32" if precision == "tf32" else precision
    config = TrainConfig(precision=name, device=section.device.type)  # type: ignore[arg-type]
    recipe = Recipe()
    state = recipe.new_state(config, section.device)
    if channels_last:
        state.network.to(memory_format=torch.channels_last)
        low = batch.low.contiguous(memory_format=torch.channels_last)
        batch = DeviceBatch(index=0, low=low, gt=batch.gt, metas=(), uses=())
    if change:
        state.network.body = change(state.network.body)
    step = TrainStep(config, state, SingleProcess(), section.device, recipe, graph=graph)
    return lambda: step(batch, 0)


def published_step(batch: DeviceBatch, precision: str) -> Callable[[], None]:
    """Return a call that trains the published network, under autocast where the precision is lower."""
    mosaic = F.pixel_shuffle(batch.low, 2)
    device = mosaic.device.type
    state = {
        name: tensor.to(mosaic.device).requires_grad_(True)
        for name, tensor in published.checkpoint(seed=0).items()
    }
    optimiser = torch.optim.Adam(list(state.values()), lr=1e-4)
    dtype = PRECISIONS[precision]

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            restored = published.restore(state, mosaic)
        restoration_loss(restored, batch.gt).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def loss_alone(batch: DeviceBatch) -> Callable[[], None]:
    """Return a call that computes the loss and its gradient."""
    restored = torch.rand_like(batch.gt, requires_grad=True)
    return lambda: restoration_loss(restored, batch.gt).backward()  # type: ignore[no-any-return,no-untyped-call]


if __name__ == "__main__":
    main()
