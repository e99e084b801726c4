"""Packing and unpacking keep every code, and each plane has one colour."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from darkprep.pipeline.raw.dng import BAYER
from darkprep.pipeline.raw.mosaic import (
    canonical_origin,
    canonical_rgb,
    pack,
    plane_sites,
    unpack,
)
from darkprep.shards.cfa import CANONICAL, PLANE_COLOURS
from darkprep.shards.format import CELL, PERIOD, PLANES

KINDS = ("bayer", "xtrans")


@st.composite
def mosaics(draw, cfa):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return draw(hnp.arrays(np.uint16, (rows * PERIOD[cfa], columns * PERIOD[cfa])))


@pytest.mark.parametrize("cfa", KINDS)
@given(data=st.data())
def test_unpacking_undoes_packing(cfa, data):
    mosaic = data.draw(mosaics(cfa))

    planes = pack(mosaic, cfa)

    assert planes.shape == (PLANES[cfa], mosaic.shape[0] // CELL[cfa], mosaic.shape[1] // CELL[cfa])
    assert planes.dtype == np.uint16
    assert np.array_equal(unpack(planes, cfa), mosaic)


@pytest.mark.parametrize("cfa", KINDS)
def test_each_plane_holds_one_colour(cfa):
    tile = np.array([["RGB".index(letter) for letter in row] for row in CANONICAL[cfa]], np.uint16)

    planes = pack(np.tile(tile, (2, 3)), cfa)

    for plane, colour in zip(planes, PLANE_COLOURS[cfa], strict=True):
        assert np.unique(plane).tolist() == ["RGB".index(colour)]


@pytest.mark.parametrize("cfa", KINDS)
def test_every_site_belongs_to_one_plane(cfa):
    sites = [site for own in plane_sites(cfa) for site in own]

    period = range(PERIOD[cfa])
    assert sorted(sites) == list(itertools.product(period, period))


def test_bayer_planes_are_those_of_pixel_unshuffle():
    mosaic = np.arange(8 * 12, dtype=np.uint16).reshape(8, 12)

    expected = torch.nn.functional.pixel_unshuffle(
        torch.from_numpy(mosaic.astype(np.int32))[None], 2
    )

    assert np.array_equal(pack(mosaic, "bayer"), expected.numpy())


def test_xtrans_planes_are_those_of_sid():
    """The slices of SID's train_Fuji.py, as its file states them (facts on the data set)."""
    mosaic = np.random.default_rng(0).integers(0, 65536, (18, 24), dtype=np.uint16)
    table = {
        0: ((0, 0), (0, 4), (3, 1), (3, 3)),
        1: ((0, 2), (0, 5), (3, 2), (3, 5)),
        2: ((0, 1), (0, 3), (3, 0), (3, 4)),
        3: ((1, 2), (2, 5), (5, 2), (4, 5)),
        4: ((2, 2), (1, 5), (4, 2), (5, 5)),
    }

    planes = pack(mosaic, "xtrans")

    for plane, sites in table.items():
        for (cy, cx), (y, x) in zip(itertools.product(range(2), range(2)), sites, strict=True):
            assert np.array_equal(planes[plane, cy::2, cx::2], mosaic[y::6, x::6])
    for plane, (y, x) in zip(range(5, 9), ((1, 0), (1, 1), (2, 0), (2, 1)), strict=True):
        assert np.array_equal(planes[plane], mosaic[y::3, x::3])


@pytest.mark.parametrize(
    ("phase", "origin"), [("RGGB", (0, 0)), ("BGGR", (1, 1)), ("GRBG", (0, 1)), ("GBRG", (1, 0))]
)
def test_every_bayer_phase_has_its_origin(phase, origin):
    assert canonical_origin(BAYER[phase]) == origin


@pytest.mark.parametrize("shift", list(itertools.product(range(6), range(6))))
def test_every_xtrans_phase_is_found(shift):
    dy, dx = shift
    pattern = tuple(
        row[dx:] + row[:dx] for row in CANONICAL["xtrans"][dy:] + CANONICAL["xtrans"][:dy]
    )

    origin_y, origin_x = canonical_origin(pattern)

    rows = [row[origin_x:] + row[:origin_x] for row in pattern[origin_y:] + pattern[:origin_y]]
    assert tuple(rows) == CANONICAL["xtrans"]


@pytest.mark.parametrize(
    "pattern",
    [
        ("RG", "BG"),
        ("GG", "GG"),
        ("RGB", "GBR", "BRG"),
        ("R",),
        ("RGGRGG",) * 6,
        (*CANONICAL["xtrans"][:5], "GGGGGG"),
    ],
)
def test_other_filter_arrays_are_refused(pattern):
    with pytest.raises(ValueError, match="neither Bayer nor X-Trans"):
        canonical_origin(pattern)


@pytest.mark.parametrize(
    ("cfa", "shape"), [("bayer", (3, 4)), ("xtrans", (6, 9)), ("bayer", (2, 2, 2))]
)
def test_a_mosaic_of_broken_periods_is_refused(cfa, shape):
    with pytest.raises(ValueError, match="whole periods"):
        pack(np.zeros(shape, np.uint16), cfa)


@pytest.mark.parametrize(
    ("cfa", "shape"), [("bayer", (9, 2, 2)), ("xtrans", (9, 3, 2)), ("bayer", (4, 4))]
)
def test_planes_of_another_shape_are_refused(cfa, shape):
    with pytest.raises(ValueError, match="not a packed"):
        unpack(np.zeros(shape, np.uint16), cfa)


def test_the_truth_is_cropped_and_contiguous():
    rgb = np.arange(5 * 7 * 3, dtype=np.uint16).reshape(5, 7, 3)

    truth = canonical_rgb(rgb, (1, 1), (4, 6))

    assert truth.flags.c_contiguous
    assert np.array_equal(truth, rgb[1:5, 1:7].transpose(2, 0, 1))
    with pytest.raises(ValueError, match="does not lie"):
        canonical_rgb(rgb, (1, 1), (6, 6))
