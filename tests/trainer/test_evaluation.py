"""Whole frames are scored by the protocol, and restored pictures are upright and have metadata."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from darkprep.model import build_model, ready_for_inference
from darkprep.shards.errors import DatasetError, DiskFull, OptionError, RawError, WeightsError
from darkprep.shards.format import Sample
from darkprep.trainer.evaluation import evaluate, restore_frame
from darkprep.trainer.metrics import PROTOCOLS, score
from darkprep.trainer.restoration import RestoreJob, UnpairedFrame, restore, restore_all
from darkprep.trainer.stream import network_input


def grey(low: torch.Tensor) -> torch.Tensor:
    """Restore without a network: every colour is the mean of the planes."""
    mean = low.mean(1, keepdim=True).clamp(0, 1)
    return torch.nn.functional.interpolate(mean, scale_factor=2).expand(-1, 3, -1, -1)


@pytest.fixture
def frame(make_reader, make_meta) -> Sample:
    batch = next(make_reader(side=70, batch_size=1))
    meta = replace(make_meta("00001_00_0.1s"), pair="scene-1/IMG_0004")
    return Sample(batch.low[0].copy(), batch.gt[0].copy(), meta)


def test_an_evaluation_states_its_scores_and_its_protocol(tmp_path, frame):
    other = Sample(
        frame.low[..., 4:], frame.gt[..., 8:], replace(frame.meta, pair="scene-2/IMG_0004")
    )

    evaluation = evaluate(grey, iter([frame, other]), tmp_path / "out")

    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["camera"] == "sony"
    assert record["pairs"] == 2
    assert record["protocol"] == "redirt"
    expected = [
        score(restore_frame(grey, sample), sample.gt, PROTOCOLS["redirt"])
        for sample in (frame, other)
    ]
    assert record["psnr"] == pytest.approx(np.mean([one.psnr for one in expected]))
    assert record["ssim"] == pytest.approx(np.mean([one.ssim for one in expected]))
    assert [image["pair"] for image in record["images"]] == ["scene-1/IMG_0004", "scene-2/IMG_0004"]
    assert evaluation.images[1].psnr == pytest.approx(expected[1].psnr)
    assert record["baseline_psnr"] is None


def test_the_picture_shows_restored_beside_truth(tmp_path, frame):
    evaluate(grey, [frame], tmp_path)

    with Image.open(tmp_path / "scene-1_IMG_0004.png") as image:
        shown = np.asarray(image)
    assert shown.shape == (70, 70 + 8 + 70, 3)
    np.testing.assert_array_equal(
        shown[:, 78:], np.rint(np.moveaxis(frame.gt, 0, -1) / 257).astype(np.uint8)
    )
    assert (shown[:, 70:78] == 255).all()


def test_a_baseline_is_scored_too_and_shown_first(tmp_path, frame):
    evaluation = evaluate(grey, [frame], tmp_path, baseline=lambda sample: sample.gt // 2)

    expected = score(frame.gt // 2, frame.gt, PROTOCOLS["redirt"])
    assert evaluation.baseline_psnr == pytest.approx(expected.psnr)
    assert evaluation.baseline_ssim == pytest.approx(expected.ssim)
    with Image.open(tmp_path / "scene-1_IMG_0004.png") as image:
        assert image.width == 3 * 70 + 2 * 8


def test_a_perfect_restoration_has_no_finite_psnr_and_still_valid_json(tmp_path, frame):
    truth = torch.from_numpy(frame.gt.astype(np.float32) / 65535)[None]

    evaluation = evaluate(lambda low: truth, [frame], tmp_path)

    assert evaluation.psnr is None
    assert evaluation.ssim == pytest.approx(1)
    assert json.loads((tmp_path / "metrics.json").read_text())["psnr"] is None


def test_without_a_pair_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(DatasetError, match="no pair to evaluate"):
        evaluate(grey, [], tmp_path)
    with pytest.raises(OptionError, match="unknown protocol 'best'"):
        evaluate(grey, [], protocol="best")


def test_a_frame_of_another_cfa_is_refused_by_name(frame):
    network = build_model("redirt", "xtrans").eval()

    with pytest.raises(WeightsError, match=r"scene-1/IMG_0004: redirt for xtrans reads"):
        restore_frame(network, frame)


@pytest.mark.parametrize("name", ["redirt-2rdb", "sid"])
def test_a_real_network_restores_frames_of_any_size(frame, name):
    """70 pixels is not a multiple of 32, so the frame is padded and cropped."""
    restored = restore_frame(ready_for_inference(build_model(name)), frame)

    assert restored.shape == (3, 70, 70)
    assert restored.dtype == np.float32
    assert 0 <= restored.min() <= restored.max() <= 1


def test_the_network_gets_its_input_as_the_format_defines_it(frame):
    seen = []

    def remember(low):
        seen.append(low.clone())
        return grey(low)

    restore_frame(remember, frame)

    assert torch.equal(seen[0], network_input(torch.from_numpy(frame.low)[None], (frame.meta,)))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_restored_file_is_upright_and_has_metadata(tmp_path, frame, bits):
    wide = Sample(frame.low[:, :20], np.empty((3, 0, 0), np.uint16), frame.meta)
    unpaired = UnpairedFrame(
        sample=wide, orientation=6, text={"Camera": "ILCE-7SM2", "Amplification": "100"}
    )

    restore(grey, unpaired, tmp_path / "new" / "a.png", bits=bits)

    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (40, 70)
        assert image.info["Camera"] == "ILCE-7SM2"


def test_one_bad_file_does_not_stop_the_others(tmp_path, frame):
    def broken() -> UnpairedFrame:
        raise RawError("b.dng", "is cut off")

    jobs = [
        RestoreJob(
            source=name,
            load=broken if name == "b.dng" else lambda: UnpairedFrame(sample=frame),
            target=tmp_path / f"{name}.png",
        )
        for name in ("a.dng", "b.dng", "c.dng")
    ]

    results = list(restore_all(grey, jobs))

    assert [result.error for result in results] == [None, "b.dng: is cut off", None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dng.png", "c.dng.png"]


def test_a_full_disk_stops_the_restoration(tmp_path):
    def full() -> UnpairedFrame:
        raise DiskFull("no room")

    job = RestoreJob(source="a.dng", load=full, target=tmp_path / "a.png")
    with pytest.raises(DiskFull):
        list(restore_all(grey, [job]))


def test_an_unknown_bit_depth_or_suffix_is_refused(tmp_path, frame):
    with pytest.raises(OptionError, match="bits must be 8 or 16, not 12"):
        restore(grey, UnpairedFrame(sample=frame), tmp_path / "a.png", bits=12)
    with pytest.raises(OptionError, match="pictures are written as"):
        restore(grey, UnpairedFrame(sample=frame), tmp_path / "a.jpeg")


def test_groups_get_means_of_their_own(frame):
    pairs = ["a", "b", "c"]
    samples = [
        Sample(frame.low, frame.gt // (1 + k), replace(frame.meta, pair=pair))
        for k, pair in enumerate(pairs)
    ]

    found = evaluate(
        grey,
        samples,
        baseline=lambda sample: sample.gt // 2,
        groups=lambda pair: ["all", "late"] if pair > "a" else ["all"],
    )

    assert [(group.group, group.pairs) for group in found.groups] == [("all", 3), ("late", 2)]
    assert found.groups[0].psnr == pytest.approx(found.psnr)
    late = [image.psnr for image in found.images[1:]]
    assert found.groups[1].psnr == pytest.approx(np.mean(late))
    assert found.groups[0].baseline_psnr == pytest.approx(found.baseline_psnr)
    beaten = [image.baseline_ssim for image in found.images[1:]]
    assert found.groups[1].baseline_ssim == pytest.approx(np.mean(beaten))


def test_a_protocol_in_packed_raw_needs_packed_raw(frame):
    with pytest.raises(OptionError, match="protocol eld compares packed RAW"):
        evaluate(grey, [frame], protocol="eld")

    def planes(sample, picture):
        return picture[:2] * np.float32(0.5), sample.gt[:2] / np.float32(65535)

    found = evaluate(grey, [frame], protocol="eld", prepare=planes, region="two planes")

    restored = restore_frame(grey, frame)
    expected = score(restored[:2], frame.gt[:2] / np.float32(65535), PROTOCOLS["eld"])
    assert found.psnr == pytest.approx(expected.psnr, abs=1e-3)
    assert (found.domain, found.region) == ("packed RAW", "two planes")
