from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.plan.planner import make_plan
from darkprep.shards import PlanError, Spool
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.rng import permutation
from tests.support.sid_tree import write_sid

SMALL = {"camera": "sony", "crop": 32, "margin": 4, "samples_per_shard": 8, "crops_per_visit": 4}


def options(**changes: object) -> PlanOptions:
    return PlanOptions(**{**SMALL, **changes})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(write_sid(tmp_path / "data"), options())


def visit_of_each(plan: Plan, count: int) -> list[str]:
    return [next(plan.candidates(visit)).pair.id for visit in range(count)]


def test_each_epoch_visits_every_pair_once_in_a_fresh_order(plan: Plan):
    visits = visit_of_each(plan, 12)

    assert (
        Counter(visits[:6]) == Counter(visits[6:]) == Counter(pair.pair.id for pair in plan.pairs)
    )
    assert visits[:6] != visits[6:]


def test_an_epoch_is_put_in_order_once_however_many_pairs_it_visits(plan: Plan, monkeypatch):
    drawn = []

    def counted(count: int, seed: int, *key: int) -> object:
        drawn.append(key)
        return permutation(count, seed, *key)

    monkeypatch.setattr("darkprep.pipeline.plan.plan.permutation", counted)
    visit_of_each(replace(plan, options=options(seed=4321)), 12)

    assert len(drawn) == 2


def test_a_shard_deals_all_its_slots_to_its_visits(plan: Plan):
    visits = list(plan.visits(5))

    assert [visit.number for visit in visits] == [10, 11]
    assert sorted(slot for visit in visits for slot in visit.slots) == list(range(8))


def test_crops_lie_inside_the_frame_on_the_lattice_of_the_cfa(plan: Plan):
    origins = []
    for number in range(200):
        visit = next(iter(plan.visits(number)))
        origins += [crop.origin for crop in plan.crops(visit, plan.pairs[0])]

    rows, columns = np.array(origins).T
    assert {int(n) % 2 for n in [*rows, *columns]} == {0}
    assert (rows.min(), rows.max()) == (0, 64 - 36)
    assert (columns.min(), columns.max()) == (0, 96 - 36)


def test_a_plan_comes_back_from_its_spool(plan: Plan, tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    plan.save(spool)

    assert Plan.load(Spool(spool.path)) == plan


def test_substitutes_are_all_the_other_pairs(plan: Plan):
    candidates = [pair.pair.id for pair in plan.candidates(3)]

    assert len(candidates) == len(set(candidates)) == 6


@pytest.mark.parametrize(("epochs", "shards"), [(1, 3), (2, 6), (5, 15), (None, None)])
def test_epochs_say_how_many_shards_there_are(
    epochs: int | None, shards: int | None, tmp_path: Path
):
    assert make_plan(write_sid(tmp_path / "data"), options(epochs=epochs)).shards == shards


def test_an_inconsistent_plan_is_refused(plan: Plan, tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    recipe = plan.recipe()
    recipe["options"]["crop"] = 30
    spool.create(
        PlanRecord(stream=plan.stream, recipe=recipe, settings=ProducerSettings(root="data"))
    )

    with pytest.raises(PlanError, match="contradict each other"):
        Plan.load(spool)


@pytest.mark.parametrize(
    "change",
    [{"gain": 10**400}, {"gain": "1"}, {"read_shape": 0.9}, {"colour_bias": [0, 0]}, {"x": 1}],
)
def test_a_plan_with_invalid_measured_noise_is_refused(plan: Plan, tmp_path: Path, change):
    table = calibration_of("sony")
    assert isinstance(table, IsoTable)
    made = replace(plan, options=replace(plan.options, noise="measured", measured_noise=table))
    recipe = json.loads(json.dumps(made.recipe()))
    assert PlanOptions.from_record(recipe["options"]) == made.options
    recipe["options"]["measured_noise"]["modes"][0][0]["parameters"] |= change
    spool = Spool(tmp_path / "spool")
    spool.create(
        PlanRecord(stream=plan.stream, recipe=recipe, settings=ProducerSettings(root="data"))
    )

    with pytest.raises(PlanError, match="is invalid"):
        Plan.load(spool)


def test_a_plan_whose_dark_shading_is_elsewhere_is_read_and_says_so_when_it_is_needed(
    plan: Plan, tmp_path: Path
):
    spool = Spool(tmp_path / "spool")
    replace(plan, options=replace(plan.options, dark_shading="0" * 16)).save(spool)

    loaded = Plan.load(spool)

    with pytest.raises(PlanError, match="which file holds the dark shading"):
        _ = loaded.correction


def test_options_that_are_not_used_leave_the_recipe_as_it_was(plan: Plan):
    """A plan made before they existed has the same digest, and goes on."""
    assert not {"form", "noise", "lmdb"} & set(plan.recipe()["options"])
    noisy = make_plan(plan.root, options(noise="sony"))
    assert noisy.recipe()["options"]["noise"] == "sony"
    assert noisy.recipe()["options"]["noise_edition"] == 2


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "13e8a8ed2ffb25a0"),
        ({"amplify": "120", "xtrans": "rggb"}, "9d4eb09bccc50e21"),
        ({"noise": "sony", "noise_edition": 1}, "eaec1899b2e3c4bc"),
    ],
)
def test_a_recipe_keeps_the_option_names_and_the_digest_of_older_plans(changes, digest, tmp_path):
    pair = Pair(
        id="00001_00_0.1s", scene="00001", camera="fuji", split="train", ratio=100.0, iso=800.0,
        short="Fuji/short/00001_00_0.1s.RAF", long="Fuji/long/00001_00_10s.RAF",
    )  # fmt: skip
    planned = PlannedPair(
        pair=pair, height=4032, width=6030, short_fingerprint="1-a", long_fingerprint="1-b"
    )
    made = Plan(
        options=PlanOptions(camera="fuji", **changes),
        pairs=(planned,),
        cfa="bayer" if "xtrans" in changes else "xtrans",
        root=tmp_path.absolute(),
    )
    spool = Spool(tmp_path / "spool")

    made.save(spool)

    assert spool.digest == digest
    assert Plan.load(spool) == made
    assert spool.plan.recipe["options"]["gain"] == made.options.amplify
    assert spool.plan.recipe["options"].get("form", "native") == made.options.xtrans


def test_an_epoch_visits_each_pair_as_often_as_its_weight(plan: Plan):
    weights = (3, 1, 1, 2, 1, 1)
    weighted = replace(
        plan,
        pairs=tuple(
            replace(one, pair=replace(one.pair, weight=weight))
            for one, weight in zip(plan.pairs, weights, strict=True)
        ),
    )

    visited = [next(weighted.candidates(visit)) for visit in range(2 * sum(weights))]

    assert weighted.visits_per_epoch == sum(weights)
    for epoch in (visited[: sum(weights)], visited[sum(weights) :]):
        assert [epoch.count(one) for one in weighted.pairs] == list(weights)
    assert visited[: sum(weights)] != visited[sum(weights) :]
    assert weighted.shards == 5  # 9 visits of 4 crops, 8 samples a shard


def test_a_weight_of_one_is_not_written_into_the_recipe(plan: Plan):
    record = plan.pairs[0].to_record()
    heavy = replace(plan.pairs[0], pair=replace(plan.pairs[0].pair, weight=2)).to_record()

    assert "weight" not in record["pair"]
    assert heavy["pair"] == record["pair"] | {"weight": 2}
    assert PlannedPair.from_record(heavy).pair.weight == 2
