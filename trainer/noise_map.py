"""A noise-level map as further input planes, so that one network serves all ISO values and cameras.

Method: Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019: beside the noisy mosaic the network
reads an estimate of the standard deviation of each value, from the shot and read noise of the exposure. The
trade-off: the noisy value stands for the light, as in the paper, so the map has noise itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darkprep.shards.format import SampleMeta
from darkprep.shards.noise_level import NoiseLevel

NoiseOf = Callable[[SampleMeta], NoiseLevel]
"""Returns the noise level of a sample; may raise OptionError."""


def with_noise_map(
    low: Tensor,
    metas: Sequence[SampleMeta],
    levels: Sequence[NoiseLevel],
    *,
    light: Sequence[float] | None = None,
) -> Tensor:
    """Return `(B, 2C, h, w)`: the planes of `low`, and after them the standard deviation of each of their values.

    `low` is `(B, C, h, w)` float32 as `network_input` returns it: x = D / (white - black) * amplification for D codes
    above black. A signal of D codes has the variance K D + s^2, so x has K k x + (s k)^2 with k = amplification /
    (white - black). Values below black count as 0. `light` is by how much the light of each sample was
    multiplied before the sample was scaled back (shot_noise.py), which divides k.
    """
    factors = [
        meta.amplification / meta.full_scale / more
        for meta, more in zip(metas, light or [1.0] * len(metas), strict=True)
    ]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=low.device).view(-1, 1, 1, 1)

    pairs = list(zip(levels, factors, strict=True))
    shot = column([level.gain * factor for level, factor in pairs])
    read = column([(level.read_sigma * factor) ** 2 for level, factor in pairs])
    planes = low.shape[1]
    mapped = low.new_empty(len(low), 2 * planes, *low.shape[2:])
    mapped[:, :planes] = low
    torch.clamp(low, min=0, out=mapped[:, planes:])
    mapped[:, planes:].mul_(shot).add_(read).sqrt_()
    return mapped
