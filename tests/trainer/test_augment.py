"""Augmented crops keep the CFA's phase and stay aligned with their truth, to the pixel."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

CFAS: tuple[CfaKind, ...] = get_args(CfaKind)
CPU = torch.device("cpu")


def mosaic_of(rgb: np.ndarray, cfa: CfaKind) -> np.ndarray:
    """Each pixel's value of the colour that the canonical CFA has there: (3, H, W) to (H, W)."""
    height, width = rgb.shape[1:]
    colours = np.array([["RGB".index(c) for c in row] for row in CANONICAL[cfa]])
    tiles = (height // PERIOD[cfa] + 1, width // PERIOD[cfa] + 1)
    plane = np.tile(colours, tiles)[:height, :width]
    seen: np.ndarray = np.take_along_axis(rgb, plane[None], axis=0)[0]
    return seen


def packed(mosaic: np.ndarray, cfa: CfaKind) -> np.ndarray:
    return mosaic.reshape(-1)[packed_indices(cfa, *mosaic.shape)]


def scene(geometry: CropGeometry, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random truth and the packed mosaic that an ideal camera would record of it."""
    rng = np.random.default_rng(7)
    rgb = rng.integers(0, 2**15, (count, 3, geometry.height, geometry.width), dtype=np.int16)
    low = np.stack([packed(mosaic_of(one, geometry.cfa), geometry.cfa) for one in rgb])
    return torch.from_numpy(low), torch.from_numpy(rgb)


def geometry(cfa: CfaKind, margin: int = 12, crop: int = 24) -> CropGeometry:
    return CropGeometry(cfa=cfa, height=crop + margin, width=crop + margin + 12, crop=crop)


@pytest.mark.parametrize(("cfa", "symmetry"), list(product(CFAS, SYMMETRIES)))
def test_the_mosaic_shows_the_truths_colours_after_every_symmetry(cfa, symmetry):
    where = geometry(cfa)
    low, gt = scene(where)
    starts = window_starts(where, symmetry)

    assert starts, "a margin of one period is room enough for every symmetry"
    for start in starts:
        moved_low, moved_gt = Cropper(where, CPU).apply(low, gt, [CropTransform(symmetry, *start)])
        expected = packed(mosaic_of(moved_gt[0].numpy(), cfa), cfa)
        np.testing.assert_array_equal(moved_low[0].numpy(), expected)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_truth_moves_as_numpy_would_move_it(symmetry: Symmetry):
    where = geometry("bayer")
    low, gt = scene(where)

    _, moved = Cropper(where, CPU).apply(low, gt, [CropTransform(symmetry, 3, 5)])

    expected = gt[0].numpy()[:, 3:27, 5:29]
    expected = expected[:, ::-1] if symmetry.flip_rows else expected
    expected = expected[:, :, ::-1] if symmetry.flip_columns else expected
    expected = expected.transpose(0, 2, 1) if symmetry.transpose else expected
    np.testing.assert_array_equal(moved[0].numpy(), expected)


def test_bayer_packing_is_torchs_pixel_unshuffle():
    mosaic = torch.arange(12 * 18).view(12, 18)

    ours = mosaic.reshape(-1)[torch.from_numpy(packed_indices("bayer", 12, 18))]

    assert torch.equal(ours, torch.nn.functional.pixel_unshuffle(mosaic[None], 2))


@pytest.mark.parametrize("cfa", CFAS)
def test_packing_takes_every_pixel_once(cfa):
    places = packed_indices(cfa, 12, 18)

    np.testing.assert_array_equal(np.sort(places.reshape(-1)), np.arange(12 * 18))


def test_xtrans_planes_hold_one_colour_each():
    colours = np.tile([list(row) for row in CANONICAL["xtrans"]], (2, 2))

    planes = colours.reshape(-1)[packed_indices("xtrans", 12, 12)]

    assert ["".join(sorted(set(plane.reshape(-1)))) for plane in planes] == list("RGBRBGGGG")


def test_without_a_margin_only_what_needs_none_is_drawn():
    def possible(cfa: CfaKind) -> list[Symmetry]:
        exact = CropGeometry(cfa=cfa, height=24, width=24, crop=24)
        return [symmetry for symmetry in SYMMETRIES if window_starts(exact, symmetry)]

    transpose = Symmetry(transpose=True, flip_rows=False, flip_columns=False)
    assert possible("bayer") == [IDENTITY, transpose]
    assert possible("xtrans") == [IDENTITY]


@pytest.mark.parametrize("cfa", CFAS)
def test_all_symmetries_and_shifts_come_up_equally_often(cfa):
    augmentation = Augmentation(geometry=geometry(cfa), seed=3)

    moves = [augmentation.draw(f"00000001-{n:04d}", 0) for n in range(1600)]

    counts = [sum(move.symmetry == symmetry for move in moves) for symmetry in SYMMETRIES]
    assert min(counts) > 150
    rows = {move.row % PERIOD[cfa] for move in moves if move.symmetry == IDENTITY}
    assert rows == ({0} if cfa == "bayer" else {0, 3})


@given(seed=st.integers(0, 2**32), key=st.text(), use=st.integers(0, 99))
def test_a_draw_is_a_function_of_seed_key_and_use(seed, key, use):
    first, again = (Augmentation(geometry=geometry("bayer"), seed=seed) for _ in range(2))
    first.draw("something else", 5)

    assert first.draw(key, use) == again.draw(key, use)


def test_each_use_of_a_sample_is_augmented_afresh():
    augmentation = Augmentation(geometry=geometry("bayer"))

    assert len({augmentation.draw("00000000-0000", use) for use in range(32)}) > 16


def test_paper_mode_flips_as_often_as_published():
    augmentation = Augmentation(geometry=geometry("bayer"), mode="paper")

    moves = [augmentation.draw(f"00000001-{n:04d}", 0) for n in range(4000)]

    assert np.mean([move.symmetry.flip_columns for move in moves]) == pytest.approx(0.495, abs=0.03)
    assert np.mean([move.symmetry.flip_rows for move in moves]) == pytest.approx(0.198, abs=0.03)
    assert not any(move.symmetry.transpose for move in moves)
    assert all(move.row % 2 == move.column % 2 == 0 for move in moves)


@pytest.mark.parametrize("cfa", CFAS)
def test_without_augmentation_the_middle_is_cut_on_the_lattice(cfa):
    augmentation = Augmentation(geometry=geometry(cfa), mode="none")

    moves = {augmentation.draw("key", use) for use in range(8)}

    assert moves == {CropTransform(IDENTITY, 6, 12)}


def test_samples_of_a_batch_move_independently():
    where = geometry("bayer")
    low, gt = scene(where, count=3)
    moves = [
        CropTransform(IDENTITY, 2, 4),
        CropTransform(SYMMETRIES[7], 1, 3),
        CropTransform(SYMMETRIES[4], 0, 0),
    ]
    cropper = Cropper(where, CPU)

    together = [part.clone() for part in cropper.apply(low, gt, moves)]

    for n, move in enumerate(moves):
        alone = cropper.apply(low[n : n + 1], gt[n : n + 1], [move])
        assert torch.equal(alone[0][0], together[0][n])
        assert torch.equal(alone[1][0], together[1][n])


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(OptionError, match="crop 48 does not fit"):
        CropGeometry(cfa="bayer", height=24, width=96, crop=48)
    with pytest.raises(OptionError, match="multiple of 6"):
        CropGeometry(cfa="xtrans", height=24, width=24, crop=22)
    with pytest.raises(OptionError, match="augment must be one of cfa, paper, none"):
        Augmentation(geometry=geometry("bayer"), mode="flip")
