"""Where pairs come from: a camera's data set, a table or a layout of folders, and one of them only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.shards import OptionError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"table": Path("pairs.csv"), "layout": "scenes"}, "not from both; give only one of them"),
        ({}, "camera must be one of sony, fuji, .* unless pairs come from a table or a layout"),
        ({"layout": "folders"}, "layout must be one of short-long, scenes, rawnind, not 'folders'"),
    ],
)
def test_pairs_have_one_origin(tmp_path: Path, wrong: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        PairOrigin(root=tmp_path, **{"camera": None, **wrong})
