"""ELD's pairs come from image ids and Exif; a scene of other files is named and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs

CANON = CAMERAS["canon70d"]


def eld(write_raw: Callable[..., Path], scene: int = 1, ids: Iterable[int] = range(1, 17)) -> Path:
    """Writes an ELD scene: four references at ISO 100, and 12 images at 3 ISO and 4 factors."""
    for number in ids:
        group, position = divmod(number - 1, 5)
        iso, factor = (100, 1) if position == 0 else (800 << group, (1, 10, 100, 200)[position - 1])
        tags = {"iso": iso, "exposure_s": 2.0 * 100 / iso / factor, "make": "Canon"}
        name = f"CanonEOS70D/scene-{scene}/IMG_{number:04}.dng"
        path = write_raw(name, size=(16, 16), **tags)
    return path.parents[2]


def test_eld_pairs_each_noisy_image_with_its_reference(write_raw):
    found = find_pairs(eld(write_raw), CANON, frames="all")

    assert {one.short[-8:-4]: (one.long[-8:-4], one.ratio, one.iso) for one in found.pairs} == {
        "0002": ("0001", 1, 800),
        "0003": ("0001", 10, 800),
        "0004": ("0006", 100, 800),
        "0005": ("0006", 200, 800),
        "0007": ("0006", 1, 1600),
        "0008": ("0006", 10, 1600),
        "0009": ("0011", 100, 1600),
        "0010": ("0011", 200, 1600),
        "0012": ("0011", 1, 3200),
        "0013": ("0011", 10, 3200),
        "0014": ("0016", 100, 3200),
        "0015": ("0016", 200, 3200),
    }
    assert {one.split for one in found.pairs} == {"test"}


def test_eld_evaluates_six_images_a_scene(write_raw):
    eld(write_raw, scene=1)
    root = eld(write_raw, scene=10)

    found = find_pairs(root, CANON)

    assert len(found.pairs) == 12
    assert {one.scene for one in found.pairs} == {"scene-1", "scene-10"}
    assert {one.id for one in found.pairs} >= {"scene-1_IMG_0004", "scene-10_IMG_0015"}
    assert Counter(one.ratio for one in found.pairs) == {100: 6, 200: 6}


@pytest.mark.parametrize(
    ("name", "folder", "extension"),
    [
        ("sonya7s2", "SonyA7S2", ".ARW"),
        ("nikond850", "NikonD850", ".nef"),
        ("canon70d", "CanonEOS70D", ".CR2"),
        ("canon700d", "CanonEOS700D", ".CR2"),
        ("canon5d4", "CanonEOS5D4", ".CR2"),
        ("canon5d4", "CanonEOS5D4", ".dng"),
    ],
)
def test_each_eld_camera_has_its_folder_and_extension(write_raw, name, folder, extension):
    root = eld(write_raw)
    (root / "CanonEOS70D").rename(root / folder)
    for path in (root / folder / "scene-1").iterdir():
        path.rename(path.with_suffix(extension))

    found = find_pairs(root, camera_named(name))

    assert {one.short for one in found.pairs} == {
        f"{folder}/scene-1/IMG_{number:04}{extension}" for number in (4, 5, 9, 10, 14, 15)
    }
    assert {round(one.ratio) for one in found.pairs} == {100, 200}


def test_eld_may_stand_below_its_name_or_be_the_root(write_raw, tmp_path):
    root = eld(write_raw)
    (tmp_path / "ELD").mkdir()
    (root / "CanonEOS70D").rename(tmp_path / "ELD" / "CanonEOS70D")

    for root in (tmp_path, tmp_path / "ELD", tmp_path / "ELD" / "CanonEOS70D"):
        found = find_pairs(root, CANON)
        assert all((root / one.short).is_file() for one in found.pairs)


@pytest.mark.parametrize("ids", [range(1, 16), range(1, 18), [*range(1, 16), 20]])
def test_an_eld_scene_of_other_files_is_named_and_left_out(write_raw, ids):
    eld(write_raw, scene=2)
    root = eld(write_raw, scene=5, ids=ids)

    found = find_pairs(root, CANON)

    assert {one.scene for one in found.pairs} == {"scene-2"}
    assert [(one.path, one.reason) for one in found.skipped] == [
        (
            "CanonEOS70D/scene-5",
            f"holds {len(ids)} RAW files, not IMG_0001 to IMG_0016; download it again",
        )
    ]


def test_other_files_of_an_eld_scene_are_ignored(write_raw):
    root = eld(write_raw)
    for number in range(1, 17):
        (root / f"CanonEOS70D/scene-1/IMG_{number:04}.JPG").touch()

    assert len(find_pairs(root, CANON).pairs) == 6


def test_eld_images_without_exposure_are_named(write_raw):
    root = eld(write_raw)
    (root / "CanonEOS70D/scene-1/IMG_0004.dng").write_bytes(b"II*\0 nothing")
    (root / "CanonEOS70D/scene-1/IMG_0011.dng").write_bytes(b"nothing at all")

    found = find_pairs(root, CANON)

    assert [one.short[-8:-4] for one in found.pairs] == ["0005", "0014", "0015"]
    assert {one.path[-8:-4]: one.reason.split(" has")[0] for one in found.skipped} == {
        "0004": "has no exposure time or no ISO in its Exif data; use the camera's original file",
        "0009": "its reference IMG_0011.dng",
        "0010": "its reference IMG_0011.dng",
    }
