"""The loss is the published one: its MS-SSIM equals two independent definitions of it."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_msssim
import torch
from scipy.ndimage import correlate1d  # type: ignore[import-untyped]

from darkprep.shards.errors import OptionError
from darkprep.trainer.loss import _similarity, check_side, ms_ssim, restoration_loss


def pictures(height: int, width: int, noise: float = 0.1, count: int = 2):
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    truth = truth[..., :height, :width].contiguous()
    noisy = truth + noise * torch.randn(truth.shape, generator=generator)
    return noisy.clamp(0, 1), truth


def ms_ssim_in_double(first: np.ndarray, second: np.ndarray) -> float:
    """Return MS-SSIM by its definition, one plane at a time, with scipy's filter."""
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    bell /= bell.sum()

    def blurred(plane: np.ndarray) -> np.ndarray:
        filtered: np.ndarray = correlate1d(correlate1d(plane, bell, 0), bell, 1)
        return filtered[5:-5, 5:-5]

    values = []
    planes = (first.reshape(-1, *first.shape[2:]), second.reshape(-1, *second.shape[2:]))
    for x, y in zip(*planes, strict=True):
        value = 1.0
        for level, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mx, my = blurred(x), blurred(y)
            vx, vy = blurred(x * x) - mx**2, blurred(y * y) - my**2
            term = (2 * (blurred(x * y) - mx * my) + 0.03**2) / (vx + vy + 0.03**2)
            if level == 4:
                term *= (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
            value *= max(term.mean(), 0) ** weight
            x, y = ((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4 for p in (x, y))
        values.append(value)
    return float(np.mean(values))


def test_ms_ssim_equals_its_definition_in_double_precision():
    noisy, truth = pictures(192, 224)

    assert ms_ssim(noisy, truth).item() == pytest.approx(
        ms_ssim_in_double(noisy.double().numpy(), truth.double().numpy()), abs=2e-6
    )


@pytest.mark.parametrize("size", [(192, 224), (181, 163)], ids=["even", "odd"])
def test_ms_ssim_and_its_gradient_equal_those_of_the_library(size):
    noisy, truth = pictures(*size)
    noisy.requires_grad_()

    ours = ms_ssim(noisy, truth)
    theirs = pytorch_msssim.ms_ssim(noisy, truth, data_range=1.0)

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (our_slope,) = torch.autograd.grad(ours, noisy)
    (their_slope,) = torch.autograd.grad(theirs, noisy)
    assert (our_slope - their_slope).abs().max() <= 1e-4 * their_slope.abs().max()


@pytest.mark.parametrize("with_luminance", [False, True])
def test_the_derivative_equals_finite_differences(with_luminance):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(2, 1, 13, 12, dtype=torch.float64, generator=generator)

    assert torch.autograd.gradcheck(
        lambda planes: _similarity(planes, y, with_luminance), x.requires_grad_()
    )


def test_the_loss_is_l1_and_a_fifth_of_the_dissimilarity():
    noisy, truth = pictures(192, 192)

    loss = restoration_loss(noisy, truth)

    expected = (noisy - truth).abs().mean() + 0.2 * (1 - ms_ssim(noisy, truth))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert restoration_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_is_computed_in_float32_under_autocast():
    noisy, truth = pictures(192, 192)

    with torch.autocast("cpu", torch.bfloat16):
        loss = restoration_loss(noisy, truth)

    assert loss.dtype == torch.float32
    assert loss.item() == restoration_loss(noisy, truth).item()


def test_opposite_pictures_have_a_finite_gradient():
    _, truth = pictures(176, 176)
    opposite = (1 - truth).requires_grad_()

    loss = restoration_loss(opposite, truth)
    loss.backward()  # type: ignore[no-untyped-call]

    assert opposite.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(opposite.grad).all()


def test_a_crop_too_small_for_five_scales_is_refused():
    with pytest.raises(OptionError, match="crop must be at least 161"):
        restoration_loss(torch.rand(1, 3, 160, 512), torch.rand(1, 3, 160, 512))
    check_side(161)
