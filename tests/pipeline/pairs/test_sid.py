"""SID's pairs come from names and lists alone; what gives no pair is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.pairs.find import find_longs, find_pairs
from darkprep.shards.errors import DatasetError
from tests.support.sid_tree import SID_NAMES, touch_sid

SONY, FUJI = CAMERAS["sony"], CAMERAS["fuji"]


def test_scanning_pairs_by_scene(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), SONY)

    assert [(p.id, p.scene, p.split, p.ratio) for p in found.pairs] == [
        ("00001_00_0.04s", "00001", "train", 250),
        ("00001_00_0.1s", "00001", "train", 100),
        ("10003_00_0.033s", "10003", "test", 300),
        ("20211_00_0.1s", "20211", "val", 300),
    ]
    first = found.pairs[0]
    assert first.short == "Sony/short/00001_00_0.04s.ARW"
    assert first.long == "Sony/long/00001_00_10s.ARW"
    assert found.skipped == ()


def test_all_frames_of_a_burst_on_request(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), SONY, frames="all")

    assert "00001_01_0.1s" in {pair.id for pair in found.pairs}


@pytest.mark.parametrize("extension", [".ARW", ".arw", ".dng", ".DNG"])
def test_extensions_are_taken_in_any_case(tmp_path, extension):
    assert len(find_pairs(touch_sid(tmp_path, *SID_NAMES, extension=extension), SONY).pairs) == 4


def test_fuji_has_its_own_folder_and_extension(tmp_path):
    touch_sid(tmp_path, *SID_NAMES)
    touch_sid(tmp_path, *SID_NAMES[:4], folder="Fuji", extension=".RAF")

    assert {pair.short.split("/")[0] for pair in find_pairs(tmp_path, FUJI).pairs} == {"Fuji"}


def test_the_root_may_be_the_repository_or_the_cameras_folder(tmp_path):
    touch_sid(tmp_path / "dataset", *SID_NAMES)

    roots = (tmp_path, tmp_path / "dataset", tmp_path / "dataset" / "Sony")
    found = [find_pairs(root, SONY) for root in roots]

    assert len({tuple(pair.id for pair in one.pairs) for one in found}) == 1
    assert all((one.root / pair.short).is_file() for one in found for pair in one.pairs)


def test_a_short_without_its_long_is_named(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES, "short/00099_00_0.1s"), SONY)

    assert len(found.pairs) == 4
    (skipped,) = found.skipped
    assert skipped.path == "Sony/short/00099_00_0.1s.ARW"
    assert "no long exposure" in skipped.reason


def test_odd_names_are_named_and_foreign_files_ignored(tmp_path):
    touch_sid(
        tmp_path,
        *SID_NAMES,
        "short/copy of 00001_00_0.1s",
        "short/90001_00_0.1s",
        "short/._00001_00_0.1s",
    )
    (tmp_path / "Sony/short/readme.txt").touch()
    (tmp_path / "Sony/short/00001_00_0.1s.jpg").touch()

    found = find_pairs(tmp_path, SONY)

    assert len(found.pairs) == 4
    assert len(found.skipped) == 2
    assert all("its name is not" in one.reason for one in found.skipped)


def test_of_two_formats_the_cameras_own_is_used(tmp_path):
    touch_sid(tmp_path, *SID_NAMES, extension=".DNG")
    touch_sid(tmp_path, SID_NAMES[0])

    found = find_pairs(tmp_path, SONY)

    assert len(found.pairs) == 4
    assert "Sony/short/00001_00_0.1s.ARW" in {pair.short for pair in found.pairs}
    assert [one.path for one in found.skipped] == ["Sony/short/00001_00_0.1s.DNG"]


def test_of_two_long_exposures_the_longest_first_frame_is_used(tmp_path):
    touch_sid(tmp_path, *SID_NAMES, "long/00001_00_30s", "long/00001_01_60s")

    pair = find_pairs(tmp_path, SONY).pairs[0]

    assert pair.long == "Sony/long/00001_00_30s.ARW"


def test_misaligned_scenes_are_left_out_on_request(tmp_path):
    touch_sid(tmp_path, *SID_NAMES, "short/10034_00_0.1s", "long/10034_00_10s")

    assert len(find_pairs(tmp_path, SONY).pairs) == 5
    assert len(find_pairs(tmp_path, SONY, exclude_misaligned=True).pairs) == 4


def test_fujis_scenes_of_the_same_numbers_are_left_in(tmp_path):
    """Scene numbers of SID's two cameras are unrelated; the misaligned ones are Sony's."""
    touch_sid(tmp_path, "short/10172_00_0.1s", "long/10172_00_10s", folder="Fuji", extension=".RAF")

    assert len(find_pairs(tmp_path, FUJI, exclude_misaligned=True).pairs) == 1
    assert len(find_longs(tmp_path, FUJI, exclude_misaligned=True).pairs) == 1


def write_list(root: Path, split: str, *lines: str, folder: str = "Sony") -> None:
    (root / f"{folder}_{split}_list.txt").write_text("".join(f"{line}\n" for line in lines))


def line(short: str, long: str, rest: str = "ISO200 F9", extension: str = "ARW") -> str:
    return f"./Sony/short/{short}.{extension} ./Sony/long/{long}.{extension} {rest}"


def test_a_list_file_says_what_its_split_is(tmp_path):
    touch_sid(tmp_path, *SID_NAMES)
    write_list(tmp_path, "train", line("00001_00_0.1s", "00001_00_10s"), "")

    found = find_pairs(tmp_path, SONY)

    train = [pair for pair in found.pairs if pair.split == "train"]
    assert [(pair.id, pair.iso, pair.ratio) for pair in train] == [("00001_00_0.1s", 200, 100)]
    assert Counter(pair.split for pair in found.pairs) == {"train": 1, "test": 1, "val": 1}


def test_a_list_may_deal_scenes_to_another_split(tmp_path):
    touch_sid(tmp_path, *SID_NAMES)
    write_list(tmp_path, "train", line("20211_00_0.1s", "20211_00_30s"))

    found = find_pairs(tmp_path, SONY)

    assert {pair.id: pair.split for pair in found.pairs}["20211_00_0.1s"] == "train"
    assert len({pair.id for pair in found.pairs}) == len(found.pairs)


@pytest.mark.parametrize("frames", ["first", "all"])
def test_the_list_is_filtered_by_frame_before_files_are_missed(tmp_path, frames):
    touch_sid(tmp_path, SID_NAMES[0], SID_NAMES[3])
    lines = [line(f"00001_{n:02}_0.1s", "00001_00_10s") for n in range(3)]
    write_list(tmp_path, "train", *lines)

    found = find_pairs(tmp_path, SONY, frames=frames)

    assert [pair.id for pair in found.pairs] == ["00001_00_0.1s"]
    assert len(found.skipped) == (0 if frames == "first" else 2)


def test_listed_files_are_found_under_another_extension(tmp_path):
    touch_sid(tmp_path, *SID_NAMES, extension=".dng")
    write_list(tmp_path, "train", line("00001_00_0.1s", "00001_00_10s"))

    train = find_pairs(tmp_path, SONY).of_split("train")

    assert [pair.short for pair in train.pairs] == ["Sony/short/00001_00_0.1s.dng"]


def test_listed_files_that_are_missing_are_named(tmp_path):
    touch_sid(tmp_path, *SID_NAMES)
    (tmp_path / "Sony/long/00001_00_10s.ARW").unlink()
    write_list(
        tmp_path,
        "train",
        line("00001_00_0.1s", "00001_00_10s"),
        line("00002_00_0.1s", "00002_00_10s"),
        line("00001_00_0.04s", "10003_00_10s"),
    )

    found = find_pairs(tmp_path, SONY)

    assert {one.path: one.reason.split()[0] for one in found.skipped} == {
        "Sony/short/00001_00_0.1s.ARW": "its",
        "./Sony/short/00002_00_0.1s.ARW": "listed",
        "Sony/short/00001_00_0.04s.ARW": "Sony_train_list.txt",
    }


@pytest.mark.parametrize("bad", ["garbage", "./Sony/short/00001_00_0.1s.ARW", "a b ISO100 F8"])
def test_a_broken_list_is_named_with_its_line(tmp_path, bad):
    touch_sid(tmp_path, *SID_NAMES)
    write_list(tmp_path, "train", line("00001_00_0.1s", "00001_00_10s"), bad)

    with pytest.raises(DatasetError, match=r"Sony_train_list\.txt:2: "):
        find_pairs(tmp_path, SONY)


def test_a_missing_root_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"does not exist; .*darkprep synth"):
        find_pairs(tmp_path / "absent", SONY)


def test_a_file_as_root_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DatasetError, match="is not a directory"):
        find_pairs(tmp_path / "file", SONY)


@pytest.mark.parametrize("camera", ["sony", "nikond850"])
def test_a_root_without_the_cameras_folder_is_named_with_the_wanted_folder(tmp_path, camera):
    with pytest.raises(DatasetError, match=CAMERAS[camera].folder):
        find_pairs(tmp_path, CAMERAS[camera])


def test_folders_without_pairs_are_named_with_a_reason(tmp_path):
    with pytest.raises(DatasetError, match=r"no pairs of sony; Sony/short/00099.*no long exposure"):
        find_pairs(touch_sid(tmp_path, "short/00099_00_0.1s"), SONY)


@given(st.permutations(SID_NAMES))
def test_the_order_of_listing_changes_nothing(tmp_path_factory, names):
    found = find_pairs(touch_sid(tmp_path_factory.mktemp("sid"), *names), SONY, frames="all")

    assert [pair.id for pair in found.pairs] == sorted(pair.id for pair in found.pairs)
    assert len(found.pairs) == 5
