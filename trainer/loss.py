"""The training losses: L1 for the targets `raw` and `linear`, for `srgb` the published loss, L1 + 0.2 (1 - MS-SSIM), computed in float32 for any precision of the network.

The trade-off: MS-SSIM and its derivative are implemented here, because on a CPU the library's version takes
more time than the network itself (docs/decisions.md); the tests compare both with the library's values and
gradients.

Sources: for the loss, M. Lamba, K. Mitra, "Restoring Extremely Dark Images in Real Time", CVPR 2021, the
released training code; for MS-SSIM, Z. Wang, E. Simoncelli, A. Bovik, "Multi-scale structural similarity
for image quality assessment", Asilomar 2003.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from darkprep.shards.errors import OptionError
from darkprep.shards.format import Target

SSIM_SHARE = 0.2
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponent of each scale, the finest first."""
TAPS, SIGMA = 11, 1.5
LUMINANCE_FLOOR, CONTRAST_FLOOR = 0.01**2, 0.03**2
"""(K1 L)^2 and (K2 L)^2 for values of range L = 1."""
SMALLEST_SIDE = (TAPS - 1) * 2 ** (len(LEVEL_WEIGHTS) - 1) + 1
"""Smallest side in pixels for which the window fits into the coarsest scale."""

_CHUNK_VALUES = 1 << 19
"""Values processed at a time on a CPU: 2 MiB, so that they stay in the cache."""


def target_loss(restored: Tensor, truth: Tensor, target: Target) -> Tensor:
    """Return the loss of a target, a float32 scalar: L1 for `raw` and `linear`, `restoration_loss` for `srgb`.

    `restored` and `truth` have the same shape, values in [0, 1] and any float type. L1 is what ELD, PMN and LED train with.
    """
    if target == "srgb":
        return restoration_loss(restored, truth)
    with torch.autocast(restored.device.type, enabled=False):
        return F.l1_loss(restored.float(), truth.float())


def restoration_loss(restored: Tensor, truth: Tensor) -> Tensor:
    """Return L1 + 0.2 (1 - MS-SSIM), a float32 scalar: the mean over the batch.

    Both pictures are `(B, 3, H, W)` in [0, 1], of any float type. Raises OptionError when a side is below
    161 pixels.
    """
    check_side(min(restored.shape[-2:]))
    with torch.autocast(restored.device.type, enabled=False):
        restored, truth = restored.float(), truth.float()
        return F.l1_loss(restored, truth) + SSIM_SHARE * (1 - ms_ssim(restored, truth))


def check_crop(crop: int, target: Target) -> None:
    """Raise OptionError when crops with this side in pixels are too small for the loss of the target."""
    if target == "srgb":
        check_side(crop)


def check_side(side: int) -> None:
    """Raise OptionError when images with this side in pixels are too small for MS-SSIM's five scales."""
    if side < SMALLEST_SIDE:
        raise OptionError(
            f"crop must be at least {SMALLEST_SIDE} for the loss's MS-SSIM of five scales, not {side}; build another spool with a larger --crop"
        )


def ms_ssim(picture: Tensor, truth: Tensor) -> Tensor:
    """Return the multi-scale SSIM of two `(B, C, H, W)` float32 batches in [0, 1], a scalar; 1 for equal batches.

    For each image and channel: the product of the mean contrast-structure terms of the finer scales and the
    mean SSIM of the coarsest scale, each clamped at 0. The result is the mean over images and channels.
    Only `picture` receives a gradient.
    """
    x, y = picture.flatten(0, 1), truth.flatten(0, 1).detach()
    product = torch.ones((), device=x.device)
    for level, weight in enumerate(LEVEL_WEIGHTS):
        last = level == len(LEVEL_WEIGHTS) - 1
        product = product * _similarity(x, y, last).relu() ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return product.mean()


def _similarity(x: Tensor, y: Tensor, with_luminance: bool) -> Tensor:
    """Return the mean contrast-structure term, with `luminance` the mean SSIM, of each plane: `(N,)` for `(N, H, W)`."""
    return cast(Tensor, _Similarity.apply(x, y, with_luminance))  # type: ignore[no-untyped-call]


class _Similarity(torch.autograd.Function):
    """Computes the derivative together with the value, while a plane is in the processor's cache.

    Autograd would store a dozen intermediate maps of the pictures' size and read them again; here one is
    stored.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, with_luminance: bool) -> Tensor:
        count, height, width = x.shape
        step = count if x.is_cuda else max(1, _CHUNK_VALUES // (height * width))
        values, slopes = x.new_empty(count), torch.empty_like(x)
        for first in range(0, count, step):
            own = slice(first, first + step)
            values[own], slopes[own] = _value_and_slope(x[own], y[own], with_luminance)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grads[0][:, None, None], None, None


def _value_and_slope(x: Tensor, y: Tensor, with_luminance: bool) -> tuple[Tensor, Tensor]:
    """Return the mean similarity of each plane, `(N,)`, and its derivative with respect to each value of x, `(N, H, W)`.

    With G the filter and G' its transpose, the terms are functions of Gx, G(xy) and G(x^2), and the
    derivative is the sum of G'(d/dGx) + y G'(d/dG(xy)) + 2x G'(d/dG(x^2)).
    """
    mean_x, mean_y = _filtered(x), _filtered(y)
    squares, product = mean_x.square().add_(mean_y.square()), mean_x * mean_y
    # The two variances are only needed as a sum, so one filtering is enough for both.
    variances = _filtered(x.square().add_(y.square())).sub_(squares).add_(CONTRAST_FLOOR)
    covariance = _filtered(x * y).sub_(product).mul_(2).add_(CONTRAST_FLOOR)
    similarity = covariance / variances
    by_product = variances.reciprocal_().mul_(2)
    by_mean = (similarity * mean_x).sub_(mean_y).mul_(by_product)
    if with_luminance:
        floored = squares.add_(LUMINANCE_FLOOR)
        luminance = product.mul_(2).add_(LUMINANCE_FLOOR).div_(floored)
        by_luminance = mean_y.sub_(luminance * mean_x).mul_(similarity).mul_(2).div_(floored)
        by_mean.mul_(luminance).add_(by_luminance)
        by_product.mul_(luminance)
    by_square = (similarity * by_product).mul_(-0.5)
    if with_luminance:
        similarity.mul_(luminance)
    slope = _transposed(by_mean).add_(_transposed(by_product).mul_(y))
    slope.add_(_transposed(by_square).mul_(x), alpha=2)
    return similarity.flatten(1).mean(1), slope.div_(similarity[0].numel())


def _halved(planes: Tensor) -> Tensor:
    """Return the means of 2x2 pixels; as in the released training code, an odd side is first padded with zeros."""
    height, width = planes.shape[-2:]
    return F.avg_pool2d(planes[None], 2, padding=(height % 2, width % 2))[0]


def _gaussian() -> list[float]:
    bell = [math.exp(-((i - TAPS // 2) ** 2) / (2 * SIGMA**2)) for i in range(TAPS)]
    return [value / sum(bell) for value in bell]


def _filtered(planes: Tensor) -> Tensor:
    """Filter `(N, H, W)` with the 11-tap Gaussian, without padding; return `(N, H - 10, W - 10)`."""
    if planes.is_cuda:
        return _filtered_by_convolution(planes)
    return _filter_along(_filter_along(planes, 1), 2)


def _transposed(planes: Tensor) -> Tensor:
    """Apply the transpose of `_filtered`: pad with zeros, then filter (the Gaussian is symmetric)."""
    return _filtered(F.pad(planes, [TAPS - 1] * 4))


def _filter_along(planes: Tensor, axis: int) -> Tensor:
    """Filter along one axis as a sum of shifted, weighted views: on a CPU 5 to 20 times as fast as a convolution."""
    taps, length = _gaussian(), planes.shape[axis] - TAPS + 1
    out = planes.narrow(axis, 0, length) * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        out.add_(planes.narrow(axis, shift, length), alpha=tap)
    return out


@functools.cache
def _taps_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the filter on a device; it is cached, because a copy in each step would make the host wait."""
    return torch.tensor(_gaussian(), device=device, dtype=dtype)


def _filtered_by_convolution(planes: Tensor) -> Tensor:
    count = planes.shape[0]
    taps = _taps_on(planes.device, planes.dtype).expand(count, 1, 1, TAPS)
    # The variance is a small difference of large numbers, for which TF32's 10 bits are too few.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        rows = F.conv2d(planes[None], taps.transpose(2, 3), groups=count)
        return F.conv2d(rows, taps, groups=count)[0]
