"""Whole frames carry the right pixels, levels and amplification, and mismatched pairs are refused."""

from __future__ import annotations

import pytest

from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.pipeline.raw.amplify import estimate_amplification
from darkprep.shards.errors import OptionError, RawError


@pytest.fixture
def pair(write_raw):
    """A pair of the scene at 1/100 and 1, in the phase GBRG, with a black level per colour."""
    black = (510.0, 512.0, 516.0, 514.0)
    shared = {"phase": "GBRG", "size": (61, 83), "black": black}
    write_raw("short/00001_00_0.1s.dng", gain=0.01, exposure_s=0.1, iso=800, **shared)
    write_raw("long/00001_00_10s.dng", exposure_s=10.0, iso=800, **shared)
    return Pair(
        id="00001_00_0.1s",
        scene="00001",
        camera="sony",
        split="train",
        short="short/00001_00_0.1s.dng",
        long="long/00001_00_10s.dng",
        ratio=100.0,
        iso=800,
    )


@pytest.mark.parametrize("other", [{"size": (59, 83)}, {"phase": "BGGR"}])
def test_a_long_exposure_of_another_geometry_is_refused(tmp_path, write_raw, pair, other):
    write_raw(pair.long, **{"phase": "GBRG", "size": (61, 83), **other})

    with pytest.raises(RawError, match=r"but its short exposure .* has 61x83 GB/RG") as caught:
        whole_frame(tmp_path, pair)

    assert caught.value.path.endswith("10s.dng")


def test_a_whole_frame_is_one_sample(tmp_path, pair):
    sample = whole_frame(tmp_path, pair)

    assert sample.low.shape == (4, 30, 41)
    assert sample.gt.shape == (3, 60, 82)
    assert sample.gt.flags.c_contiguous
    meta = sample.meta
    assert (meta.key, meta.pair, meta.camera, meta.cfa) == (pair.id, pair.id, "sony", "bayer")
    assert (meta.ratio, meta.amplification, meta.amplification_source, meta.iso) == (
        100,
        100,
        "ratio",
        800,
    )
    assert meta.origin == (0, 0)
    assert list(meta.black) == [516, 514, 510, 512]


@pytest.mark.parametrize("m", [1.0, 5.0])
def test_the_estimate_looks_at_the_short_exposure(tmp_path, pair, m):
    sample = whole_frame(tmp_path, pair, amplification="estimate", multiplier=m)

    expected = estimate_amplification(sample.low, sample.meta.black, 16383, m)
    assert sample.meta.amplification == expected
    assert sample.meta.amplification_source == "estimate"
    assert 1 < expected < 300


def test_a_constant_gain_is_taken_as_it_is(tmp_path, pair):
    meta = whole_frame(tmp_path, pair, amplification=42.5).meta

    assert (meta.amplification, meta.amplification_source, meta.ratio) == (42.5, "constant", 100)


@pytest.mark.parametrize(
    ("amplification", "multiplier", "message"),
    [
        (0.0, 1.0, "amplification must be"),
        (float("nan"), 1.0, "amplification must be"),
        ("estimate", 0.0, "multiplier must be"),
        ("ratio", 5.0, "can be used only with --amplify estimate"),
    ],
)
def test_an_amplification_that_cannot_work_is_refused_first(
    tmp_path, pair, amplification, multiplier, message
):
    with pytest.raises(OptionError, match=message):
        whole_frame(tmp_path / "absent", pair, amplification=amplification, multiplier=multiplier)


def test_a_lone_frame_has_no_truth(tmp_path, pair):
    sample, header = lone_frame(tmp_path / pair.short)

    assert sample.gt.shape == (3, 0, 0)
    assert sample.low.shape == (4, 30, 41)
    assert (sample.meta.ratio, sample.meta.amplification_source) == (0, "estimate")
    assert sample.meta.camera == "Synthetic"
    assert (header.height, header.width, header.iso) == (61, 83, 800)


def test_an_xtrans_frame_has_nine_planes(tmp_path, write_raw):
    path = write_raw(phase="XTRANS", size=(40, 50), black=(1024.0,), gain=0.01)

    sample, _ = lone_frame(path, amplification=100.0)

    assert sample.low.shape == (9, 12, 16)
    assert set(sample.meta.black) == {1024}
    assert sample.meta.cfa == "xtrans"
