"""Add light with its shot noise to photographed short exposures, as an augmentation of training on RAW targets.

Method: shot noise augmentation of PMN (Feng et al., "Learnability enhancement for low-light raw image denoising",
ACM MM 2022): the truth, a long exposure, is nearly free of noise, so a random share of its light can be added to the
short exposure, with shot noise drawn for it. The trade-off: the sum is scaled back to the short exposure's
brightness, so that the target and its amplification stay as they are; and K is taken to be in proportion to ISO.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from darkprep.shards.errors import OptionError
from darkprep.shards.format import SampleMeta
from darkprep.shards.rng import RngStream, random_bits
from darkprep.trainer.config import check_shot_noise


@dataclass(frozen=True, kw_only=True)
class ShotNoiseAugmentation:
    """Adds light to batches, as a function of (seed, sample keys, uses) alone. Raises OptionError, which names the field."""

    most: float
    """The largest share of its own light that is added to a sample; shares are uniform from 0 to this."""
    full_scale_electrons: float
    """Electrons from black to white at ISO 100: (white - black) / K at this ISO."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.most <= 100:
            raise OptionError(f"shot_noise must be above 0 and at most 100, not {self.most}")
        if not 100 <= self.full_scale_electrons <= 1e8:
            raise OptionError(
                f"full_scale_electrons must be from 100 to 100,000,000, not {self.full_scale_electrons:g}; darkprep calibrate prints it"
            )

    def apply(
        self, low: Tensor, truth: Tensor, metas: tuple[SampleMeta, ...], uses: tuple[int, ...]
    ) -> Tensor:
        """Return `low` with more light and the same brightness, in new memory.

        `low` and `truth` are `(B, C, h, w)` float32 planes in the same place, white = 1, `low` amplified. Raises
        OptionError for samples without an ISO or a ratio.
        """
        return self.lit(low, truth, metas, uses)[0]

    def lit(
        self, low: Tensor, truth: Tensor, metas: tuple[SampleMeta, ...], uses: tuple[int, ...]
    ) -> tuple[Tensor, list[float]]:
        """Return what `apply` returns, and by how much the light of each sample was multiplied."""
        for meta in metas:
            if not (meta.iso > 0 and meta.ratio > 0):
                raise OptionError(
                    f"shot_noise needs the ISO and the exposure ratio of each sample, but {meta.pair} lacks at least one of them; leave --shot-noise out, or build a spool of photographs that state both"
                )
        text = " ".join(f"{meta.key}/{use}" for meta, use in zip(metas, uses, strict=True))
        bits = random_bits(
            len(metas) + 1, self.seed, RngStream.LIGHT, xxhash.xxh3_64_intdigest(text.encode())
        )
        shares = [self.most * (int(word) >> 11) * 2.0**-53 for word in bits[1:]]
        generator = torch.Generator(low.device).manual_seed(int(bits[0] >> 1))

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=low.device).view(-1, 1, 1, 1)

        share = column(shares)
        electrons = column([self.full_scale_electrons * 100 / meta.iso for meta in metas])
        expected = truth * (share * electrons / column([meta.ratio for meta in metas]))
        added = torch.poisson(expected, generator=generator) / electrons
        added *= column([meta.amplification for meta in metas])
        return added.add_(low).div_(1 + share), [1 + one for one in shares]


def shot_noise_from(
    most: float, full_scale_electrons: float, seed: int
) -> ShotNoiseAugmentation | None:
    """Return the augmentation with these settings; None if both are 0. Raises OptionError."""
    check_shot_noise(most, full_scale_electrons)
    if not most:
        return None
    return ShotNoiseAugmentation(most=most, full_scale_electrons=full_scale_electrons, seed=seed)
