"""Pairs belong to the groups that papers report."""

from __future__ import annotations

from collections import Counter

import pytest

from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.groups import ELD_SID_SCENES, report_groups
from darkprep.pipeline.pairs.table import Pair
from tests.support.sid_tree import touch_sid

SONY = CAMERAS["sony"]


def test_elds_figure_of_sid_is_of_fifteen_scenes_at_each_ratio(tmp_path):
    """Ten of the scenes are of test and five of val, and ELD reports the ratios apart."""
    for scene in (*ELD_SID_SCENES, "10003", "20193"):
        shorts = (f"short/{scene}_00_{seconds}s" for seconds in ("0.1", "0.04", "0.033"))
        touch_sid(tmp_path, *shorts, f"long/{scene}_00_10s")

    pairs = find_pairs(tmp_path, SONY).of_split("val+test").pairs

    counts = Counter(group for pair in pairs for group in report_groups(pair) if "ELD" in group)
    assert counts == {f"ELD's indoor scenes x{ratio}": 15 for ratio in (100, 250, 300)}


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

    assert report_groups(one) == groups
