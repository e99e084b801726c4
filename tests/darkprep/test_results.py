"""`evaluate`, `restore` and `import-weights`."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from darkprep.jobs.evaluate import EvaluateOptions
from darkprep.model import build_model, load_model, save_weights
from darkprep.model.weights import published_names
from darkprep.pipeline.raw.camera_colours import cameras_from_text

pytestmark = pytest.mark.usefixtures("quick_networks")

SHORT = "Sony/short/10001_00_0.1s.dng"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, quick_networks: None) -> Path:
    """An untrained network's weights, in ./w.safetensors."""
    torch.manual_seed(0)
    save_weights(build_model("redirt"), tmp_path / "w.safetensors")
    return Path("w.safetensors")


def evaluate(*words: object) -> tuple[object, ...]:
    return (
        "evaluate",
        *defaults(words, {"--weights": "w.safetensors", "--camera": "sony"}),
        *words,
    )


def restore(*words: object) -> tuple[object, ...]:
    return ("restore", *defaults(words, {"--weights": "w.safetensors"}), *words)


def defaults(words: tuple[object, ...], options: dict[str, object]) -> list[object]:
    """Options that are not among the words, for none may be given twice."""
    return [part for option in options.items() if option[0] not in words for part in option]


# -- evaluate -------------------------------------------------------------------------------------


def test_evaluate_scores_the_test_frames_and_writes_pictures(call, large_data):
    result = call(*evaluate("--root", large_data, "--baseline", "--out", "results"))

    assert result.exit_code == 0
    assert "sony: 1 pair, PSNR " in result.stdout
    assert "amplified input: PSNR " in result.stdout
    assert "protocol redirt" in result.stdout
    found = json.loads(Path("results/metrics.json").read_text())
    assert (found["camera"], found["pairs"], found["protocol"]) == ("sony", 1, "redirt")
    assert found["images"][0]["pair"] == "10001_00_0.1s"
    assert found["images"][0]["ratio"] == 100.0
    with Image.open("results/10001_00_0.1s.png") as picture:
        assert picture.size == (3 * 256 + 2 * 8, 224)


def test_evaluate_prints_the_metrics_file_as_json_and_nothing_else(call, large_data):
    result = call(*evaluate("--root", large_data, "--json", "--out", "results"))

    assert result.stderr == ""
    assert json.loads(result.stdout) == json.loads(Path("results/metrics.json").read_text())


def test_evaluate_records_the_precision_of_its_figures(call, large_data):
    def found(*words: str) -> Any:
        return json.loads(call(*evaluate("--root", large_data, "--json", *words)).stdout)

    exact, rough = found(), found("--precision", "bf16")

    assert exact["settings"]["precision"] == "fp32"
    assert rough["settings"]["precision"] == "bf16"
    assert rough["psnr"] != exact["psnr"]
    assert rough["psnr"] == pytest.approx(exact["psnr"], abs=0.5)


def test_evaluate_uses_the_chosen_frames(call, large_data):
    def scored(*words: str) -> dict[str, float]:
        found = json.loads(call(*evaluate("--root", large_data, "--json", *words)).stdout)
        return {image["pair"]: image["amplification"] for image in found["images"]}

    assert scored("--split", "train") == {"00001_00_0.1s": 100.0, "00002_00_0.1s": 100.0}
    assert scored("--amplify", "7") == {"10001_00_0.1s": 7.0}
    estimate = scored("--amplify", "estimate")["10001_00_0.1s"]
    assert scored("--amplify", "estimate", "--multiplier", "2") == pytest.approx(
        {"10001_00_0.1s": 2 / 5 * estimate}
    )


def test_evaluate_takes_a_table_of_pairs(call, large_data):
    call("pairs", "--camera", "sony", "--root", large_data, "--out", "mine.csv")
    table = ("--pairs", "mine.csv", "--root", large_data)

    result = call("evaluate", "--weights", "w.safetensors", *table, "--json", "--out", "results")

    by_camera = json.loads(call(*evaluate("--root", large_data, "--json")).stdout)
    found = json.loads(result.stdout)
    assert found["images"] == by_camera["images"]
    assert found["groups"] == by_camera["groups"]
    assert found["settings"]["pairs"] == "mine.csv"
    assert "10001_00_0.1s" in Path("results/report.html").read_text()


@pytest.mark.parametrize(("camera", "said"), [("Sony", "left out"), ("fuji", "as found")])
def test_the_record_contains_whether_misaligned_scenes_were_left_out(camera, said):
    """Only Sony has any; Fuji's figures include all scenes even with the option."""
    options = EvaluateOptions(
        weights=Path("w.safetensors"), camera=camera, root=Path("data"), exclude_misaligned=True
    )

    assert options.settings()["misaligned scenes"] == said


def test_evaluate_scores_validation_and_test_scenes_together(call, large_data):
    """ELD's figures for SID include indoor scenes of both splits."""
    shutil.copytree(large_data, "own")
    for kind, seconds in (("short", "0.1"), ("long", "10")):
        taken = Path("own/Sony", kind, f"00001_00_{seconds}s.dng")
        shutil.copy(taken, taken.with_name(f"20211_00_{seconds}s.dng"))

    result = call(*evaluate("--root", "own", "--split", "val+test", "--protocol", "eld", "--json"))

    found = json.loads(result.stdout)
    assert [image["pair"] for image in found["images"]] == ["10001_00_0.1s", "20211_00_0.1s"]
    assert found["settings"]["split"] == "val+test"
    groups = {group["group"]: group["pairs"] for group in found["groups"]}
    assert groups["ELD's indoor scenes x100"] == 1


def test_evaluate_names_unusable_files_and_scores_the_rest(call, large_data):
    shutil.copytree(large_data, "own")
    os.truncate("own/Sony/short/00001_00_0.1s.dng", 0)
    shutil.copy("own/Sony/short/00002_00_0.1s.dng", "own/Sony/short/00009_00_0.1s.dng")

    result = call(*evaluate("--root", "own", "--split", "train"))

    assert result.exit_code == 0
    assert "sony: 1 pair," in result.stdout
    assert "skipped own/Sony/short/00001_00_0.1s.dng: is empty" in result.stderr
    assert "skipped Sony/short/00009_00_0.1s.dng: its scene 00009 has no long" in result.stderr
    assert "2 files skipped" in result.stderr


def test_evaluate_with_no_usable_frame_fails(complaint, large_data):
    shutil.copytree(large_data, "own")
    os.truncate(Path("own", SHORT), 0)

    line = complaint(*evaluate("--root", "own", "--out", "results"))

    assert line.startswith("own: none of the pairs (1) can be used: own/Sony/short/1")
    assert not Path("results/metrics.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "val"], "no val pairs of sony, only test, train; choose one with --split"),
        (["--amplify", "twice"], "amplify must be estimate, a positive number"),
        (["--amplify", "-1"], "amplify must be estimate, a positive number"),
        (["--amplify", "nan"], "amplify must be estimate, a positive number"),
        (["--amplify", "1e10"], "amplify must be estimate, a positive number"),
        (["--multiplier", "2"], "multiplier can be used only with --amplify estimate"),
        (["--protocol", "best"], "unknown protocol 'best'; choose from redirt, sid, eld"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N"),
        (["--out", "w.safetensors"], "w.safetensors: is a file; give --out a directory"),
        (["--camera", "fuji"], "holds no Fuji/short"),
        (["--root", "nowhere"], "nowhere: does not exist"),
        (["--weights", "nowhere"], "nowhere: cannot be read"),
    ],
)  # fmt: skip
def test_an_invalid_evaluation_is_one_line(complaint, large_data, words, said):
    line = complaint(
        *evaluate(*defaults(words, {"--root": large_data, "--out": "results"}), *words)
    )
    assert said in line
    assert not list(Path().glob("results/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "dev"], "'dev' is not one of 'train', 'val', 'test', 'val+test'"),
        (["--frames", "second"], "'second' is not one of 'first', 'all'"),
        (["--amplify", "estimate", "--multiplier", "0"], "0.0 is not in the range x>0"),
        (["--camera", "nokia"], "'nokia' is not one of 'sony'"),
    ],
)
def test_bad_usage_of_evaluate_is_one_line(complaint, large_data, words, said):
    words = evaluate("--root", large_data, "--out", "results", *words)

    assert said in complaint(*words, status=2)
    assert not list(Path().glob("results/*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a weights file"),
        (b"no weights at all", "is not a weights file"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json here}", "is damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_files_without_weights_are_named(complaint, large_data, content, said, name):
    Path(name).write_bytes(content)

    line = complaint(*evaluate("--root", large_data, "--weights", name))

    assert line.startswith(f"{name}: ")
    assert said in line


def test_other_files_of_a_run_than_its_weights_are_refused_with_a_hint(complaint, large_data):
    run = Path("my run")
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "checkpoints" / "00000008.pt").write_bytes(b"")

    for name, said in {
        "": "is a directory; choose the weights.safetensors in it",
        "checkpoints/00000008.pt": "is a checkpoint, which is for --resume only",
        "weights.safetensors": "finish the run with `darkprep stream-train --resume --run 'my run'`",
    }.items():
        line = complaint(*evaluate("--root", large_data, "--weights", run / name))
        assert line.startswith(f"{run / name}: ")
        assert said in line


# -- restore --------------------------------------------------------------------------------------


def test_restore_writes_good_files_and_names_bad_ones(call, large_data):
    Path("bad.dng").write_text("no photograph")

    result = call(*restore("bad.dng", large_data / SHORT, "none.dng", "--out", "pictures"))

    assert result.exit_code == 1
    assert f"{large_data / SHORT} -> pictures/10001_00_0.1s.png, x" in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert len(result.stderr.splitlines()) == 2
    assert "failed bad.dng: is " in result.stderr
    assert "failed none.dng: no such file" in result.stderr
    assert [path.name for path in Path("pictures").iterdir()] == ["10001_00_0.1s.png"]
    with Image.open("pictures/10001_00_0.1s.png") as picture:
        assert picture.size == (256, 224)
        assert np.asarray(picture).std() > 0
        assert picture.info["Camera"] == "darkprep Synthetic"


def test_restore_writes_16_bits_and_numbers_files_of_the_same_name(call, large_data):
    shutil.copytree(large_data, "other")
    files = (large_data / SHORT, Path("other", SHORT), Path("10001_00_0.1s-2.dng"))
    shutil.copy(large_data / SHORT, files[-1])

    result = call(*restore(*files, "--format", "tiff", "--bits", "16", "--amplify", "100"))

    assert result.exit_code == 0
    first, second, third = sorted(Path("restored").iterdir())
    assert [picture.name for picture in (first, second, third)] == [
        "10001_00_0.1s-2-2.tiff", "10001_00_0.1s-2.tiff", "10001_00_0.1s.tiff",
    ]  # fmt: skip
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    pixels = tifffile.imread(first)
    assert (pixels.shape, str(pixels.dtype)) == ((224, 256, 3), "uint16")


def test_a_picture_that_cannot_be_written_does_not_stop_the_others(call, large_data):
    long = f"{'x' * 245}.dng"
    for name in ("a.dng", long, "z.dng"):
        shutil.copy(large_data / SHORT, name)
    Path("out/a.png").mkdir(parents=True)

    result = call(*restore("a.dng", long, "z.dng", "--out", "out"))

    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "failed a.dng: out/a.png: cannot be written (Is a directory); choose another output directory or file name",
        f"failed {long}: out/{long[:-4]}.png: cannot be written (File name too long); choose another output directory or file name",
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "z.png"]


def test_a_failure_of_a_file_name_with_several_lines_is_one_line(call):
    result = call(*restore("two\nlines.dng"))

    assert (result.exit_code, result.stderr) == (
        1,
        "failed two\\nlines.dng: no such file; check the path\n",
    )


@pytest.mark.parametrize("out", ["photos", "link", "."])
def test_restore_never_overwrites_a_file_to_restore(complaint, large_data, out):
    Path("photos").mkdir()
    Path("link").symlink_to("photos")
    shutil.copy(large_data / SHORT, "photos/night.tiff")
    Path("other.tiff").hardlink_to("photos/night.tiff")
    content = Path("photos/night.tiff").read_bytes()
    files = (
        ("photos/night.tiff", Path("photos/other.dng")) if out == "." else ("photos/night.tiff",)
    )

    line = complaint(*restore(large_data / SHORT, *files, "--format", "tiff", "--out", out))

    assert "is one of the files to restore and would be overwritten; choose another --out" in line
    assert Path("photos/night.tiff").read_bytes() == content
    assert [path.name for path in Path("photos").iterdir()] == ["night.tiff"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--amplify", "ratio"], "a single file has no exposure ratio"),
        (["--amplify", "0"], "amplify must be estimate or a positive number"),
        (
            ["--amplify", "9", "--multiplier", "2"],
            "multiplier can be used only with --amplify estimate",
        ),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N"),
        (["--weights", "nowhere"], "nowhere: cannot be read"),
        (["--out", "w.safetensors"], "w.safetensors: is a file; give --out a directory"),
        (["--out", "w.safetensors/below"], "w.safetensors"),
    ],
)
def test_an_invalid_restoration_is_one_line(complaint, large_data, words, said):
    assert said in complaint(*restore(large_data / SHORT, *words))
    assert not Path("restored").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bits", "12"], "'12' is not one of '8', '16'"),
        (["--format", "bmp"], "'bmp' is not one of 'png', 'jpeg', 'tiff'"),
    ],
)
def test_bad_usage_of_restore_is_one_line(complaint, large_data, words, said):
    assert said in complaint(*restore(large_data / SHORT, *words), status=2)
    assert not Path("restored").exists()


# -- import-weights -------------------------------------------------------------------------------


def published(path: str) -> None:
    torch.manual_seed(1)
    ours = build_model("redirt").state_dict()
    torch.save({"model": {name: ours[our] for name, our in published_names().items()}}, path)


@pytest.mark.usefixtures("published_networks")
def test_the_released_checkpoint_is_converted_and_its_licence_printed(call, large_data):
    published("released")

    result = call("import-weights", "released", "ours.safetensors")

    assert result.exit_code == 0
    assert "wrote ours.safetensors. The released REDIRT weights are the authors'" in result.stdout
    assert "non-commercial use only" in result.stdout
    imported = load_model("ours.safetensors")
    assert imported.name == "redirt"
    (camera,) = cameras_from_text(imported.cameras)
    assert camera.camera == "SONY ILCE-7SM2"
    assert camera.colours.gains == pytest.approx([2.5, 1, 1.6], abs=0.1)
    words = ("evaluate", "--camera", "sony", "--root", large_data, "--json", "--weights")
    assert call(*words, "released").stdout == call(*words, "ours.safetensors").stdout


def test_a_file_that_is_not_the_released_checkpoint_is_named_and_nothing_is_written(complaint):
    Path("text").write_text("no weights")
    torch.save({"model": {"odd": torch.zeros(1)}}, "odd")
    torch.save([1, 2], "list")
    os.truncate("w.safetensors", 500)

    for name in ("text", "odd", "list", "w.safetensors", "nowhere"):
        assert complaint("import-weights", name, "ours.safetensors").startswith(f"{name}: ")
    assert not Path("ours.safetensors").exists()


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_weights_file_is_executed(complaint):
    torch.save({"model": Hostile()}, "hostile")

    assert "is not a weights file" in complaint("import-weights", "hostile", "ours.safetensors")
    assert not Path("executed").exists()


@pytest.mark.usefixtures("published_networks")
@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("nowhere/ours.safetensors", "No such file or directory"),
        ("released/ours.safetensors", "Not a directory"),
        ("folder", "Is a directory"),
        ("x" * 255, "File name too long"),
    ],
)
def test_a_target_that_cannot_be_written_is_named(complaint, out, why):
    published("released")
    Path("folder").mkdir()

    line = complaint("import-weights", "released", out)

    assert line == f"{out}: cannot be written ({why}); name a file in an existing directory"
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "released", "w.safetensors"]


@pytest.mark.usefixtures("published_networks")
def test_an_import_onto_a_full_disk_is_reported(complaint, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    published("released")
    monkeypatch.setattr(os, "fsync", full)

    line = complaint("import-weights", "released", "ours.safetensors")

    assert line == ".: the disk is full, more room is needed; free some space and start again"
    assert not Path("ours.safetensors").exists()
