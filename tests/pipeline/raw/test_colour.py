"""Development can be undone, and one camera's codes become another's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from darkprep.pipeline.raw.colour import (
    Colours,
    colours_of,
    linear_light,
    match_colours,
    match_matrix,
    undevelop,
)
from darkprep.pipeline.raw.mosaic import pack
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.errors import RawError
from darkprep.shards.format import CELL, PLANES, Sample, SampleMeta
from darkprep.synth.sensors import sensor_of
from tests.support.raw_scene import mosaic_of


def colours(camera: str, kelvin: float = 5200.0) -> Colours:
    sensor = sensor_of(camera)
    gains = 1 / np.array(sensor.neutral(kelvin))
    return Colours(gains=gains / gains[1], to_srgb=np.linalg.inv(sensor.balanced_from_srgb()))


def psnr(a, b) -> float:
    return float(-10 * np.log10(np.mean(np.square(np.asarray(a, np.float64) - b))))


@pytest.mark.parametrize(
    ("phase", "size"), [("RGGB", (120, 160)), ("GBRG", (121, 161)), ("XTRANS", (516, 522))]
)
def test_undoing_the_development_gives_the_packed_codes_back(write_raw, phase, size):
    matrix = tuple(sensor_of("canon70d").matrix.ravel().tolist())
    path = write_raw(phase=phase, size=size, color_matrix=matrix, black=(500.0,), white=15000)
    frame = RawFile(path).decode()
    codes = (frame.planes - np.float32(500)) / np.float32(14500)

    found = undevelop(
        RawFile(path).develop(brightness="constant"), colours_of(frame, "f"), frame.cfa
    )

    assert found.shape == codes.shape
    assert found.dtype == np.float32
    inner = np.s_[:, 3:-3, 3:-3]
    assert psnr(found[inner], codes[inner]) > 55


def test_linear_light_undoes_bt709_on_floats_and_codes():
    shares = np.linspace(0, 1, 4097)
    curve = np.where(
        shares < 0.018053969, 4.5 * shares, 1.09929683 * shares**0.45 - 0.09929683
    ).astype(np.float32)

    assert np.abs(linear_light(curve) - shares).max() < 2e-6
    assert np.abs(linear_light((curve * 65535).round().astype(np.uint16)) - shares).max() < 3e-5


def sample_of(light, cfa="bayer", black=500.0, white=15000) -> Sample:
    """A whole frame whose sensor saw `light`, `(3, H, W)` in shares of full scale."""
    planes = np.stack([pack(channel.astype(np.float32), cfa) for channel in light])
    own = np.array([["RGB".index(c)] for c in {"bayer": "RGGB", "xtrans": "RGBRBGGGG"}[cfa]])[:, 0]
    seen = np.stack([planes[colour, plane] for plane, colour in enumerate(own)])
    meta = SampleMeta(
        key="a",
        pair="a",
        camera="canon70d",
        cfa=cfa,
        origin=(0, 0),
        black=(black,) * PLANES[cfa],
        white=white,
        ratio=100,
        amplification=100,
        amplification_source="ratio",
        iso=800,
    )
    codes = np.rint(black + seen * (white - black)).astype(np.uint16)
    return Sample(codes, np.zeros((3, *light.shape[1:]), np.uint16), meta)


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_a_flat_patch_becomes_what_the_other_camera_would_have_recorded(cfa):
    side = 4 * 3 * CELL[cfa]
    patch = np.array([0.30, 0.22, 0.11])
    canon, sony = colours("canon70d"), colours("sony", 4000)
    seen = canon.codes_from_srgb() @ patch

    found = match_colours(
        sample_of(np.broadcast_to(seen[:, None, None], (3, side, side)), cfa),
        match_matrix(canon, sony),
    )

    wanted = sony.codes_from_srgb() @ patch
    scale = found.meta.white - found.meta.black[0]
    light = (found.low.astype(np.float64) - found.meta.black[0]) / scale
    for plane, letter in zip(light, {"bayer": "RGGB", "xtrans": "RGBRBGGGG"}[cfa], strict=True):
        assert plane == pytest.approx(wanted["RGB".index(letter)], abs=2e-4)


def test_a_camera_matched_with_itself_keeps_its_codes_but_for_rounding():
    light = mosaic_of(("RG", "GB"), top=0, left=0, height=24, width=36) / 65535
    sample = sample_of(np.stack([light] * 3))

    found = match_colours(sample, match_matrix(colours("sony"), colours("sony")))

    before = (sample.low.astype(np.float64) - 500) / 14500
    after = (found.low.astype(np.float64) - found.meta.black[0]) / (
        found.meta.white - found.meta.black[0]
    )
    assert np.abs(after - before).max() < 2e-5
    assert found.meta == replace(sample.meta, black=found.meta.black, white=found.meta.white)


def test_noise_below_black_is_kept():
    sample = sample_of(np.full((3, 8, 8), -0.02))

    found = match_colours(sample, match_matrix(colours("canon70d"), colours("sony")))

    assert found.low.max() < found.meta.black[0]


@pytest.mark.parametrize("model", ["Synthetic", "Canon EOS 70D"])
def test_the_matrix_is_the_one_that_development_applies(write_raw, model):
    """The file's own, also for a camera that LibRaw has in its table."""
    nikon = sensor_of("nikond850")
    path = write_raw(color_matrix=tuple(nikon.matrix.ravel().tolist()), make="Canon", model=model)

    found = RawFile(path).decode().camera_to_srgb

    assert found == pytest.approx(np.linalg.inv(nikon.balanced_from_srgb()), abs=1e-4)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_a_file_without_colours_is_named(write_raw, matrix):
    frame = replace(RawFile(write_raw()).decode(), camera_to_srgb=matrix.astype(np.float32))

    with pytest.raises(RawError, match=r"here\.dng: has no usable white balance or colour matrix"):
        colours_of(frame, "here.dng")
    with pytest.raises(ValueError, match="gains must be"):
        Colours(gains=np.array([1.0, 0.0, 1.0]), to_srgb=np.eye(3))
