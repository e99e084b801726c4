"""Splits are chosen by name, and fractions are drawn by scene."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.table import SPLITS, Pair, Split, draw_fraction
from darkprep.shards.errors import DatasetError, OptionError
from tests.support.sid_tree import SID_NAMES, touch_sid

SONY, CANON = CAMERAS["sony"], CAMERAS["canon70d"]


def test_of_split_says_which_splits_there_are(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES[:4]), SONY)

    with pytest.raises(
        DatasetError, match="no val pairs of sony, only train; choose one with --split"
    ):
        found.of_split("val")


def test_val_and_test_can_be_taken_together(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), SONY)

    assert [pair.split for pair in found.of_split("val+test").pairs] == ["test", "val"]


@pytest.mark.parametrize("split", ["dev", "train+test", "", "val+test+"])
def test_an_unknown_split_lists_all(tmp_path, split):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), SONY)

    with pytest.raises(OptionError, match=r"split must be one of train, val, test, val\+test, not"):
        found.of_split(split)


def test_an_unknown_camera_lists_all():
    with pytest.raises(OptionError, match="sony, fuji, sonya7s2, nikond850"):
        camera_named("leica")
    assert camera_named("Canon70D") is CANON


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


def test_a_fraction_is_seeded_and_independent_of_order():
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


def test_pairs_are_values(tmp_path):
    found = find_pairs(touch_sid(tmp_path, *SID_NAMES), SONY)

    assert replace(found.pairs[0]) == found.pairs[0]
