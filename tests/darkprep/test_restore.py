"""`restore`: metadata, formats, folders, existing pictures, colours of other cameras."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from darkprep.model import build_model, save_weights
from darkprep.pipeline.raw.camera_colours import CameraColours, cameras_to_text
from darkprep.pipeline.raw.colour import Colours
from darkprep.pipeline.raw.dng import DngTags, write_dng
from tests.support.raw_scene import mosaic_of


@pytest.fixture
def unguarded() -> None:
    """Read files in a process that may crash, as a user's command does."""


TAGS = DngTags(
    make="Maker", model="Model One", iso=3200, exposure_s=0.05, orientation=6,
    date_time="2023:02:01 10:20:30",
)  # fmt: skip
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path) -> Path:
    """An untrained network's weights, in ./w.safetensors."""
    torch.manual_seed(0)
    save_weights(build_model("redirt-2rdb"), tmp_path / "w.safetensors")
    return Path("w.safetensors")


def photograph(path: str, **changes: object) -> Path:
    """Write a dark photograph of the scene."""
    tags = replace(TAGS, **changes)
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    codes = mosaic_of(tags.cfa, top=0, left=0, height=SIZE[0], width=SIZE[1], gain=0.02)
    write_dng(file, codes, tags)
    return file


def restore(*words: object) -> tuple[object, ...]:
    return ("restore", "--weights", "w.safetensors", *words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--format", "png"], "a.png"),
        (["--format", "png", "--bits", "16"], "a.png"),
        (["--format", "jpeg"], "a.jpg"),
        (["--format", "tiff", "--bits", "16"], "a.tiff"),
    ],
)
def test_a_picture_keeps_the_metadata_and_is_upright(call, words, name):
    photograph("a.dng")

    result = call(*restore("a.dng", *words))

    assert result.exit_code == 0, result.stderr
    path = Path("restored", name)
    with Image.open(path) as picture:
        assert picture.size == (SIZE[0], SIZE[1])  # turned by 90 degrees
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileName(profile)
        main = picture.getexif()
        exif = main.get_ifd(34665)
    assert (main[271], main[272], main.get(274, 1)) == ("Maker", "Model One", 1)
    assert main[305].startswith("darkprep ")
    assert exif[36867] == "2023:02:01 10:20:30"
    assert (exif[34855], float(exif[33434])) == (3200, 0.05)
    assert (exif[40961], exif[40962], exif[40963]) == (1, *SIZE)
    if shutil.which("exiftool"):
        said = subprocess.run(
            ["exiftool", "-a", "-validate", "-warning", "-error", "-DateTimeOriginal", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "2023:02:01 10:20:30" in said
        assert "Error" not in said


def test_tiff_pictures_are_compressed_without_loss(call):
    photograph("a.dng")
    call(*restore("a.dng", "--format", "tiff", "--bits", "16"))
    call(*restore("a.dng", "--format", "png", "--bits", "16"))

    with tifffile.TiffFile("restored/a.tiff") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert (page.compression, page.predictor) == (8, 2)
        pixels = page.asarray()
    with Image.open("restored/a.png") as picture:  # Pillow reads 8 of the 16 bits
        assert np.abs(pixels / 257 - np.asarray(picture)).max() < 1.01


@pytest.mark.parametrize(
    ("kept", "has_date", "has_position"),
    [("all", True, True), ("no-position", True, False), ("none", False, False)],
)
def test_the_position_is_kept_unless_it_is_not_wanted(call, kept, has_date, has_position):
    path = photograph("a.dng")
    _add_position(path)

    call(*restore("a.dng", "--format", "jpeg", "--metadata", kept))

    with Image.open("restored/a.jpg") as picture:
        exif = picture.getexif()
    assert (36867 in exif.get_ifd(34665)) == has_date
    assert (exif.get_ifd(34853).get(1) == "N") == has_position


def _add_position(path: Path) -> None:
    """Append a GPS directory to a DNG file, in the place of its CFALayout tag."""
    data = bytearray(path.read_bytes())
    at = len(data) + len(data) % 2
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == 50711:
            struct.pack_into("<HHII", data, entry, 34853, 4, 1, at)
    data += bytes(at - len(data)) + struct.pack("<HHHI4sI", 1, 1, 2, 2, b"N\0\0\0", 0)
    path.write_bytes(data)


def test_a_folder_is_restored_and_its_pictures_are_then_kept(call):
    photograph("night/a.dng")
    photograph("night/sub/b.dng", orientation=1)
    Path("night/sub/cut.dng").write_bytes(Path("night/a.dng").read_bytes()[:5000])
    Path("night/notes.txt").write_text("none")
    words = restore("night", "--recursive", "--out", "out", "--amplify", "50", "--format", "jpeg")

    result = call(*words)

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1/3 night/a.dng -> out/a.jpg, x50 (constant), ")
    assert ", ETA " in lines[0]
    assert lines[1].startswith("2/3 night/sub/b.dng -> out/sub/b.jpg, x50 (constant), ")
    (failure,) = result.stderr.splitlines()
    assert failure.startswith("failed night/sub/cut.dng: ")
    written = {path: path.read_bytes() for path in Path("out").rglob("*.jpg")}
    assert len(written) == 2

    again = call(*words)

    assert again.stdout == ""
    assert again.stderr.splitlines() == [
        "skipped 2 pictures that exist already: out/a.jpg and 1 more; --existing replace or rename restores them again",
        failure,
    ]
    assert {path: path.read_bytes() for path in Path("out").rglob("*.jpg")} == written


def test_existing_pictures_are_replaced_or_get_a_neighbour(call):
    photograph("a.dng")
    Path("restored").mkdir()
    Path("restored/a.png").write_bytes(b"mine")

    call(*restore("a.dng", "--existing", "rename"))
    assert Path("restored/a.png").read_bytes() == b"mine"
    assert Path("restored/a-2.png").read_bytes()[:4] == b"\x89PNG"

    call(*restore("a.dng", "--existing", "replace"))
    assert Path("restored/a.png").read_bytes() == Path("restored/a-2.png").read_bytes()


def test_a_tiff_file_that_another_program_wrote_is_never_replaced(call):
    photograph("a.dng")
    Path("restored").mkdir()
    tifffile.imwrite("restored/a.tiff", np.zeros((4, 4), np.uint16), software="camera")
    before = Path("restored/a.tiff").read_bytes()

    result = call(*restore("a.dng", "--existing", "replace", "--format", "tiff"))

    assert result.exit_code == 1
    assert "was not written by darkprep, so it may be an original" in result.stderr
    assert Path("restored/a.tiff").read_bytes() == before


def test_several_amplifications_give_a_picture_each_and_too_large_ones_a_warning(call):
    photograph("a.dng")

    result = call(*restore("a.dng", "--amplify", "1, 50,2000"))

    assert result.exit_code == 0
    assert sorted(path.name for path in Path("restored").iterdir()) == [
        "a_x1.png", "a_x2000.png", "a_x50.png",
    ]  # fmt: skip
    first, second = result.stderr.splitlines()
    assert first == "warning a.dng: the amplification 2000 is beyond 1000: little but noise is left"
    assert "% of its pixels are white after the amplification 2000" in second


@pytest.mark.parametrize("words", [[], ["--format", "tiff", "--bits", "16"]])
def test_a_contact_sheet_shows_every_picture(call, words):
    photograph("a.dng")
    Path("b.dng").write_text("none")

    result = call(*restore("a.dng", "b.dng", "--amplify", "5,50", "--preview", *words))
    again = call(*restore("a.dng", "--amplify", "7", "--preview", *words))

    assert "wrote restored/contact-sheet.jpg" in result.stdout
    assert "wrote restored/contact-sheet-2.jpg" in again.stdout
    with Image.open("restored/contact-sheet.jpg") as sheet:
        assert sheet.size == (2 * 264 + 8, 256 + 28 + 8 + 8)
        assert np.asarray(sheet)[8:260, 8:520].std() > 5


def test_a_folder_without_raw_files_and_odd_options_are_refused(complaint):
    Path("empty/sub").mkdir(parents=True)

    assert complaint(*restore("empty")) == (
        "empty: holds no RAW files; --recursive also looks into its subfolders"
    )
    assert "holds no RAW files" in complaint(*restore("empty", "--recursive"))
    assert "bits must be 8 for jpeg" in complaint(
        *restore("a.dng", "--format", "jpeg", "--bits", "16")
    )
    assert "--quality can be used only with --format jpeg" in complaint(
        *restore("a.dng", "--quality", "50"), status=2
    )
    assert "amplify must be" in complaint(*restore("a.dng", "--amplify", "50,,x"))


def test_a_picture_states_the_precision_in_which_it_was_computed(call):
    photograph("a.dng", orientation=1)

    assert call(*restore("a.dng", "--amplify", "30", "--out", "exact")).exit_code == 0
    assert call(*restore("a.dng", "--amplify", "30", "--precision", "bf16")).exit_code == 0

    with Image.open("exact/a.png") as exact, Image.open("restored/a.png") as rough:
        assert exact.info["Precision"] == "fp32"
        assert rough.info["Precision"] == "bf16"
        difference = np.abs(np.asarray(exact).astype(int) - np.asarray(rough))
    assert 0 < difference.max() < 8


@pytest.mark.parametrize("command", [("restore", "a.dng"), ("evaluate", "--camera", "sony")])
def test_a_precision_that_the_device_lacks_is_refused(complaint, command):
    words = (*command, "--weights", "w.safetensors", "--device", "cpu", "--precision")

    assert complaint(*words, "fp16") == (
        "--precision: fp16 needs a GPU; on cpu choose bf16 or fp32"
    )
    assert "'int8' is not one of 'fp32', 'fp16', 'bf16'" in complaint(*words, "int8", status=2)


def trained_on(*names: str) -> None:
    """Write weights that state these training cameras."""
    torch.manual_seed(0)
    colours = Colours(gains=np.array([2.5, 1.0, 1.5]), to_srgb=np.eye(3))
    model = build_model("redirt-2rdb")
    model.cameras = cameras_to_text(
        CameraColours(camera=name, colours=colours).to_record() for name in names
    )
    save_weights(model, "w.safetensors")


def test_frames_of_another_camera_are_matched_by_default(call):
    photograph("a.dng", orientation=1)
    call(*restore("a.dng", "--amplify", "30", "--out", "unknown"))
    trained_on("Maker Model One")
    call(*restore("a.dng", "--amplify", "30", "--out", "own"))
    trained_on("Other X1", "Maker Model One")
    call(*restore("a.dng", "--amplify", "30", "--out", "among"))
    trained_on("Other X1")

    matched = call(*restore("a.dng", "--amplify", "30", "--out", "matched"))
    plain = call(*restore("a.dng", "--amplify", "30", "--out", "plain", "--match-colour", "none"))

    assert matched.stderr == ""
    assert plain.stderr == (
        "warning a.dng: the weights were trained on Other X1, this is Maker Model One: see --match-colour auto\n"
    )

    def pixels(folder: str) -> np.ndarray:
        with Image.open(Path(folder, "a.png")) as picture:
            return np.asarray(picture).astype(float)

    assert np.array_equal(pixels("own"), pixels("among"))
    assert np.array_equal(pixels("own"), pixels("plain"))
    assert not np.array_equal(pixels("own"), pixels("matched"))


def test_x_trans_files_for_bayer_weights_name_the_option_that_helps(call):
    from darkprep.shards.cfa import CANONICAL

    photograph("f.dng", cfa=CANONICAL["xtrans"])

    result = call(*restore("f.dng"))
    assert result.stderr == (
        "failed f.dng: is of an X-Trans sensor, and these weights read Bayer mosaics; add --xtrans rggb, which resamples it\n"
    )
    assert call(*restore("f.dng", "--xtrans", "rggb")).exit_code == 0
