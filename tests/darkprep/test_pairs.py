"""`darkprep pairs` lists pairs as a table; build, evaluate and the validation during training take it."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from darkprep.jobs.validation import ValidationFrames, validation_pairs
from darkprep.model import build_model
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.shards import Spool
from darkprep.shards.shard_file import ShardFile
from tests.support.command_line import LARGE, SMALL
from tests.support.sid_tree import write_sid

pytestmark = pytest.mark.usefixtures("empty_directory", "quick_networks")


def test_a_camera_and_its_own_table_give_one_plan(call, small_data, small_spool):
    listed = call("pairs", "--camera", "sony", "--root", small_data, "--out", "sony.csv")
    assert "7 pairs of 4 scenes: 6 train, 1 test" in listed.stderr
    assert f"darkprep build --pairs sony.csv --root {small_data}" in listed.stderr

    built = call("build", "--pairs", "sony.csv", "--root", small_data, *SMALL)

    assert built.exit_code == 0
    assert "done: 0 shards made" in built.output
    again = call("pairs", "--pairs", "sony.csv", "--root", small_data)
    assert again.stdout == Path("sony.csv").read_text()


def test_bad_rows_are_named_and_without_a_good_one_nothing_is_built(call, complaint, small_data):
    rows = ["short,long,ratio", "Sony/short/00001_00_0.1s.dng,Sony/long/00001_00_10s.dng,0"]
    Path("bad.csv").write_text("\n".join(rows))

    line = complaint("build", "--pairs", "bad.csv", "--root", small_data, *SMALL)

    assert line.startswith("bad.csv: has no usable row (bad.csv:2: ratio must be above 0")
    assert not Path("spool").exists()


def test_pairs_of_two_sizes_are_named_by_their_row(call, small_data):
    shutil.copytree(small_data, "own")
    write_sid(Path("other"), scenes=1, shorts=1, size=(128, 128))
    shutil.copy("other/Sony/long/00001_00_10s.dng", "own/Sony/long/00001_00_10s.dng")
    call("pairs", "--camera", "sony", "--root", "own", "--out", "own/pairs.csv")

    built = call("build", "--pairs", "own/pairs.csv", *SMALL)

    assert built.exit_code == 0
    assert "skipped pairs.csv:2: own/Sony/short/00001_00_0.04s.dng: is 64x96" in built.stderr
    assert len(Plan.load(Spool("spool").open()).pairs) == 4


def test_training_is_validated_on_the_tables_scenes(call, small_data):
    shutil.copytree(small_data, "own")
    call("pairs", "--camera", "sony", "--root", "own", "--out", "own/mine.csv")
    call("build", "--pairs", "own/mine.csv", "--quiet", *SMALL)

    plan = Plan.load(Spool("spool").open())

    assert plan.options.camera == "mine"
    assert [pair.id for pair in validation_pairs(plan)] == ["10001_00_0.1s"]
    Path("own/mine.csv").unlink()
    spool = json.loads(Path("spool/plan.json").read_text())
    assert spool["place"]["pairs"] == str(Path("own/mine.csv").absolute())


def test_neither_a_camera_nor_a_table_is_bad_usage(complaint):
    assert "Missing option '--camera' (or '--pairs', or '--layout')" in complaint("pairs", status=2)
    assert "'leica' is not one of" in complaint("pairs", "--camera", "leica", status=2)


def test_a_table_states_its_frames_itself(call, complaint, small_data):
    call("pairs", "--camera", "sony", "--root", small_data, "--out", "sony.csv")

    line = complaint("build", "--pairs", "sony.csv", "--root", small_data, "--frames", "all")

    assert line.startswith(
        "frames and exclude-misaligned can be used only with a camera of SID or ELD"
    )


def test_a_plan_of_a_layout_is_built_and_validated_in_it(call, small_data):
    for number in range(3):
        for kind, seconds in (("short", "0.1"), ("long", "10")):
            Path("mine", kind).mkdir(parents=True, exist_ok=True)
            source = small_data / "Sony" / kind / f"0000{number + 1}_00_{seconds}s.dng"
            shutil.copy(source, Path("mine", kind, f"photo{number}.dng"))
    layout = ("--layout", "short-long", "--root", "mine")

    built = call("build", *layout, *SMALL)
    listed = call("pairs", *layout, "--out", "mine/pairs.csv")
    again = call("build", "--pairs", "mine/pairs.csv", "--camera", "mine", *SMALL)

    assert built.output.startswith("mine: 2 pairs of 2 scenes")
    assert "--root" not in listed.stderr
    assert "done: 0 shards made" in again.output
    plan = Plan.load(Spool("spool").open())
    (validation,) = validation_pairs(plan)
    assert validation.scene not in {one.pair.scene for one in plan.pairs}


def test_a_table_and_a_layout_cannot_be_used_together(complaint):
    line = complaint("build", "--pairs", "a.csv", "--layout", "scenes", status=2)

    assert line.startswith("--pairs and --layout cannot be used together")


def _write_camera(folder: Path, model: str, phase: str, black: int, white: int) -> None:
    """Three scenes of a camera, each with a short and a long exposure of 64 x 96 pixels."""
    for scene in range(3):
        light = np.random.default_rng(scene).uniform(0, 1, (64, 96))
        for kind, seconds in (("short", 0.1), ("long", 10.0)):
            codes = np.rint(black + light * seconds / 10 * (white - black)).astype(np.uint16)
            tags = DngTags(
                cfa=BAYER[phase], black=(black,), white=white, model=model, exposure_s=seconds
            )
            path = folder / kind / f"{model}{scene}.dng"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_dng(path, codes, tags)


def test_two_cameras_in_one_plan_are_mixed_by_weight_whatever_the_number_of_workers(call):
    _write_camera(Path("photos/one"), "One", "RGGB", 512, 16383)
    _write_camera(Path("photos/two"), "Two", "GBRG", 64, 1023)
    table = call("pairs", "--layout", "short-long", "--root", "photos").stdout
    rows = [re.sub(",(test|val),", ",train,", row) for row in table.splitlines()]
    rows = [row.replace("darkprep Two,1", "darkprep Two,3") for row in rows]
    Path("mixed.csv").write_text("\n".join(rows))

    shards = []
    for jobs in (1, 2):
        path = Path(f"spool-{jobs}")
        words = ("--pairs", "mixed.csv", "--root", "photos", "--spool", path, "--epochs", "2")
        result = call("build", *words, "--quiet", *SMALL[:-1], jobs)
        assert (result.exit_code, result.output) == (0, "")
        shards.append([shard.read_bytes() for shard in sorted(path.glob("ready/*.tar"))])

    assert shards[0] == shards[1]
    spool = Spool("spool-1").open()
    opened = [
        ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)
        for shard in spool.ready_shards()
    ]
    metas = [meta for one in opened for meta in one.metas]
    for one in opened:
        one.close()
    assert Counter(meta.camera for meta in metas) == {"darkprep One": 24, "darkprep Two": 72}
    assert {(meta.camera, meta.black[0], meta.white) for meta in metas} == {
        ("darkprep One", 512.0, 16383),
        ("darkprep Two", 64.0, 1023),
    }


def test_a_validation_pair_of_another_kind_of_mosaic_is_left_out(call, large_data, caplog):
    call("build", "--camera", "sony", "--root", large_data, "--quiet", *LARGE)
    plan = replace(Plan.load(Spool("spool").open()), cfa="xtrans")
    frames = ValidationFrames(plan, Path("run"), torch.device("cpu"))

    frames.start()
    found = frames.evaluate(build_model("redirt-2rdb"), 1)

    assert found == {}
    assert "has the CFA bayer, but the samples of the plan have xtrans" in caplog.text
