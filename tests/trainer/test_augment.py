"""Augmented crops keep the CFA's phase and stay aligned with their truth, to the pixel."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import OptionError
from darkprep.shards.format import PERIOD, CfaKind
from darkprep.trainer.augment import (
    IDENTITY,
    SYMMETRIES,
    Augmentation,
    CropGeometry,
    Cropper,
    CropTransform,
    Symmetry,
    packed_indices,
    window_starts,
)
from tests.support.any_text import any_text

CFAS: tuple[CfaKind, ...] = get_args(CfaKind)
CPU = torch.device("cpu")


def mosaic_of(rgb: np.ndarray, cfa: CfaKind) -> np.ndarray:
    """Return the mosaic of (3, H, W) under the canonical CFA: (H, W)."""
    height, width = rgb.shape[1:]
    colours = np.array([["RGB".index(c) for c in row] for row in CANONICAL[cfa]])
    tiles = (height // PERIOD[cfa] + 1, width // PERIOD[cfa] + 1)
    plane = np.tile(colours, tiles)[:height, :width]
    seen: np.ndarray = np.take_along_axis(rgb, plane[None], axis=0)[0]
    return seen


def packed(mosaic: np.ndarray, cfa: CfaKind) -> np.ndarray:
    return mosaic.reshape(-1)[packed_indices(cfa, *mosaic.shape)]


def scene(geometry: CropGeometry, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a random truth and the packed mosaic that an ideal camera would record of it."""
    rng = np.random.default_rng(7)
    rgb = rng.integers(0, 2**15, (count, 3, geometry.height, geometry.width), dtype=np.int16)
    low = np.stack([packed(mosaic_of(one, geometry.cfa), geometry.cfa) for one in rgb])
    return torch.from_numpy(low), torch.from_numpy(rgb)


def geometry(cfa: CfaKind, margin: int = 12, crop: int = 24) -> CropGeometry:
    return CropGeometry(cfa=cfa, height=crop + margin, width=crop + margin + 12, crop=crop)


@pytest.mark.parametrize(("cfa", "symmetry"), list(product(CFAS, SYMMETRIES)))
def test_every_symmetry_keeps_the_mosaic_aligned_with_the_truth(cfa, symmetry):
    where = geometry(cfa)
    low, gt = scene(where)
    starts = window_starts(where, symmetry)

    assert starts, "a margin of one period is enough for every symmetry"
    for start in starts:
        cropped_low, cropped_gt = Cropper(where, CPU).apply(
            low, gt, [CropTransform(symmetry, *start)]
        )
        expected = packed(mosaic_of(cropped_gt[0].numpy(), cfa), cfa)
        np.testing.assert_array_equal(cropped_low[0].numpy(), expected)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_truth_is_transformed_as_numpy_does_it(symmetry: Symmetry):
    where = geometry("bayer")
    low, gt = scene(where)

    _, cropped = Cropper(where, CPU).apply(low, gt, [CropTransform(symmetry, 3, 5)])

    expected = gt[0].numpy()[:, 3:27, 5:29]
    expected = expected[:, ::-1] if symmetry.flip_rows else expected
    expected = expected[:, :, ::-1] if symmetry.flip_columns else expected
    expected = expected.transpose(0, 2, 1) if symmetry.transpose else expected
    np.testing.assert_array_equal(cropped[0].numpy(), expected)


def test_bayer_packing_is_torchs_pixel_unshuffle():
    mosaic = torch.arange(12 * 18).view(12, 18)

    ours = mosaic.reshape(-1)[torch.from_numpy(packed_indices("bayer", 12, 18))]

    assert torch.equal(ours, torch.nn.functional.pixel_unshuffle(mosaic[None], 2))


@pytest.mark.parametrize("cfa", CFAS)
def test_packing_contains_every_pixel_once(cfa):
    places = packed_indices(cfa, 12, 18)

    np.testing.assert_array_equal(np.sort(places.reshape(-1)), np.arange(12 * 18))


def test_xtrans_planes_hold_one_colour_each():
    colours = np.tile([list(row) for row in CANONICAL["xtrans"]], (2, 2))

    planes = colours.reshape(-1)[packed_indices("xtrans", 12, 12)]

    assert ["".join(sorted(set(plane.reshape(-1)))) for plane in planes] == list("RGBRBGGGG")


def test_without_a_margin_only_symmetries_that_need_none_are_drawn():
    def possible(cfa: CfaKind) -> list[Symmetry]:
        exact = CropGeometry(cfa=cfa, height=24, width=24, crop=24)
        return [symmetry for symmetry in SYMMETRIES if window_starts(exact, symmetry)]

    transpose = Symmetry(transpose=True, flip_rows=False, flip_columns=False)
    assert possible("bayer") == [IDENTITY, transpose]
    assert possible("xtrans") == [IDENTITY]


@pytest.mark.parametrize("cfa", CFAS)
def test_all_symmetries_and_shifts_are_drawn_equally_often(cfa):
    augmentation = Augmentation(geometry=geometry(cfa), seed=3)

    transforms = [augmentation.draw(f"00000001-{n:04d}", 0) for n in range(1600)]

    counts = [sum(one.symmetry == symmetry for one in transforms) for symmetry in SYMMETRIES]
    assert min(counts) > 150
    rows = {one.row % PERIOD[cfa] for one in transforms if one.symmetry == IDENTITY}
    assert rows == ({0} if cfa == "bayer" else {0, 3})


@given(seed=st.integers(0, 2**32), key=any_text(), use=st.integers(0, 99))
def test_a_draw_is_a_function_of_seed_key_and_use(seed, key, use):
    first, again = (Augmentation(geometry=geometry("bayer"), seed=seed) for _ in range(2))
    first.draw("something else", 5)

    assert first.draw(key, use) == again.draw(key, use)


def test_each_use_of_a_sample_has_its_own_transform():
    augmentation = Augmentation(geometry=geometry("bayer"))

    assert len({augmentation.draw("00000000-0000", use) for use in range(32)}) > 16


def test_paper_mode_flips_as_often_as_published():
    augmentation = Augmentation(geometry=geometry("bayer"), mode="paper")

    transforms = [augmentation.draw(f"00000001-{n:04d}", 0) for n in range(4000)]

    assert np.mean([one.symmetry.flip_columns for one in transforms]) == pytest.approx(
        0.495, abs=0.03
    )
    assert np.mean([one.symmetry.flip_rows for one in transforms]) == pytest.approx(0.198, abs=0.03)
    assert not any(one.symmetry.transpose for one in transforms)
    assert all(one.row % 2 == one.column % 2 == 0 for one in transforms)


@pytest.mark.parametrize("cfa", CFAS)
def test_without_augmentation_the_middle_is_cut_at_the_canonical_phase(cfa):
    augmentation = Augmentation(geometry=geometry(cfa), mode="none")

    transforms = {augmentation.draw("key", use) for use in range(8)}

    assert transforms == {CropTransform(IDENTITY, 6, 12)}


def test_samples_of_a_batch_are_transformed_independently():
    where = geometry("bayer")
    low, gt = scene(where, count=3)
    transforms = [
        CropTransform(IDENTITY, 2, 4),
        CropTransform(SYMMETRIES[7], 1, 3),
        CropTransform(SYMMETRIES[4], 0, 0),
    ]
    cropper = Cropper(where, CPU)

    together = [part.clone() for part in cropper.apply(low, gt, transforms)]

    for n, one in enumerate(transforms):
        alone = cropper.apply(low[n : n + 1], gt[n : n + 1], [one])
        assert torch.equal(alone[0][0], together[0][n])
        assert torch.equal(alone[1][0], together[1][n])


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(OptionError, match="crop 48 does not fit"):
        CropGeometry(cfa="bayer", height=24, width=96, crop=48)
    with pytest.raises(OptionError, match="multiple of 6"):
        CropGeometry(cfa="xtrans", height=24, width=24, crop=22)
    with pytest.raises(OptionError, match="augment must be one of cfa, paper, none"):
        Augmentation(geometry=geometry("bayer"), mode="flip")
