"""A network in the form in which darktable runs raw denoise models, and how far its tiles differ from the whole frame.

The editor cuts a frame into tiles, runs each alone, and blends neighbours over their overlap. A network that looks
further than the overlap sees other surroundings in a tile than in the frame. The trade-off: what that does to a
picture depends on the weights, so it is measured for each export, on one artificial frame.

Source of the contract `bayer_v1` and of the blending: darktable, src/common/ai/restore_raw_bayer.c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model.build import Network
from darkprep.model.errors import ModelError
from darkprep.model.export import PlanesNetwork

TILE = 512
"""Packed height and width of a tile; darktable's own models have this size."""
OVERLAP = 32
"""Packed pixels at each side of a tile that belong to its neighbours too, as far as their middle."""
SEAM_LIMIT = 0.5
"""Steps of an 8-bit sRGB picture that tiles may differ from the whole frame: half a step is what rounding changes."""

_RIM = 16
"""Packed pixels by which a tile is continued by mirroring before the network runs, a multiple of what networks need.

Without it the network would see black around the tile. The tiles of a U-Net then differ by 0.91 instead of 0.30 steps.
"""
_NEAR_WHITE = 0.9
"""Restored value above which the input is mixed in, because the network cannot restore values above 1."""
_GRAINS = ((128, 0.5, "bilinear"), (32, 0.3, "nearest"), (8, 0.2, "bilinear"))
"""Size in packed pixels, share and interpolation of the artificial frame's details: light, edges, texture."""
_NOISE = 0.1
"""Standard deviation of the artificial frame's noise in a white area, after amplification."""


class EditorNetwork(nn.Module):
    """A network of the target `linear` in the form `bayer_v1`: it amplifies its input itself, and undoes it.

    The editor states no exposure, so the amplification is a constant. A factor from the content of a tile would
    differ between tiles. Where the amplified result comes near 1, which is as bright as the network gets, the
    editor's own values are kept: lamps and windows in a dark frame.
    """

    def __init__(self, model: Network, amplification: float) -> None:
        super().__init__()
        check_editor_network(model)
        self.network = PlanesNetwork(model)
        self.amplification = amplification

    def forward(self, packed: Tensor) -> Tensor:
        """Return camera RGB `(B, 3, 2h, 2w)` at the input's exposure for planes `(B, 4, h, w)`.

        Input and output have black 0 and white 1, are not amplified, and have no white balance.
        """
        framed = F.pad(packed * self.amplification, (_RIM,) * 4, mode="reflect")
        amplified: Tensor = self.network(framed)[..., 2 * _RIM : -2 * _RIM, 2 * _RIM : -2 * _RIM]
        share = ((amplified - _NEAR_WHITE) / (1 - _NEAR_WHITE)).clamp(0, 1)
        restored = amplified / self.amplification
        return restored + (_at_mosaic_size(packed) - restored) * share


def check_editor_network(model: Network) -> None:
    """Raise ModelError unless the contract `bayer_v1` fits the network: Bayer planes to linear camera RGB."""
    if model.cfa != "bayer":
        raise ModelError(
            f"{model.name} reads X-Trans, which .dtmodel packages do not support yet (darktable reserves the name xtrans_v1, but has not defined it); export it as .onnx"
        )
    if model.noise_map:
        raise ModelError(
            f"{model.name} reads a noise-level map, which editors do not give to a model; export it as .onnx, or train without --noise-map"
        )
    if model.target != "linear":
        raise ModelError(
            f"{model.name} restores {model.target}, but a .dtmodel returns linear camera RGB; train on a spool that was built with --target linear, or export it as .onnx"
        )


def _at_mosaic_size(packed: Tensor) -> Tensor:
    """Return `(B, 3, 2h, 2w)`: at each site of the mosaic its own value, and for other colours one of the same cell."""
    red, green1, green2, blue = packed.chunk(4, dim=1)
    green = (green1 + green2) / 2
    cells = [red, red, red, red, green, green1, green2, green, blue, blue, blue, blue]
    return F.pixel_shuffle(torch.cat(cells, dim=1), 2)


@torch.inference_mode()
def seam(network: Callable[[Tensor], Tensor], amplification: float, tile: int = TILE) -> float:
    """Return by how much four tiles differ from the frame restored in one piece.

    The figure is the largest difference of any pixel and colour, in steps of an 8-bit sRGB picture of the amplified
    result. `network` maps `(1, 4, h, w)` to `(1, 3, 2h, 2w)`, both at the frame's exposure. `tile` is the packed size
    of a tile: at least 4 * OVERLAP, so that the ramps of neighbours add up to 1.
    """
    side = 2 * tile - 2 * OVERLAP
    frame = artificial_frame(side) / amplification
    whole = network(frame)
    blended = torch.zeros_like(whole)
    first, second = _weights(tile)
    for top, rows in ((0, first), (tile - 2 * OVERLAP, second)):
        for left, columns in ((0, first), (tile - 2 * OVERLAP, second)):
            restored = network(frame[..., top : top + tile, left : left + tile])
            place = blended[..., 2 * top : 2 * (top + tile), 2 * left : 2 * (left + tile)]
            place += restored * rows[:, None] * columns
    steps = 255 * (_encoded(whole * amplification) - _encoded(blended * amplification))
    return float(steps.abs().max())


def artificial_frame(side: int) -> Tensor:
    """Return amplified planes `(1, 4, side, side)`, the same in every call: smooth light, edges, texture and noise."""
    generator = torch.Generator().manual_seed(0)
    light = torch.zeros(1, 4, side, side)
    for size, share, mode in _GRAINS:
        count = side // size + 2
        grid = torch.rand(1, 4, count, count, generator=generator)
        light += share * F.interpolate(grid, scale_factor=size, mode=mode)[..., :side, :side]
    light = light.square()  # more dark than bright areas, as in a photograph
    noise = torch.randn(light.shape, generator=generator)
    return light + _NOISE * (0.3 + 0.7 * light).sqrt() * noise


def _weights(tile: int) -> tuple[Tensor, Tensor]:
    """Return the weights `(2 * tile,)` of mosaic rows of a tile before and behind a seam; where both are, the sum is 1."""
    ramp = (torch.arange(4 * OVERLAP) + 0.5) / (4 * OVERLAP)
    behind = torch.cat([ramp, torch.ones(2 * tile - 4 * OVERLAP)])
    return behind.flip(0), behind


def _encoded(linear: Tensor) -> Tensor:
    """Return values in [0, 1] by the transfer curve of sRGB (IEC 61966-2-1) for linear values, which are clipped."""
    value = linear.clamp(0, 1)
    curve = 1.055 * value.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    return torch.where(value <= 0.0031308, 12.92 * value, curve)
