"""The trainer on a real spool: used shards are deleted, and a stopped run resumes at the exact sample."""

from __future__ import annotations

import json
import threading

import pytest

from darkprep.shards import Sample, Spool, SpoolReader, StreamSpec, write_shard
from darkprep.shards.plan_record import PlanRecord
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.loop import train

pytestmark = pytest.mark.usefixtures("quick_networks")

SHARDS, SAMPLES = 4, 4


@pytest.fixture
def make_spool(tmp_path, make_reader, make_meta):
    def make(name: str) -> Spool:
        spec = StreamSpec(
            camera="sony",
            cfa="bayer",
            height=196,
            width=196,
            crop=192,
            samples=SAMPLES,
            window=2,
            shards=SHARDS,
            seed=3,
        )
        spool = Spool(tmp_path / name)
        spool.create(PlanRecord(stream=spec, recipe={}))
        reader = make_reader(batch_size=SAMPLES)
        for shard in range(SHARDS):
            batch = next(reader)
            samples = [
                Sample(batch.low[n], batch.gt[n], make_meta(f"{shard:08d}-{n:04d}"))
                for n in range(SAMPLES)
            ]
            write_shard(
                spool.shard_path(shard),
                spec.layout(),
                shard,
                samples,
                plan=spool.digest,
                partial=spool.partial,
            )
        return spool

    return make


def opener(spool: Spool, config: TrainConfig):
    return lambda start, allocate: SpoolReader(
        spool,
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
        stop_after=config.iterations,
        shards=SHARDS,
        reuse=config.reuse,
        allocate=allocate,
        drop_last=True,
        close_at_end=False,
    )


def config_for(spool: Spool, **changes) -> TrainConfig:
    return TrainConfig(
        model="redirt-2rdb",
        crop=192,
        batch_size=2,
        log_every=1,
        plan=spool.digest,
        camera="sony",
        **changes,
    )


def losses_in(run_dir) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_every_shard_is_used_and_deleted(tmp_path, make_spool):
    spool = make_spool("spool")
    config = config_for(spool, iterations=SHARDS * SAMPLES // 2)

    summary = train(config, opener(spool, config), tmp_path / "run")

    assert summary.ended == "finished"
    assert summary.samples == SHARDS * SAMPLES
    assert summary.shards_deleted == SHARDS
    assert summary.damaged_shards == 0
    assert spool.ready_shards() == []


def test_a_stopped_run_resumes_at_the_exact_sample(tmp_path, make_spool):
    whole, cut = make_spool("whole"), make_spool("cut")
    config = config_for(whole, iterations=12, reuse=2)
    train(config, opener(whole, config), tmp_path / "run")
    stop = threading.Event()

    train(
        config,
        opener(cut, config),
        tmp_path / "cut-run",
        stop=stop,
        on_step=lambda report: stop.set() if report.iteration == 5 else None,
    )
    train(config, opener(cut, config), tmp_path / "cut-run", resume=True)

    assert losses_in(tmp_path / "cut-run") == losses_in(tmp_path / "run")
