"""A table lists any pairs: what it leaves out is derived, and a bad row is named by its line number."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from darkprep.pipeline.pairs import pair_table
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.naming import default_scene
from darkprep.pipeline.pairs.pair_table import pairs_from_csv, table_text
from darkprep.pipeline.pairs.photograph import Photograph, read_photograph
from darkprep.pipeline.pairs.table import splits_by_scene
from darkprep.shards import DatasetError
from tests.support.sid_tree import SID_NAMES, touch_sid, write_sid

WriteRaw = Callable[..., Path]


def write_table(root: Path, *lines: str) -> Path:
    path = root / "pairs.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def photographs(tmp_path: Path, write_raw: WriteRaw) -> Path:
    """Two scenes: folders with a long exposure of 10 s at ISO 100, and short ones of 0.1 s at ISO 400."""
    for scene in ("park", "street"):
        write_raw(f"{scene}/dark_1.dng", exposure_s=0.1, iso=400)
        write_raw(f"{scene}/dark_2.dng", exposure_s=0.05, iso=400)
        write_raw(f"{scene}/light.dng", exposure_s=10.0, iso=100)
    return tmp_path


def test_two_columns_are_enough(photographs: Path):
    table = write_table(
        photographs, "short,long", "park/dark_1.dng,park/light.dng", "street/dark_2.dng,street/light.dng"
    )  # fmt: skip

    found = pairs_from_csv(table)

    park, street = found.pairs
    assert (park.id, park.scene) == ("park_dark_1", "park")
    assert (park.short, park.long) == ("park/dark_1.dng", "park/light.dng")
    assert (park.ratio, park.iso, park.weight) == (25.0, 400.0, 1)
    assert street.ratio == 50.0
    assert park.camera == "darkprep Synthetic"
    assert {park.split, street.split} == {"train", "test"}
    assert (found.root, found.label, found.table) == (photographs, "pairs", table)
    assert found.rows == {"park_dark_1": "pairs.csv:2", "street_dark_2": "pairs.csv:3"}


def test_what_a_row_states_is_used_as_it_is(photographs: Path):
    table = write_table(
        photographs,
        "short;long;scene;split;ratio;camera;weight;iso",
        "park/dark_1.dng;park/light.dng;p;val;303.03;my camera;3;640",
    )

    (pair,) = pairs_from_csv(table).pairs

    assert (pair.scene, pair.split, pair.ratio) == ("p", "val", 303.03)
    assert (pair.camera, pair.weight, pair.iso) == ("my camera", 3, 640.0)


def test_times_alone_give_the_ratio_where_an_iso_is_unknown(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    def without_iso(path: Path) -> Photograph:
        found = read_photograph(path)
        return replace(found, iso=0.0) if path.name == "dark_1.dng" else found

    monkeypatch.setattr(pair_table, "read_photograph", without_iso)
    table = write_table(photographs, "short,long", "park/dark_1.dng,park/light.dng")

    assert pairs_from_csv(table).pairs[0].ratio == 100.0


def test_paths_are_relative_to_the_root_or_else_to_the_table(photographs: Path, tmp_path: Path):
    lines = ("short,long", "park/dark_1.dng,park/light.dng")
    (tmp_path / "elsewhere").mkdir()
    apart = write_table(tmp_path / "elsewhere", *lines)

    assert pairs_from_csv(apart, root=photographs).root == photographs
    assert pairs_from_csv(write_table(photographs, *lines), root="absent").root == photographs
    with pytest.raises(DatasetError, match="there is no file"):
        pairs_from_csv(apart)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("park/absent.dng,park/light.dng,", r"there is no file .*absent.dng \(short\)"),
        ("park/dark_2.dng,park/absent.dng,", r"absent.dng \(long\)"),
        (",park/light.dng,", "its column short is empty"),
        ("park/dark_2.dng,park/light.dng,0", "ratio must be above 0"),
        ("park/dark_2.dng,park/light.dng,-3", "ratio must be above 0"),
        ("park/dark_2.dng,park/light.dng,nan", "ratio must be above 0"),
        ("park/dark_2.dng,park/light.dng,ten", "ratio must be a number, not 'ten'"),
        ("street/light.dng,street/dark_1.dng,", "less light than its short one"),
        ("street/light.dng,street/dark_1.dng,100", "10 s is shorter|0.1 s is shorter"),
        (
            "park/dark_1.dng,street/light.dng,",
            r"that is not the one in .*:2 \(park/light.dng\)",
        ),
        ("park/dark_1.dng,park/light.dng,", "lists the same pair as pairs.csv:2"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_left_out(photographs: Path, row: str, reason: str):
    table = write_table(
        photographs, "short,long,ratio", "park/dark_1.dng,park/light.dng,", "", row
    )  # fmt: skip

    found = pairs_from_csv(table)

    assert [pair.id for pair in found.pairs] == ["park_dark_1"]
    (skipped,) = found.skipped
    assert skipped.path == "pairs.csv:4"
    assert re.search(reason, skipped.reason)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("weight", "0", "weight must be a whole number from 1 to 1000, not 0"),
        ("weight", "1.5", "weight must be a whole number"),
        ("split", "trian", "split must be one of train, val, test, not 'trian'"),
        ("weight", "many", "weight must be a"),
        ("iso", "-1", "iso must be at least 0"),
        ("camera", "a\x1bb", "its column camera has characters that cannot be printed"),
        ("scene", "x" * 400, "too long"),
    ],
)
def test_a_bad_value_is_named(photographs: Path, column: str, value: str, reason: str):
    table = write_table(
        photographs, f"short,long,{column}", f"park/dark_1.dng,park/light.dng,{value}"
    )

    with pytest.raises(DatasetError, match=f"has no usable row.*pairs.csv:2: .*{reason}"):
        pairs_from_csv(table)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no columns short and long"),
        ("a/b.dng,a/c.dng\n", "has no columns short and long"),
        ("short,long,ratoi\n", "unknown column 'ratoi'"),
        ("short,long,long\n", "a column twice"),
        ("short,long\n", "it lists no pair"),
        ('short,long\n"a,b\n', "is not a line of a CSV file"),
    ],
)
def test_a_file_that_is_no_pair_table_is_refused(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "pairs.csv"
    path.write_text(text)

    with pytest.raises(DatasetError, match=reason):
        pairs_from_csv(path)


def test_a_table_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"absent.csv: cannot be read \(No such file"):
        pairs_from_csv(tmp_path / "absent.csv")
    with pytest.raises(DatasetError, match="cannot be read"):
        pairs_from_csv(tmp_path)
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(DatasetError, match=r"large.csv: is larger than 64 MiB, .*; divide it"):
        pairs_from_csv(tmp_path / "large.csv")


def test_a_spreadsheets_byte_order_mark_and_spaces_are_no_part_of_a_field(photographs: Path):
    path = photographs / "pairs.csv"
    path.write_bytes(b"\xef\xbb\xbfShort, Long\r\npark/dark_1.dng , park/light.dng\r\n")

    assert [pair.id for pair in pairs_from_csv(path).pairs] == ["park_dark_1"]


@pytest.mark.parametrize(
    ("short", "long", "scene"),
    [
        ("park/1.NEF", "park/2.NEF", "park"),
        ("short/0001.NEF", "long/0001.NEF", "0001"),
        ("short/00055_00_0.1s.ARW", "long/00055_00_10s.ARW", "00055_00"),
        ("short/DSC1.NEF", "long/DSC2.NEF", "DSC2"),
        ("a_1.NEF", "a_2.NEF", "a"),
    ],
)
def test_a_scene_is_the_common_folder_or_the_common_beginning(short: str, long: str, scene: str):
    assert default_scene(short, long) == scene


def test_equal_names_in_several_folders_get_ids_from_their_paths(
    tmp_path: Path, write_raw: WriteRaw
):
    for folder in ("nikon", "canon"):
        write_raw(f"{folder}/short/0001.dng", exposure_s=0.1)
        write_raw(f"{folder}/long/0001.dng", exposure_s=1.0)
    rows = [f"{name}/short/0001.dng,{name}/long/0001.dng" for name in ("nikon", "canon")]

    found = pairs_from_csv(write_table(tmp_path, "short,long", *rows))

    assert [pair.id for pair in found.pairs] == ["canon_short_0001.dng", "nikon_short_0001.dng"]


@pytest.mark.parametrize(
    ("scenes", "shares"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (4, {"train": 3, "test": 1}),
        (5, {"train": 3, "val": 1, "test": 1}),
        (100, {"train": 80, "val": 10, "test": 10}),
    ],
)
def test_scenes_are_divided_80_10_10(scenes: int, shares: dict[str, int]):
    names = [f"scene {number}" for number in range(scenes)]

    splits = splits_by_scene(names)

    assert Counter(splits.values()) == shares
    assert splits == splits_by_scene(reversed(names))


def test_scenes_may_have_names_that_are_not_unicode():
    assert set(splits_by_scene(["a", os.fsdecode(b"night-\xff")])) == {"a", "night-\udcff"}


def test_a_scene_whose_split_is_given_once_is_of_that_split(photographs: Path):
    rows = ["park/dark_1.dng,park/light.dng,test", "park/dark_2.dng,park/light.dng,"]

    found = pairs_from_csv(write_table(photographs, "short,long,split", *rows))

    assert {pair.split for pair in found.pairs} == {"test"}


def test_a_table_of_sids_pairs_is_read_as_the_same_pairs(tmp_path: Path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), camera_named("sony"), frames="all")
    table = tmp_path / "sony.csv"
    table.write_text(table_text(found.pairs))

    read = pairs_from_csv(table, root=tmp_path)

    assert read.pairs == found.pairs
    assert table_text(read.pairs) == table.read_text()


def test_an_id_and_an_iso_are_written_where_they_do_not_follow(tmp_path: Path):
    root = write_sid(tmp_path / "data", scenes=1, shorts=1)
    (root / "Sony_train_list.txt").write_text(
        "./Sony/short/00001_00_0.1s.ARW ./Sony/long/00001_00_10s.ARW ISO250 F8\n"
    )
    found = find_pairs(root, camera_named("sony"))
    table = tmp_path / "sony.csv"
    table.write_text(table_text(found.pairs))

    assert table.read_text().startswith("short,long,scene,split,ratio,camera,weight,iso\n")
    assert pairs_from_csv(table, root=root).pairs == found.pairs


@given(
    header=st.sampled_from(
        ["", "short,long\n", "short,long,scene,split,ratio,camera,weight,id,iso\n"]
    ),
    data=st.one_of(
        st.binary(max_size=200), st.text(',\n;"a/.0-é\0\r\t', max_size=200).map(str.encode)
    ),
)
def test_whatever_a_table_holds_it_is_read_or_refused(tmp_path_factory, header: str, data: bytes):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(header.encode() + data)

    with pytest.raises(DatasetError):
        pairs_from_csv(path)


def test_a_name_that_is_too_long_for_a_file_is_named(photographs: Path):
    table = write_table(photographs, "short,long", f"{'x' * 5000}.dng,park/light.dng")

    with pytest.raises(DatasetError, match="there is no file"):
        pairs_from_csv(table)
