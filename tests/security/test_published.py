"""What leaves the machine names no directory, no boot and no cluster of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from darkprep.jobs.build import BuildOptions, find_own_pairs, prepare_build
from darkprep.jobs.remote_spool import BuildSpool
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.naming import default_ids
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.report.evaluation_page import write_evaluation_report
from darkprep.report.provenance import run_provenance
from darkprep.shards import Cursor, Spool
from darkprep.shards.file_names import published_path
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Holder, _boot_and_namespace, this_machine
from darkprep.shards.remote.url import StoreUrl
from tests.support.fake_store import FakeStore
from tests.support.small_spools import MakeSpool, stream


def test_a_path_is_published_below_the_working_directory_or_by_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    assert published_path(tmp_path / "runs" / "a") == "runs/a"
    assert published_path("/home/someone/photographs") == "photographs"
    assert published_path("data/x") == "data/x"


def test_no_setting_of_this_machine_is_in_a_published_plan(make_spool: MakeSpool):
    plan = make_spool().plan
    settings = ProducerSettings(
        root="/home/someone/data", pairs="/home/someone/p.csv", layout="scenes", budget_bytes=5,
        staging_bytes=2, jobs=3, frames_dir="/fast", frames_budget_bytes=9, backend="dask",
        address="tcp://cluster:1", part=1, parts=2,
    )  # fmt: skip

    published = replace(plan, settings=settings).for_others()

    assert published.digest == plan.digest
    assert published.settings == ProducerSettings(
        layout="scenes", budget_bytes=5, staging_bytes=2, part=1, parts=2
    )


def test_plan_and_cursor_in_a_bucket_name_no_directory_of_the_machine(make_spool: MakeSpool):
    plan, store = make_spool().plan, FakeStore()
    bucket = Bucket(store, "memory://spool")

    bucket.publish(replace(plan, settings=ProducerSettings(root="/home/someone/data", jobs=2)))
    bucket.write_cursor(Cursor(rank=0, world=1, batch=2, shard=1, run="/home/someone/runs/a"))

    assert not any(b"/home" in content for content in store.objects.values())
    cursor = bucket.read_cursor()
    assert cursor is not None
    assert cursor.run == "a"


def test_the_identity_of_the_boot_is_not_in_a_lease():
    raw = _boot_and_namespace()
    assert raw
    assert this_machine() not in ("", raw)
    assert raw.split()[0] not in this_machine()
    record = {"token": "x", "beat": 1, "host": "h", "pid": 1, "started": 1}
    # Leases of the first versions hold it, and are known too.
    for machine in (this_machine(), raw):
        holder = Holder.of(json.dumps(record | {"machine": machine}).encode())
        assert holder is not None
        assert holder.is_on_this_machine


def test_the_command_in_a_report_names_no_directory_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    words = ["--spool", "/home/someone/spool", f"--run={tmp_path}/runs/a", "--loss=m:f", "--resume"]
    monkeypatch.setattr(sys, "argv", ["darkprep", "stream-train", *words])

    spool = Spool(tmp_path / "spool")
    spool.create(PlanRecord(stream=stream(), recipe={}))

    about = run_provenance(spool, torch.device("cpu"))

    assert about["command"] == (
        "darkprep stream-train --spool spool --run=runs/a --loss=m:f --resume"
    )
    assert str(tmp_path) not in json.dumps(about)


def test_the_report_of_an_evaluation_names_no_directory_of_the_machine(
    small_data: Path, tmp_path: Path
):
    pairs = find_pairs(small_data, camera_named("sony"))
    record = {"pairs": 1, "camera": "sony", "psnr": 30.0, "ssim": 0.9, "images": [],
              "protocol": "redirt", "protocol_says": "as REDIRT"}  # fmt: skip

    page = write_evaluation_report(tmp_path, record, pairs=pairs, weights=tmp_path / "w.pt")

    text = page.read_text()
    assert str(small_data.parent) not in text
    assert str(tmp_path) not in text
    assert small_data.name in text


def test_a_table_of_absolute_paths_is_published_with_relative_ones(
    small_data: Path, tmp_path: Path
):
    folder = small_data / "Sony"
    shorts = sorted((folder / "short").glob("0*.dng"))
    longs = {path.name[:5]: path for path in (folder / "long").iterdir()}
    table = tmp_path / "pairs.csv"
    rows = [f"{short},{longs[short.name[:5]]}" for short in shorts]
    table.write_text("\n".join(["short,long", *rows]))
    store = FakeStore()
    target = BuildSpool(
        location=StoreUrl("s3", "bucket", ""), staging=tmp_path, bucket=Bucket(store, "s3://bucket")
    )
    options = BuildOptions(
        origin=PairOrigin(root=Path("data"), table=table),
        plan=PlanOptions(camera="mine", crop=32, margin=4, samples_per_shard=8, crops_per_visit=4),
        target=target,
        executor=ExecutorConfig(),
        disk_budget=60_000_000,
        jobs=1,
    )

    prepared = prepare_build(options, find_own_pairs(options))

    assert str(small_data.parent).encode() not in store.objects["plan.json"]
    assert prepared.plan.root == folder
    assert prepared.plan.pairs[0].pair.short == f"short/{shorts[0].name}"
    assert target.spool.open().settings.root == str(folder)


def test_ids_of_files_of_the_same_name_do_not_have_the_directory_above_all():
    files = [("s", "/home/someone/x/a/1.dng"), ("s", "/home/someone/x/b/1.dng"), ("s", "c/1.dng")]

    assert default_ids(files) == ["a_1.dng", "b_1.dng", "c_1.dng"]
