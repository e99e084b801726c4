"""The published training loss: L1 + 0.2 (1 - MS-SSIM), in float32 whatever the network computes in.

The trade-off: its own MS-SSIM of 60 lines rather than a library's, because the library's costs
several times the network itself on a CPU (depthwise convolutions are slow there); the tests hold it
to the library's values and gradients.

Sources: the loss, M. Lamba, K. Mitra, "Restoring Extremely Dark Images in Real Time", CVPR 2021, in
its released training code; MS-SSIM, Z. Wang, E. Simoncelli, A. Bovik, "Multi-scale structural
similarity for image quality assessment", Asilomar 2003.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from shards.errors import OptionError

SSIM_SHARE = 0.2
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponent of each scale, from the finest on."""
TAPS, SIGMA = 11, 1.5
LUMINANCE_FLOOR, CONTRAST_FLOOR = 0.01**2, 0.03**2
"""(K1 L)^2 and (K2 L)^2 for values of range L = 1."""
SMALLEST_SIDE = (TAPS - 1) * 2 ** (len(LEVEL_WEIGHTS) - 1) + 1
"""Below this the window does not fit into the coarsest scale."""

_CHUNK_VALUES = 1 << 18
"""Values filtered at a time on a CPU: 1 MiB, so that all taps after the first read from the cache."""


def restoration_loss(restored: Tensor, truth: Tensor) -> Tensor:
    """L1 + 0.2 (1 - MS-SSIM), a float32 scalar, mean over the batch.

    Both are `(B, 3, H, W)` in [0, 1], of any float type. Raises OptionError when a side is below 161.
    """
    check_side(min(restored.shape[-2:]))
    with torch.autocast(restored.device.type, enabled=False):
        restored, truth = restored.float(), truth.float()
        return F.l1_loss(restored, truth) + SSIM_SHARE * (1 - ms_ssim(restored, truth))


def check_side(side: int) -> None:
    """Raise OptionError when images of that side have too few pixels for MS-SSIM's five scales."""
    if side < SMALLEST_SIDE:
        raise OptionError(
            f"crop must be at least {SMALLEST_SIDE} for the loss's MS-SSIM of five scales, not {side}"
        )


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale SSIM of two `(B, C, H, W)` float32 batches of range 1, a scalar; 1 when equal.

    Per image and channel the product over the scales of the mean contrast-structure terms, and at
    the coarsest the mean SSIM, each cut off at 0; then the mean. Gradients flow into both.
    """
    x, y = first.flatten(0, 1), second.flatten(0, 1)
    product = torch.ones((), device=x.device)
    for level, weight in enumerate(LEVEL_WEIGHTS):
        last = level == len(LEVEL_WEIGHTS) - 1
        product = product * _similarity(x, y, with_luminance=last).relu() ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return product.mean()


def _similarity(x: Tensor, y: Tensor, *, with_luminance: bool) -> Tensor:
    """Mean per plane of the contrast-structure term, times the luminance term where asked; `(N,)`."""
    mean_x, mean_y = blur(x), blur(y)
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    # The two variances are only ever added, so that one filtering does for both.
    variances = blur(x.square() + y.square()) - squares
    covariance = blur(x * y) - product
    similarity = (2 * covariance + CONTRAST_FLOOR) / (variances + CONTRAST_FLOOR)
    if with_luminance:
        similarity = similarity * (2 * product + LUMINANCE_FLOOR) / (squares + LUMINANCE_FLOOR)
    return similarity.flatten(1).mean(1)


def _halved(planes: Tensor) -> Tensor:
    """Mean of 2x2; an odd side gets a border of zeros first, as the released training does."""
    height, width = planes.shape[-2:]
    return F.avg_pool2d(planes[None], 2, padding=(height % 2, width % 2))[0]


def blur(planes: Tensor) -> Tensor:
    """Filter `(N, H, W)` with the 11-tap Gaussian, without padding: `(N, H - 10, W - 10)`."""
    return cast(Tensor, _Blur.apply(planes))  # type: ignore[no-untyped-call]


class _Blur(torch.autograd.Function):
    """A symmetric filter is its own transpose, so its gradient is the same filter, padded.

    Autograd's own way through a convolution costs a CPU several times as much.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor) -> Tensor:
        return _filtered(planes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _filtered(F.pad(grads[0], [TAPS - 1] * 4))


def _gaussian() -> list[float]:
    bell = [math.exp(-((i - TAPS // 2) ** 2) / (2 * SIGMA**2)) for i in range(TAPS)]
    return [value / sum(bell) for value in bell]


def _filtered(planes: Tensor) -> Tensor:
    if planes.device.type != "cpu":
        return _filtered_by_convolution(planes)
    count, height, width = planes.shape
    out = planes.new_empty(count, height - TAPS + 1, width - TAPS + 1)
    step = max(1, _CHUNK_VALUES // (height * width))
    for first in range(0, count, step):
        chunk = planes[first : first + step]
        _filter_along(_filter_along(chunk, 1), 2, out=out[first : first + step])
    return out


def _filter_along(planes: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
    """Sum of shifted, weighted views: on a CPU 5 to 20 times as fast as a convolution."""
    taps, length = _gaussian(), planes.shape[axis] - TAPS + 1
    out = torch.mul(planes.narrow(axis, 0, length), taps[0], out=out)
    for shift, tap in enumerate(taps[1:], start=1):
        out.add_(planes.narrow(axis, shift, length), alpha=tap)
    return out


def _filtered_by_convolution(planes: Tensor) -> Tensor:
    count = planes.shape[0]
    taps = planes.new_tensor(_gaussian()).expand(count, 1, 1, TAPS)
    # The variance is a small difference of large numbers: TF32's 10 bits would drown it.
    with torch.backends.cudnn.flags(allow_tf32=False):
        rows = F.conv2d(planes[None], taps.transpose(2, 3), groups=count)
        return F.conv2d(rows, taps, groups=count)[0]
