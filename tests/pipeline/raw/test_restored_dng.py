"""Restored DNG files are read back to the same pixels, and developed to the colours of the photograph."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import pytest
import rawpy

from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.pipeline.raw.photo_metadata import MAKE, MODEL, PhotoMetadata, short, text
from darkprep.pipeline.raw.restored_dng import (
    RestoredFrame,
    develop_dng,
    parse_white_balance,
    restored_dng,
)
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.errors import OptionError
from darkprep.synth.sensors import sensor_of

METADATA = PhotoMetadata(
    main={MAKE: text("Maker"), MODEL: text("Model One")},
    exif={36867: text("2023:02:01 10:20:30"), 34855: short(3200)},
    gps={1: text("N")},
)
PREVIEW = np.full((20, 30, 3), 99, np.uint8)


def restored(pixels: np.ndarray, cfa: str = "bayer", **changes: object) -> RestoredFrame:
    values = {
        "colours": Colours(gains=np.array([2.2, 1.0, 1.6]), to_srgb=np.eye(3)),
        "orientation": 6,
        "metadata": METADATA,
        "software": "darkprep 1",
        **changes,
    }
    return RestoredFrame(pixels=pixels, cfa=cfa, **values)


@pytest.mark.parametrize(
    ("cfa", "shape"), [("bayer", (64, 96)), ("xtrans", (66, 96)), ("bayer", (64, 96, 3))]
)
def test_libraw_reads_the_same_pixels_and_metadata(tmp_path, cfa, shape):
    pixels = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)

    dng = restored_dng(restored(pixels, cfa), PREVIEW)

    with rawpy.imread(io.BytesIO(dng)) as raw:
        assert np.array_equal(raw.raw_image_visible[..., :3] if len(shape) == 3 else raw.raw_image_visible, pixels)  # fmt: skip
        assert raw.white_level == 65535
        assert not any(raw.black_level_per_channel)
        assert raw.sizes.flip == 6
        assert raw.camera_whitebalance[:3] == pytest.approx([2.2, 1.0, 1.6], rel=1e-4)
        assert raw.other.iso_speed == 3200
    if shutil.which("exiftool"):
        path = tmp_path / "a.dng"
        path.write_bytes(dng)
        said = subprocess.run(
            ["exiftool", "-validate", "-warning", "-error", "-a", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert said.split() == ["Validate", ":", "OK"]


@pytest.mark.parametrize("camera", ["sony", "canon70d", "fuji"])
@pytest.mark.parametrize("target", ["raw", "linear"])
def test_a_restored_photograph_has_the_colours_of_its_development(write_raw, camera, target):
    """The best case of a network: the long exposure itself."""
    sensor = sensor_of(camera)
    tags = {
        "cfa": sensor.cfa,
        "black": (float(sensor.black),),
        "white": sensor.white,
        "make": sensor.make,
        "model": sensor.model,
        "as_shot_neutral": sensor.neutral(4000),
        "color_matrix": tuple(sensor.matrix.ravel().tolist()),
    }
    phase = "XTRANS" if camera == "fuji" else "RGGB"
    path = write_raw(phase=phase, size=(516, 516), gain=0.9, **tags)
    source = RawFile(path)
    decoded = source.decode()
    if target == "raw":
        black = np.array(decoded.black)[:, None, None]
        light = np.clip((decoded.planes - black) / (decoded.white - black), 0, 1)
        pixels = unpack(np.rint(light * 65535).astype(np.uint16), decoded.cfa)
    else:
        pixels = np.moveaxis(source.develop(linear=True), 0, -1)
    frame = restored(pixels, decoded.cfa, colours=colours_of(decoded, "a"), orientation=0)

    found = np.moveaxis(develop_dng(restored_dng(frame, PREVIEW)), -1, 0)

    wanted = source.develop(brightness="constant")
    error = (found.astype(np.float64) - wanted)[:, 8:-8, 8:-8] / 65535
    assert -10 * np.log10(np.mean(error**2)) > 45


@pytest.mark.skipif(not shutil.which("dcraw"), reason="dcraw is not installed")
def test_dcraw_develops_the_same_colours(tmp_path):
    pixels = np.empty((64, 96), np.uint16)
    pixels[:] = 20_000
    pixels[::2, ::2] = 20_000 / 2.2  # grey: less red and blue light reaches the sensor
    pixels[1::2, 1::2] = 20_000 / 1.6
    path = tmp_path / "a.dng"
    path.write_bytes(restored_dng(restored(pixels), PREVIEW))

    subprocess.run(["dcraw", "-w", "-4", str(path)], check=True)

    developed = np.frombuffer(path.with_suffix(".ppm").read_bytes()[-64 * 96 * 6 :], ">u2")
    red, green, blue = developed.reshape(-1, 3)[1000:-1000].mean(axis=0)
    assert (red / green, blue / green) == pytest.approx((1, 1), abs=0.02)


def test_a_chosen_white_balance_changes_the_colours():
    frame = restored(np.full((64, 96, 3), 20_000, np.uint16))
    dng = restored_dng(frame, PREVIEW)

    def ratio(white_balance: str) -> float:
        rgb = develop_dng(dng, parse_white_balance(white_balance)).mean(axis=(0, 1))
        return float(rgb[0] / rgb[1])

    assert ratio("camera") > 1.3
    assert ratio("1,1,1") == pytest.approx(1, abs=0.01)
    assert ratio("auto") == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("value", ["sun", "1,2", "1,2,x", "0,1,1", "nan,1,1", "1,1,inf"])
def test_an_unknown_white_balance_is_refused(value):
    with pytest.raises(OptionError, match="white-balance must be camera, auto or three positive"):
        parse_white_balance(value)
