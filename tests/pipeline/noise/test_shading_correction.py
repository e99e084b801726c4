"""Dark shading is subtracted from frames of its own camera, and from no others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.noise.calibrate import calibrate
from darkprep.pipeline.noise.camera_calibration import write_calibration
from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.raw.source import PackedFrame, RawFile
from darkprep.shards.errors import OptionError, RawError
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import sensor_of

CAMERAS = {"bayer": "sony", "xtrans": "fuji"}


@pytest.fixture(scope="module", params=CAMERAS)
def calibrated(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration with dark shading, and the dark frames from which it was made."""
    root = tmp_path_factory.mktemp(request.param)
    size = (192, 192)
    pattern = np.zeros(size, np.float32) + 30 * (np.arange(size[1]) % 12 == 5)
    settings = FrameSettings(size=size, darks=6, levels=(), fixed_pattern=pattern)
    write_calibration_frames(root, sensor_of(CAMERAS[request.param]), (1600,), settings=settings)
    result = calibrate(sorted((root / "darks").glob("*.dng")), maps_beside=root / "camera.json")
    write_calibration(root / "camera.json", result.calibration)
    return root


def frame_of(calibrated: Path) -> PackedFrame:
    return RawFile(next(iter(sorted((calibrated / "darks").glob("*.dng"))))).decode()


def test_the_pattern_and_the_bias_are_taken_off_frames_of_every_mosaic(calibrated: Path):
    frame = frame_of(calibrated)
    found = ShadingCorrection.at(calibrated / "camera.json").corrected(frame)

    def above_black(one: PackedFrame) -> np.ndarray:
        return np.asarray(one.planes - np.array(one.black, np.float32)[:, None, None])

    before, after = above_black(frame), above_black(found)
    assert abs(before.mean() - 30 / 12) < 5
    assert abs(after.mean()) < 0.3, "neither the pattern nor the black level that is off is left"
    assert after.mean(axis=1).std() < 0.35 * before.mean(axis=1).std(), "columns are alike"


def test_frames_of_others_are_refused(calibrated: Path):
    correction = ShadingCorrection.at(calibrated / "camera.json")
    frame = frame_of(calibrated)
    header = replace(frame.header, model="Other")

    with pytest.raises(
        RawError, match=r"Other, but the dark shading is of .*; use a calibration of"
    ):
        correction.corrected(replace(frame, header=header))
    with pytest.raises(RawError, match="but the dark shading is 192x192; use a calibration from"):
        correction.corrected(replace(frame, planes=frame.planes[:, :-6]))
    with pytest.raises(RawError, match="states no ISO, on which the dark shading depends; use the"):
        correction.corrected(replace(frame, header=replace(frame.header, iso=0.0)))


def test_a_calibration_that_changed_or_has_no_shading_is_refused(calibrated: Path, tmp_path: Path):
    for path in calibrated.glob("camera*"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "camera.json"

    with pytest.raises(OptionError, match=r"camera.json: has changed since the plan was made; put"):
        ShadingCorrection.at(path, "0" * 16)
    record = json.loads(path.read_text())
    record["modes"][0]["shading"] = None
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"camera.json: has no dark shading; write it again with"):
        ShadingCorrection.at(path)
