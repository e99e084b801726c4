"""Folders as people have them give pairs by names and Exif alone; what is not certain is named and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from darkprep.pipeline.pairs import folders
from darkprep.pipeline.pairs.folders import find_layout
from darkprep.pipeline.pairs.pair_table import pairs_from_csv, table_text
from darkprep.pipeline.pairs.photograph import Photograph, read_photograph
from darkprep.shards import DatasetError, OptionError

WriteRaw = Callable[..., Path]


def names(root: Path, layout: str) -> list[tuple[str, str]]:
    return [(pair.short, pair.long) for pair in find_layout(root, layout).pairs]


def test_files_of_equal_names_are_pairs(tmp_path: Path, write_raw: WriteRaw):
    for number in (1, 2):
        write_raw(f"short/DSC_000{number}.DNG", exposure_s=0.1, iso=1600)
        write_raw(f"long/DSC_000{number}.dng", exposure_s=1.0, iso=800)

    found = find_layout(tmp_path, "short-long")

    assert [(pair.id, pair.scene, pair.ratio) for pair in found.pairs] == [
        ("DSC_0001", "DSC_0001", 5.0),
        ("DSC_0002", "DSC_0002", 5.0),
    ]
    assert found.pairs[0].short == "short/DSC_0001.DNG"
    assert (found.pairs[0].camera, found.pairs[0].iso) == ("darkprep Synthetic", 1600.0)
    assert {pair.split for pair in found.pairs} == {"train", "test"}
    assert (found.label, found.layout, found.skipped) == (tmp_path.name, "short-long", ())


def test_short_exposures_have_the_long_one_of_their_names_beginning(
    tmp_path: Path, write_raw: WriteRaw
):
    for short in ("park_0.1s", "park_0.04s", "street_1", "street_2"):
        write_raw(f"Short/{short}.dng", exposure_s=0.1)
    for long in ("park_10s", "street"):
        write_raw(f"LONG/{long}.dng", exposure_s=10.0)

    found = find_layout(tmp_path, "short-long")

    assert [(pair.id, pair.scene, Path(pair.long).stem) for pair in found.pairs] == [
        ("park_0.04s", "park", "park_10s"),
        ("park_0.1s", "park", "park_10s"),
        ("street_1", "street", "street"),
        ("street_2", "street", "street"),
    ]


def test_a_choice_between_long_exposures_is_left_to_the_user(tmp_path: Path, write_raw: WriteRaw):
    write_raw("short/a.dng", exposure_s=0.1)
    write_raw("long/a.dng", exposure_s=1.0)
    write_raw("short/DSC_0001.dng", exposure_s=0.1)
    for number in (5, 6):
        write_raw(f"long/DSC_000{number}.dng", exposure_s=1.0)
    write_raw("short/alone.dng", exposure_s=0.1)

    found = find_layout(tmp_path, "short-long")

    assert [pair.id for pair in found.pairs] == ["a"]
    reasons = {one.path: one.reason for one in found.skipped}
    assert reasons["short/DSC_0001.dng"].startswith("2 long exposures have the beginning")
    assert reasons["short/alone.dng"] == "long has no file named alone or alone_..."


def test_several_cameras_may_lie_side_by_side(tmp_path: Path, write_raw: WriteRaw):
    for camera in ("nikon", "canon"):
        write_raw(f"{camera}/short/1.dng", exposure_s=0.1, model=camera)
        write_raw(f"{camera}/long/1.dng", exposure_s=1.0, model=camera)

    found = find_layout(tmp_path, "short-long")

    assert [pair.camera for pair in found.pairs] == ["darkprep canon", "darkprep nikon"]
    assert len({pair.id for pair in found.pairs}) == 2


def test_a_raw_file_is_used_rather_than_its_dng(tmp_path: Path, write_raw: WriteRaw):
    write_raw("short/1.dng", exposure_s=0.1)
    write_raw("short/1.NEF", exposure_s=0.1)
    write_raw("long/1.dng", exposure_s=1.0)

    found = find_layout(tmp_path, "short-long")

    assert names(tmp_path, "short-long") == [("short/1.NEF", "long/1.dng")]
    assert found.skipped[0].reason == "1.NEF has the same name and is used instead"


def test_the_longest_exposure_at_the_lowest_iso_is_a_scenes_truth(
    tmp_path: Path, write_raw: WriteRaw
):
    write_raw("park/a.dng", exposure_s=30.0, iso=6400)
    write_raw("park/b.dng", exposure_s=2.0, iso=100)
    write_raw("park/c.dng", exposure_s=30.0, iso=100)
    write_raw("park/d.dng", exposure_s=0.1, iso=100)
    write_raw("park/notes.txt").write_text("not a photograph")
    write_raw("street/e.dng", exposure_s=1.0, iso=100)

    found = find_layout(tmp_path, "scenes")

    assert [(pair.id, pair.long, pair.ratio) for pair in found.pairs] == [
        ("park_b", "park/c.dng", 15.0),
        ("park_d", "park/c.dng", 300.0),
    ]
    reasons = {one.path: one.reason for one in found.skipped}
    assert (
        "less light than its short one (30 s, ISO 100 and 30 s, ISO 6400)" in reasons["park/a.dng"]
    )
    assert reasons["street/e.dng"].startswith("is the only photograph of its scene")


def test_an_unreadable_photograph_of_a_scene_is_named(tmp_path: Path, write_raw: WriteRaw):
    write_raw("park/a.dng", exposure_s=1.0)
    write_raw("park/b.dng", exposure_s=0.1)
    (tmp_path / "park/c.NEF").write_text("hello")

    found = find_layout(tmp_path, "scenes")

    assert [pair.short for pair in found.pairs] == ["park/b.dng"]
    assert [one.path for one in found.skipped] == ["park/c.NEF"]


def test_a_photograph_without_an_exposure_time_is_named(
    tmp_path: Path, write_raw: WriteRaw, monkeypatch: pytest.MonkeyPatch
):
    def without_time(path: Path) -> Photograph:
        found = read_photograph(path)
        return replace(found, exposure_s=0.0) if path.name == "c.dng" else found

    monkeypatch.setattr(folders, "read_photograph", without_time)
    write_raw("park/a.dng", exposure_s=1.0)
    write_raw("park/b.dng", exposure_s=0.1)
    write_raw("park/c.dng", exposure_s=0.5)

    found = find_layout(tmp_path, "scenes")

    assert [pair.short for pair in found.pairs] == ["park/b.dng"]
    assert [(one.path, one.reason) for one in found.skipped] == [
        ("park/c.dng", "states no exposure time; list it in a table with a ratio")
    ]


def test_a_set_of_rawnind_without_a_truth_is_named(tmp_path: Path, write_raw: WriteRaw):
    write_raw("Bayer_A_GT_ISO100_sha1=0a.dng", exposure_s=1.0, iso=100)
    write_raw("Bayer_A_ISO800_sha1=0b.dng", exposure_s=0.125, iso=800)
    write_raw("Bayer_B_ISO800_sha1=0c.dng", exposure_s=0.125, iso=800)

    found = find_layout(tmp_path, "rawnind")

    assert [pair.scene for pair in found.pairs] == ["A"]
    assert [(one.path, one.reason) for one in found.skipped] == [
        (
            "Bayer_B_ISO800_sha1=0c.dng",
            "the set B has no usable truth (a file with GT_ in its name); add one",
        )
    ]


def test_rawnind_is_read_by_the_names_of_its_files(tmp_path: Path, write_raw: WriteRaw):
    """Look-alikes: the data set itself cannot be downloaded here."""
    write_raw("Bayer_TEST_7D-2_GT_ISO100_sha1=0a.dng", exposure_s=2.0, iso=100)
    write_raw("Bayer_TEST_7D-2_GT_ISO100_sha1=0b.dng", exposure_s=1.0, iso=100)
    write_raw("Bayer_TEST_7D-2_ISO6400_sha1=0c.dng", exposure_s=1 / 30, iso=6400)
    write_raw("src/Bayer/A_B/gt/Bayer_A_B_ISO100_sha1=0d.dng", exposure_s=1.0, iso=100)
    write_raw("src/Bayer/A_B/Bayer_A_B_ISO800_sha1=0e.dng", exposure_s=0.125, iso=800)
    write_raw("other.dng")

    found = find_layout(tmp_path, "rawnind")

    outdoor, test = sorted(found.pairs, key=lambda pair: pair.scene)
    assert (outdoor.scene, outdoor.split, outdoor.ratio) == ("A_B", "train", 1.0)
    assert outdoor.long.endswith("A_B/gt/Bayer_A_B_ISO100_sha1=0d.dng")
    assert (test.scene, test.split, test.ratio) == ("TEST_7D-2", "test", 0.9375)
    assert test.long == "Bayer_TEST_7D-2_GT_ISO100_sha1=0a.dng"
    assert [one.path for one in found.skipped] == ["other.dng"]


@pytest.mark.parametrize("layout", ["short-long", "scenes"])
def test_a_layouts_table_gives_the_same_pairs(tmp_path: Path, write_raw: WriteRaw, layout: str):
    for scene in ("a", "b", "c"):
        write_raw(f"{scene}/short/1.dng", exposure_s=0.1)
        write_raw(f"{scene}/short/2.dng", exposure_s=1.0)
        write_raw(f"{scene}/long/1.dng", exposure_s=1.0)
    found = find_layout(tmp_path, layout)
    table = tmp_path / "pairs.csv"
    table.write_text(table_text(found.pairs))

    assert found.pairs
    assert pairs_from_csv(table).pairs == found.pairs


@pytest.mark.parametrize("layout", ["short-long", "scenes", "rawnind"])
def test_a_folder_without_pairs_is_one_error(tmp_path: Path, layout: str):
    (tmp_path / "x.jpg").touch()

    with pytest.raises(
        DatasetError,
        match=rf"holds no pairs in the layout {layout} \(found 1 .jpg\); give the folder",
    ):
        find_layout(tmp_path, layout)
    with pytest.raises(DatasetError, match="does not exist"):
        find_layout(tmp_path / "absent", layout)


def test_an_unknown_layout_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="short-long, scenes, rawnind"):
        find_layout(tmp_path, "sid")
