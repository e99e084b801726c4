"""Pairs come from names, lists and Exif alone; what gives no pair is named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkprep.pipeline.pairs.table import (
    CAMERAS,
    ELD_SID_SCENES,
    SPLITS,
    Pair,
    Split,
    camera_named,
    draw_fraction,
    find_longs,
    find_pairs,
    reported_in,
)
from darkprep.shards.errors import DatasetError, OptionError

SONY, FUJI, CANON = CAMERAS["sony"], CAMERAS["fuji"], CAMERAS["canon70d"]


def sid(root: Path, *names: str, folder: str = "Sony", extension: str = ".ARW") -> Path:
    """Lays down empty files, `short/NAME` and `long/NAME`: SID's pairs are found by name alone."""
    for kind in ("short", "long"):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / f"{name}{extension}").touch()
    return root


SCENES = (
    "short/00001_00_0.1s",
    "short/00001_01_0.1s",
    "short/00001_00_0.04s",
    "long/00001_00_10s",
    "short/10003_00_0.033s",
    "long/10003_00_10s",
    "short/20211_00_0.1s",
    "long/20211_00_30s",
)


def test_scanning_pairs_by_scene(tmp_path):
    found = find_pairs(sid(tmp_path, *SCENES), SONY)

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
    found = find_pairs(sid(tmp_path, *SCENES), SONY, frames="all")

    assert "00001_01_0.1s" in {pair.id for pair in found.pairs}


@pytest.mark.parametrize("extension", [".ARW", ".arw", ".dng", ".DNG"])
def test_extensions_are_taken_in_any_case(tmp_path, extension):
    assert len(find_pairs(sid(tmp_path, *SCENES, extension=extension), SONY).pairs) == 4


def test_fuji_has_its_own_folder_and_extension(tmp_path):
    sid(tmp_path, *SCENES)
    sid(tmp_path, *SCENES[:4], folder="Fuji", extension=".RAF")

    assert {pair.short.split("/")[0] for pair in find_pairs(tmp_path, FUJI).pairs} == {"Fuji"}


def test_the_root_may_be_the_repository_or_the_cameras_folder(tmp_path):
    sid(tmp_path / "dataset", *SCENES)

    roots = (tmp_path, tmp_path / "dataset", tmp_path / "dataset" / "Sony")
    found = [find_pairs(root, SONY) for root in roots]

    assert len({tuple(pair.id for pair in one.pairs) for one in found}) == 1
    assert all((one.root / pair.short).is_file() for one in found for pair in one.pairs)


def test_a_short_without_its_long_is_named(tmp_path):
    found = find_pairs(sid(tmp_path, *SCENES, "short/00099_00_0.1s"), SONY)

    assert len(found.pairs) == 4
    (skipped,) = found.skipped
    assert skipped.path == "Sony/short/00099_00_0.1s.ARW"
    assert "no long exposure" in skipped.why


def test_odd_names_are_named_and_foreign_files_ignored(tmp_path):
    sid(
        tmp_path,
        *SCENES,
        "short/copy of 00001_00_0.1s",
        "short/90001_00_0.1s",
        "short/._00001_00_0.1s",
    )
    (tmp_path / "Sony/short/readme.txt").touch()
    (tmp_path / "Sony/short/00001_00_0.1s.jpg").touch()

    found = find_pairs(tmp_path, SONY)

    assert len(found.pairs) == 4
    assert len(found.skipped) == 2
    assert all("its name is not" in one.why for one in found.skipped)


def test_of_two_formats_the_cameras_own_is_used(tmp_path):
    sid(tmp_path, *SCENES, extension=".DNG")
    sid(tmp_path, SCENES[0])

    found = find_pairs(tmp_path, SONY)

    assert len(found.pairs) == 4
    assert "Sony/short/00001_00_0.1s.ARW" in {pair.short for pair in found.pairs}
    assert [one.path for one in found.skipped] == ["Sony/short/00001_00_0.1s.DNG"]


def test_of_two_long_exposures_the_longest_first_frame_is_used(tmp_path):
    sid(tmp_path, *SCENES, "long/00001_00_30s", "long/00001_01_60s")

    pair = find_pairs(tmp_path, SONY).pairs[0]

    assert pair.long == "Sony/long/00001_00_30s.ARW"


def test_misaligned_scenes_are_left_out_on_request(tmp_path):
    sid(tmp_path, *SCENES, "short/10034_00_0.1s", "long/10034_00_10s")

    assert len(find_pairs(tmp_path, SONY).pairs) == 5
    assert len(find_pairs(tmp_path, SONY, exclude_misaligned=True).pairs) == 4


def test_fujis_scenes_of_the_same_numbers_are_left_in(tmp_path):
    """Scene numbers of SID's two cameras are unrelated; the misaligned ones are Sony's."""
    sid(tmp_path, "short/10172_00_0.1s", "long/10172_00_10s", folder="Fuji", extension=".RAF")

    assert len(find_pairs(tmp_path, FUJI, exclude_misaligned=True).pairs) == 1
    assert len(find_longs(tmp_path, FUJI, exclude_misaligned=True).pairs) == 1


def write_list(root: Path, split: str, *lines: str, folder: str = "Sony") -> None:
    (root / f"{folder}_{split}_list.txt").write_text("".join(f"{line}\n" for line in lines))


def line(short: str, long: str, rest: str = "ISO200 F9", extension: str = "ARW") -> str:
    return f"./Sony/short/{short}.{extension} ./Sony/long/{long}.{extension} {rest}"


def test_a_list_file_says_what_its_split_is(tmp_path):
    sid(tmp_path, *SCENES)
    write_list(tmp_path, "train", line("00001_00_0.1s", "00001_00_10s"), "")

    found = find_pairs(tmp_path, SONY)

    train = [pair for pair in found.pairs if pair.split == "train"]
    assert [(pair.id, pair.iso, pair.ratio) for pair in train] == [("00001_00_0.1s", 200, 100)]
    assert Counter(pair.split for pair in found.pairs) == {"train": 1, "test": 1, "val": 1}


def test_a_list_may_deal_scenes_to_another_split(tmp_path):
    sid(tmp_path, *SCENES)
    write_list(tmp_path, "train", line("20211_00_0.1s", "20211_00_30s"))

    found = find_pairs(tmp_path, SONY)

    assert {pair.id: pair.split for pair in found.pairs}["20211_00_0.1s"] == "train"
    assert len({pair.id for pair in found.pairs}) == len(found.pairs)


@pytest.mark.parametrize("frames", ["first", "all"])
def test_the_list_is_filtered_by_frame_before_files_are_missed(tmp_path, frames):
    sid(tmp_path, SCENES[0], SCENES[3])
    lines = [line(f"00001_{n:02}_0.1s", "00001_00_10s") for n in range(3)]
    write_list(tmp_path, "train", *lines)

    found = find_pairs(tmp_path, SONY, frames=frames)

    assert [pair.id for pair in found.pairs] == ["00001_00_0.1s"]
    assert len(found.skipped) == (0 if frames == "first" else 2)


def test_listed_files_are_found_under_another_extension(tmp_path):
    sid(tmp_path, *SCENES, extension=".dng")
    write_list(tmp_path, "train", line("00001_00_0.1s", "00001_00_10s"))

    train = find_pairs(tmp_path, SONY).of_split("train")

    assert [pair.short for pair in train.pairs] == ["Sony/short/00001_00_0.1s.dng"]


def test_listed_files_that_are_missing_are_named(tmp_path):
    sid(tmp_path, *SCENES)
    (tmp_path / "Sony/long/00001_00_10s.ARW").unlink()
    write_list(
        tmp_path,
        "train",
        line("00001_00_0.1s", "00001_00_10s"),
        line("00002_00_0.1s", "00002_00_10s"),
        line("00001_00_0.04s", "10003_00_10s"),
    )

    found = find_pairs(tmp_path, SONY)

    assert {one.path: one.why.split()[0] for one in found.skipped} == {
        "Sony/short/00001_00_0.1s.ARW": "its",
        "./Sony/short/00002_00_0.1s.ARW": "Sony_train_list.txt",
        "Sony/short/00001_00_0.04s.ARW": "Sony_train_list.txt",
    }


@pytest.mark.parametrize("bad", ["garbage", "./Sony/short/00001_00_0.1s.ARW", "a b ISO100 F8"])
def test_a_broken_list_is_named_with_its_line(tmp_path, bad):
    sid(tmp_path, *SCENES)
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
def test_a_root_without_the_cameras_folder_says_what_was_sought(tmp_path, camera):
    with pytest.raises(DatasetError, match=CAMERAS[camera].folder):
        find_pairs(tmp_path, CAMERAS[camera])


def test_folders_without_pairs_are_named_with_a_reason(tmp_path):
    with pytest.raises(DatasetError, match=r"no pairs of sony; Sony/short/00099.*no long exposure"):
        find_pairs(sid(tmp_path, "short/00099_00_0.1s"), SONY)


def test_of_split_says_which_splits_there_are(tmp_path):
    found = find_pairs(sid(tmp_path, *SCENES[:4]), SONY)

    with pytest.raises(DatasetError, match="no val pairs of sony; there are train ones"):
        found.of_split("val")


def test_val_and_test_can_be_taken_together(tmp_path):
    found = find_pairs(sid(tmp_path, *SCENES), SONY)

    assert [pair.split for pair in found.of_split("val+test").pairs] == ["test", "val"]


@pytest.mark.parametrize("split", ["dev", "train+test", "", "val+test+"])
def test_an_unknown_split_lists_all(tmp_path, split):
    found = find_pairs(sid(tmp_path, *SCENES), SONY)

    with pytest.raises(OptionError, match=r"split must be one of train, val, test, val\+test, not"):
        found.of_split(split)


def test_elds_figure_of_sid_is_of_fifteen_scenes_at_each_ratio(tmp_path):
    """Ten of the scenes are of test and five of val, and ELD reports the ratios apart."""
    for scene in (*ELD_SID_SCENES, "10003", "20193"):
        shorts = (f"short/{scene}_00_{seconds}s" for seconds in ("0.1", "0.04", "0.033"))
        sid(tmp_path, *shorts, f"long/{scene}_00_10s")

    pairs = find_pairs(tmp_path, SONY).of_split("val+test").pairs

    counts = Counter(group for pair in pairs for group in reported_in(pair) if "ELD" in group)
    assert counts == {f"ELD's indoor scenes x{ratio}": 15 for ratio in (100, 250, 300)}


def test_an_unknown_camera_lists_all():
    with pytest.raises(OptionError, match="sony, fuji, sonya7s2, nikond850"):
        camera_named("leica")
    assert camera_named("Canon70D") is CANON


@given(st.permutations(SCENES))
def test_the_order_of_listing_changes_nothing(tmp_path_factory, names):
    found = find_pairs(sid(tmp_path_factory.mktemp("sid"), *names), SONY, frames="all")

    assert [pair.id for pair in found.pairs] == sorted(pair.id for pair in found.pairs)
    assert len(found.pairs) == 5


def pair(scene: str, split: Split, frame: int) -> Pair:
    return Pair(
        id=f"{scene}_{frame}",
        scene=scene,
        camera="sony",
        split=split,
        short="",
        long="",
        ratio=1,
        iso=0,
    )


MANY = [
    pair(f"{n:05}", split, frame) for split in SPLITS[:2] for n in range(40) for frame in (0, 1)
]


def scenes(pairs: Sequence[Pair]) -> set[tuple[str, str]]:
    return {(one.split, one.scene) for one in pairs}


def test_a_fraction_draws_whole_scenes_of_each_split():
    drawn = draw_fraction(MANY, 0.2, seed=0)

    assert Counter(split for split, _ in scenes(drawn)) == {"train": 8, "val": 8}
    assert len(drawn) == 32


def test_a_fraction_is_seeded_and_blind_to_order():
    shuffled = random.Random(1).sample(MANY, len(MANY))

    drawn = draw_fraction(MANY, 0.2, seed=0)

    assert scenes(draw_fraction(shuffled, 0.2, seed=0)) == scenes(drawn)
    assert scenes(draw_fraction(MANY, 0.2, seed=1)) != scenes(drawn)
    train = [one for one in MANY if one.split == "train"]
    assert draw_fraction(train, 0.2, 0) == tuple(one for one in drawn if one.split == "train")


def test_a_smaller_fraction_is_part_of_a_larger():
    assert scenes(draw_fraction(MANY, 0.1, 3)) < scenes(draw_fraction(MANY, 0.5, 3)) < scenes(MANY)


def test_the_smallest_fraction_draws_one_scene_and_the_whole_all():
    assert len(scenes(draw_fraction(MANY[:80], 1e-9, 0))) == 1
    assert draw_fraction(MANY, 1, 0) == tuple(MANY)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(OptionError, match="fraction"):
        draw_fraction(MANY, fraction, 0)


def eld(write_raw: Callable[..., Path], scene: int = 1, ids: Iterable[int] = range(1, 17)) -> Path:
    """Writes an ELD scene: four references at ISO 100, and 12 images at 3 ISO and 4 factors."""
    for number in ids:
        group, place = divmod(number - 1, 5)
        iso, factor = (100, 1) if place == 0 else (800 << group, (1, 10, 100, 200)[place - 1])
        said = {"iso": iso, "exposure_s": 2.0 * 100 / iso / factor, "make": "Canon"}
        name = f"CanonEOS70D/scene-{scene}/IMG_{number:04}.dng"
        path = write_raw(name, size=(16, 16), **said)
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

    for place in (tmp_path, tmp_path / "ELD", tmp_path / "ELD" / "CanonEOS70D"):
        found = find_pairs(place, CANON)
        assert all((place / one.short).is_file() for one in found.pairs)


@pytest.mark.parametrize("ids", [range(1, 16), range(1, 18), [*range(1, 16), 20]])
def test_an_eld_scene_of_other_files_is_named_and_left_out(write_raw, ids):
    eld(write_raw, scene=2)
    root = eld(write_raw, scene=5, ids=ids)

    found = find_pairs(root, CANON)

    assert {one.scene for one in found.pairs} == {"scene-2"}
    assert [(one.path, one.why) for one in found.skipped] == [
        ("CanonEOS70D/scene-5", f"holds {len(ids)} RAW files, not IMG_0001 to IMG_0016")
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
    assert {one.path[-8:-4]: one.why.split(" states")[0] for one in found.skipped} == {
        "0004": "states no exposure time or no ISO in its Exif data",
        "0009": "its reference IMG_0011.dng",
        "0010": "its reference IMG_0011.dng",
    }


def test_pairs_are_values(tmp_path):
    found = find_pairs(sid(tmp_path, *SCENES), SONY)

    assert replace(found.pairs[0]) == found.pairs[0]


@pytest.mark.parametrize(
    ("camera", "pair", "scene", "ratio", "groups"),
    [
        ("sony", "10003_00_0.04s", "10003", 250.0, ("x250", "without misaligned scenes")),
        ("sony", "10034_00_0.1s", "10034", 300.0, ("x300",)),
        (
            "sony",
            "20211_00_0.1s",
            "20211",
            100.0,
            ("x100", "without misaligned scenes", "ELD's indoor scenes x100"),
        ),
        ("fuji", "10185_00_0.1s", "10185", 100.0, ("x100",)),
        ("fuji", "10172_00_0.033s", "10172", 300.0, ("x300",)),
        ("canon70d", "scene-3_IMG_0005", "scene-3", 213.33, ("x200",)),
        ("nikond850", "scene-10_IMG_0014", "scene-10", 100.0, ("x100",)),
    ],
)
def test_a_pair_is_reported_as_papers_report_it(camera, pair, scene, ratio, groups):
    one = Pair(
        id=pair, scene=scene, camera=camera, split="test", short="s", long="l", ratio=ratio, iso=100
    )

    assert reported_in(one) == groups
