"""Lists of pairs of any bytes: a pair table, a list file of SID, and folders of any names give pairs or one DatasetError."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.folders import LAYOUTS, find_layout
from darkprep.pipeline.pairs.pair_table import pairs_from_csv, table_text
from darkprep.pipeline.pairs.table import Pairs
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.shards.errors import DatasetError
from fuzz.choices import Choices
from fuzz.memory import new_folder

_HEADING = "short,long,scene,split,ratio,camera,weight\n"
_ROWS = (
    "short/a_1.dng,long/a_10.dng,a,train,100,NIKON D1,1\n",
    "short/b_1.dng,long/b_10.dng,b,test,300,NIKON D1,3\n",
)
_VALUES = (
    "",
    "nan",
    "inf",
    "-1",
    "1e400",
    "9" * 400,
    "val",
    '"',
    "\0",
    "../..",
    "/etc/passwd",
    "x" * 5000,
    "\ud800",
)
_LIST = "./Sony/short/00001_00_0.1s.dng ./Sony/long/00001_00_10s.dng ISO200 F8\n"
_FOLDERS = ("short", "long", "SHORT", "Bayer", "a", "ISO200", "gt", "00001")
_NAMES = ("a_1.dng", "a_10.dng", "00001_00_0.1s.dng", "GT_a.dng", "a_ISO200_1.dng", "a_GT.dng", "9" * 200 + ".dng", ".dng", "a\n.dng")  # fmt: skip


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one list or folder; raise whatever what finds pairs must not raise."""
    choices = Choices(data)
    part = choices.one_of(PARTS)
    try:
        found = _PARSERS[part](choices)
    except DatasetError as error:
        assert len(str(error)) < 5_000, error
        return part, False
    for pair in found.pairs:
        assert "\0" not in pair.short
        json.dumps([pair.ratio, pair.iso], allow_nan=False)
    assert table_text(found.pairs)
    return part, bool(found.pairs)


def _table(choices: Choices) -> Pairs:
    """Try a table in which one value is another."""
    row = choices.one_of(_ROWS).strip().split(",")
    row[choices.below(len(row))] = choices.one_of((*_VALUES, str(choices.value())))
    text = _HEADING + ",".join(row) + "\n" + choices.one_of(_ROWS)
    return _of_table(text.encode("utf-8", "surrogatepass"))


def _table_bytes(choices: Choices) -> Pairs:
    return _of_table(choices.edited((_HEADING + "".join(_ROWS)).encode()))


def _of_table(data: bytes) -> Pairs:
    path = _root() / "pairs.csv"
    path.write_bytes(data)
    return pairs_from_csv(path)


def _list_file(choices: Choices) -> Pairs:
    path = _root() / "Sony_train_list.txt"
    path.write_bytes(choices.edited(_LIST.encode()))
    return find_pairs(_root(), camera_named("sony"))


def _folders(choices: Choices) -> Pairs:
    """Try a few files of one content in folders and under names that layouts use."""
    root = _root() / "tree"
    shutil.rmtree(root, ignore_errors=True)
    for _ in range(2 + choices.below(4)):
        folder = root.joinpath(*(choices.one_of(_FOLDERS) for _ in range(choices.below(3))))
        folder.mkdir(parents=True, exist_ok=True)
        name = choices.one_of(_NAMES)
        if not (folder / name).exists():
            (folder / name).symlink_to(_root() / "good.dng")
    return find_layout(root, choices.one_of(tuple(LAYOUTS)))


_PARSERS: dict[str, Callable[[Choices], Pairs]] = {
    "table": _table,
    "bytes of a table": _table_bytes,
    "list of SID": _list_file,
    "folders": _folders,
}
PARTS = tuple(_PARSERS)


@functools.cache
def _root() -> Path:
    """A folder in memory with the photographs that the lists name."""
    root = new_folder()
    write_dng(root / "good.dng", np.full((32, 32), 600, np.uint16), DngTags(iso=800))
    for name in ("short/a_1", "long/a_10", "short/b_1", "long/b_10", "Sony/short/00001_00_0.1s", "Sony/long/00001_00_10s"):  # fmt: skip
        path = root / f"{name}.dng"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(root / "good.dng")
    return root
