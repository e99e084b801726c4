"""What the networks are made of: parameters, arithmetic, receptive field. Each is computed.

    python bench/model_table.py         prints the table of docs/models.md

The trade-off: found by running the networks (counted operations, NaNs that spread), not by
formulas over their layers, so that a formula cannot share a mistake with the code.
"""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from darkprep.model import MOSAICS, CfaKind, Network, Target, build_model

HEAD = (
    "| model | target | mosaic | parameters | MAC per RAW pixel | receptive field, RAW pixels |\n"
    "|---|---|---|---:|---:|---:|\n"
)


SHOWN: tuple[tuple[str, Target, tuple[CfaKind, ...]], ...] = (
    ("redirt", "srgb", tuple(MOSAICS)),
    ("redirt-2rdb", "srgb", tuple(MOSAICS)),
    ("redirt-gn", "srgb", tuple(MOSAICS)),
    ("sid", "srgb", tuple(MOSAICS)),
    ("redirt", "raw", ("bayer",)),
    ("unet", "raw", ("bayer",)),
    ("nafnet", "raw", ("bayer",)),
)
"""Each network with the target of its authors, and REDIRT with `raw`; `linear` is like `srgb`."""


def parameters(model: Network) -> int:
    """Trainable numbers, weight norm's lengths included."""
    return sum(p.numel() for p in model.parameters())


def macs_per_pixel(model: Network) -> float:
    """Multiply-accumulates of the convolutions per pixel of the mosaic."""
    side = 4 * model.multiple
    packed = torch.zeros(1, model.mosaic.planes, side, side, device="meta")
    body = copy.deepcopy(model.body).to("meta")  # operations are counted and not computed
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        body(packed)
    return counter.get_total_flops() / 2 / (side * model.mosaic.cell) ** 2


def receptive_field(model: Network) -> int | None:
    """Side of the square that one output pixel depends on, in RAW pixels; None: the whole frame.

    A NaN in one column of a strip one cell of the network high spreads to all outputs that read it.
    The network repeats itself every `multiple` packed columns, so as many NaNs say everything.
    """
    step, cell = model.multiple, model.mosaic.cell
    width = 48 * step
    scale = model.scale
    hits = []
    for column in range(step):
        packed = torch.zeros(1, model.mosaic.planes, step, width)
        packed[:, :, :, width // 2 + column] = torch.nan
        with torch.no_grad():
            hits.append(torch.isnan(model(packed)).any(dim=1).any(dim=1))
        if hits[0].all():
            return None
    return _widest(torch.cat(hits), step * scale) * cell


def _widest(hit: torch.Tensor, period: int) -> int:
    """Most packed columns that one output column reads; `hit[i]` are the outputs that read i."""
    spans = [torch.nonzero(row).flatten() for row in hit]
    spread = [(int(span[0]), int(span[-1])) for span in spans]
    step = len(spread)
    middle = hit.shape[1] // 2 // period * period
    widest = 0
    for output in range(middle, middle + period):
        readers = [
            shift * step + column
            for column, (low, high) in enumerate(spread)
            for shift in range(-64, 65)
            if low + shift * period <= output <= high + shift * period
        ]
        widest = max(widest, max(readers) - min(readers) + 1)
    return widest


def row(name: str, target: Target, cfa: CfaKind) -> str:
    """One line of the table."""
    model = build_model(name, cfa, target).eval()
    field = receptive_field(model)
    side = "whole frame" if field is None else f"{field:,} x {field:,}"
    return f"| `{name}` | {target} | {cfa} | {parameters(model):,} | {macs_per_pixel(model):,.0f} | {side} |\n"


def table() -> str:
    """The table of all networks, in Markdown."""
    return HEAD + "".join(
        row(name, target, cfa) for name, target, mosaics in SHOWN for cfa in mosaics
    )


if __name__ == "__main__":
    print(table(), end="")
