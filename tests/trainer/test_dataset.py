"""SpoolDataset yields what the trainer trains on, in memory of its own, and continues at the exact batch."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from darkprep.shards import OptionError, Spool, SpoolBusy, SpoolError, SpoolReader
from darkprep.shards.errors import RankStopped
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.trainer import SpoolDataset, augment_batch, decode_batch
from darkprep.trainer.dataset import _openings, open_after_rank_0
from darkprep.trainer.shot_noise import ShotNoiseAugmentation
from darkprep.trainer.stream import DeviceStream
from tests.support.command_line import snapshot
from tests.support.sequences import hashed
from tests.support.small_spools import MakeSpool, fill, stream

CPU = torch.device("cpu")
LEVELS = ("black", "white", "amplification", "gt_black", "gt_white")


@pytest.fixture
def spool(make_spool: MakeSpool) -> Spool:
    return make_spool(ready=range(6))


def trained_on(spool: Spool, *, augment="cfa", seed=0, rank=0, world=1, **options):
    """What the trainer's own path makes of a pass over the spool, hashed."""
    options = {"batch_size": 4, "keep": True, "shards": spool.stream.shards} | options
    with SpoolReader(spool, seed=seed, rank=rank, world=world, **options) as reader:
        stream = DeviceStream(reader, CPU, cfa="bayer", crop=12, augment=augment, seed=seed)
        return [hashed(batch.index, batch.keys, batch.low, batch.gt) for batch in stream]


def seen(batches) -> list[tuple[int, list[str], str]]:
    """What a loop has been given, hashed after its end: so later batches must leave earlier ones alone."""
    return [hashed(one["index"], one["key"], one["low"], one["gt"]) for one in list(batches)]


@pytest.mark.parametrize("augment", ["cfa", "paper", "none"])
def test_a_pass_is_what_the_trainer_trains_on_and_owns_its_memory(spool, augment):
    dataset = SpoolDataset(spool, batch_size=4, keep=True, augment=augment, seed=3)

    assert seen(dataset) == trained_on(spool, augment=augment, seed=3)


def test_codes_are_those_of_the_reader_and_own_their_memory(spool):
    with SpoolReader(spool, batch_size=5, read_only=True) as reader:
        wanted = [
            hashed(one.index, [m.key for m in one.metas], one.low.copy(), one.gt.copy())
            for one in reader
        ]

    assert seen(SpoolDataset(spool, batch_size=5, read_only=True, decode=False)) == wanted


def test_decoding_and_augmenting_the_codes_gives_the_decoded_batches(spool):
    options = {"batch_size": 4, "keep": True, "seed": 2, "reuse": 2}
    decoded = list(SpoolDataset(spool, **options))

    for batch, wanted in zip(SpoolDataset(spool, decode=False, **options), decoded, strict=True):
        levels = {name: value for name, value in batch.items() if name in LEVELS}
        low, gt = decode_batch(batch["low"], batch["gt"], **levels)
        low, gt = augment_batch(low, gt, batch["key"], batch["use"], crop=12, seed=2)
        assert torch.equal(low, wanted["low"])
        assert torch.equal(gt, wanted["gt"])


def test_what_is_known_about_the_samples_comes_with_them(spool):
    batch = next(iter(SpoolDataset(spool, batch_size=3, keep=True, decode=False)))

    assert batch["low"].dtype == batch["gt"].dtype == torch.uint16
    assert batch["low"].shape == (3, 4, 6, 8)
    assert batch["gt"].shape == (3, 3, 12, 16)
    assert batch["black"].tolist() == [[512.0] * 4] * 3
    assert batch["white"].tolist() == [16383.0] * 3
    assert batch["amplification"].tolist() == batch["ratio"].tolist() == [100.0] * 3
    assert batch["use"].tolist() == [0, 0, 0]
    assert batch["camera"] == ["sony"] * 3
    assert all(name.startswith("0000") for name in batch["pair"])


def test_planes_as_truth_are_decoded_augmented_and_lit_as_the_trainer_does_it(make_spool):
    spool = make_spool(ready=range(6), target="raw")
    options = {"batch_size": 4, "keep": True, "seed": 4}
    light = ShotNoiseAugmentation(most=2.0, full_scale_electrons=6e4, seed=4)
    with SpoolReader(spool, shards=6, **options) as reader:
        stream = DeviceStream(
            reader, CPU, cfa="bayer", crop=12, seed=4, target="raw", shot_noise=light
        )
        wanted = [hashed(one.index, one.keys, one.low, one.gt) for one in stream]

    lit = SpoolDataset(spool, shot_noise=2.0, full_scale_electrons=6e4, **options)
    assert seen(lit) == wanted
    plain = list(SpoolDataset(spool, **options))
    for batch, expected in zip(SpoolDataset(spool, decode=False, **options), plain, strict=True):
        levels = {name: value for name, value in batch.items() if name in LEVELS}
        low, gt = decode_batch(batch["low"], batch["gt"], **levels)
        low, gt = augment_batch(low, gt, batch["key"], batch["use"], crop=12, seed=4)
        assert torch.equal(low, expected["low"])
        assert torch.equal(gt, expected["gt"])
        assert gt.shape == (4, 4, 6, 6)


@pytest.mark.parametrize("cut", [0, 3, 6, 8])
def test_one_number_is_the_state_and_the_rest_is_the_same(spool, cut):
    options = {"batch_size": 4, "keep": True, "seed": 1}
    whole = SpoolDataset(spool, **options)
    passes = seen(whole) + seen(whole)
    dataset = SpoolDataset(spool, **options)
    before: list[dict[str, object]] = []
    while len(before) < cut:
        for batch in dataset:
            before.append(batch)
            if len(before) == cut:
                break

    state = json.loads(json.dumps(dataset.state_dict()))
    resumed = SpoolDataset(spool, **options)
    resumed.load_state_dict(state)

    assert state == {"batch": cut}
    rest = seen(resumed)
    assert seen(before) + rest == passes[: len(before) + len(rest)]


def test_the_next_pass_has_the_next_seed_and_every_sample_again(spool):
    dataset = SpoolDataset(spool, batch_size=4, keep=True, seed=5)
    first, second = seen(dataset), seen(dataset)

    assert [one[1:] for one in first] == [one[1:] for one in trained_on(spool, seed=5)]
    assert [one[1:] for one in second] == [one[1:] for one in trained_on(spool, seed=6)]
    assert [one[0] for one in first + second] == list(range(12))


def test_an_iteration_left_in_the_middle_is_continued_and_ends(spool):
    dataset = SpoolDataset(spool, batch_size=4, keep=True)
    left = iter(dataset)
    indices = [next(left)["index"], next(left)["index"]]
    indices += [batch["index"] for batch in dataset]

    assert indices == list(range(6))
    assert list(left) == []
    with SpoolReader(spool, batch_size=4, keep=True):
        with pytest.raises(SpoolBusy):
            next(iter(dataset))


def test_closing_releases_the_lock_and_a_shard_is_deleted_after_use(spool):
    dataset = SpoolDataset(spool, batch_size=4)
    iterator = iter(dataset)
    next(iterator)
    assert spool.has_trainer()

    dataset.close()

    assert not spool.has_trainer()
    assert len(list(dataset)) == 5
    assert spool.ready_shards() == []


@pytest.mark.parametrize("reuse", [1, 3])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("batch_size", "world"), [(4, 1), (5, 1), (10, 2), (6, 3), (48, 2)])
def test_the_length_is_the_number_of_batches(spool, batch_size, world, drop_last, reuse):
    options = {"batch_size": batch_size, "drop_last": drop_last, "reuse": reuse}
    dataset = SpoolDataset(
        spool, rank=0, world=world, read_only=True, decode=False, depth=1, **options
    )

    if len(dataset):
        assert len(dataset) == len(list(dataset))
    else:
        with pytest.raises(OptionError, match="too few samples for one batch of 48"):
            list(dataset)


def test_a_plan_in_parts_has_a_length_too(make_spool):
    spool = make_spool(ready=range(7), shards=7)
    for parts in (1, 2, 3):
        dataset = SpoolDataset(spool, batch_size=5, parts=parts, read_only=True)
        assert len(dataset) == len(list(dataset))


def test_ranks_share_each_batch(spool):
    whole = list(SpoolDataset(spool, batch_size=4, keep=True))
    ranks = [
        list(SpoolDataset(spool, batch_size=4, read_only=True, rank=rank, world=2))
        for rank in (0, 1)
    ]

    for batch, first, second in zip(whole, *ranks, strict=True):
        assert batch["key"][0::2] == first["key"]
        assert batch["key"][1::2] == second["key"]
        assert torch.equal(batch["low"][0::2], first["low"])
        assert torch.equal(batch["gt"][1::2], second["gt"])


def test_shards_that_are_being_made_are_waited_for(make_spool):
    spool = make_spool()
    with spool.producer_lock():

        def produce() -> None:
            for shard in range(6):
                time.sleep(0.03)
                fill(spool, [shard])

        thread = threading.Thread(target=produce)
        thread.start()
        found = seen(SpoolDataset(spool, batch_size=4, keep=True))
        thread.join()

    assert found == trained_on(spool)


def test_read_only_data_sets_change_nothing_and_share_a_spool(spool):
    before = snapshot(spool.path)
    first, second = (SpoolDataset(spool.path, batch_size=4, read_only=True) for _ in range(2))

    assert [(a["key"], b["key"]) for a, b in zip(first, second, strict=True)]
    assert snapshot(spool.path) == before
    spool.delete(2)
    with SpoolReader(spool, batch_size=4) as writer:
        next(writer)
        with pytest.raises(SpoolError, match="deletes used shards"):
            list(first)


def test_a_plan_without_an_end_has_no_length(make_spool):
    dataset = SpoolDataset(make_spool(shards=None, ready=range(3)), batch_size=2)

    with pytest.raises(TypeError, match="no end"):
        len(dataset)
    for _, batch in zip(range(3), dataset, strict=False):
        last = batch["index"]
    assert dataset.state_dict() == {"batch": last + 1}


def test_the_loader_of_torch_yields_the_same(spool):
    loader = DataLoader(SpoolDataset(spool, batch_size=4, keep=True), batch_size=None)

    assert len(loader) == 6
    assert seen(loader) == trained_on(spool)


def test_worker_processes_are_refused_in_one_line(spool):
    dataset = SpoolDataset(spool, batch_size=4, keep=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")

    with pytest.raises(OptionError) as caught:
        next(iter(loader))

    assert str(caught.value).startswith("num_workers must be 0")
    assert "faster" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_for_another_process_has_the_position_and_no_reader(spool):
    dataset = SpoolDataset(spool, batch_size=4, keep=True)
    next(iter(dataset))

    copy = pickle.loads(pickle.dumps(dataset))
    dataset.close()

    assert copy.state_dict() == {"batch": 1}
    assert seen(copy) == trained_on(spool)[1:]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"crop": 13}, "crop must be a multiple of 2"),
        ({"crop": 14}, "crop 14 does not fit"),
        ({"augment": "all"}, "augment must be one of"),
        ({"device": "tpu"}, "device must be"),
        ({"shot_noise": 1.0}, "can be used only together"),
        ({"rank": 1}, "rank and world must be given together"),
    ],
)
def test_an_invalid_value_is_refused_when_the_data_set_is_made(spool, options, complaint):
    with pytest.raises(OptionError, match=complaint):
        SpoolDataset(spool, **({"batch_size": 4} | options))


def test_a_batch_that_the_ranks_cannot_share_is_refused(spool):
    dataset = SpoolDataset(spool, batch_size=4, rank=0, world=3)

    for use in (len, list):
        with pytest.raises(OptionError, match="cannot be divided among 3 ranks"):
            use(dataset)


@pytest.mark.parametrize("state", [{}, {"batch": -1}, {"batch": "3"}, {"batch": True}])
def test_an_invalid_state_is_refused(spool, state):
    with pytest.raises(OptionError, match="state of a SpoolDataset"):
        SpoolDataset(spool, batch_size=4).load_state_dict(state)


def test_levels_and_shapes_that_do_not_fit_are_named(spool):
    batch = next(iter(SpoolDataset(spool, batch_size=3, keep=True, decode=False)))
    low, gt = batch["low"], batch["gt"]

    with pytest.raises(OptionError, match=r"black must have the shape \(3, 4\), not \(4,\)"):
        decode_batch(low, gt, black=[512] * 4, white=[16383] * 3, amplification=[1.0] * 3)
    with pytest.raises(OptionError, match=r"low must have the shape \(B, 4 or 9, h, w\)"):
        augment_batch(gt, gt, batch["key"], batch["use"], crop=12)
    with pytest.raises(OptionError, match="equal lengths"):
        augment_batch(low, gt, batch["key"][:2], batch["use"], crop=12)
    with pytest.raises(OptionError, match="gt must have the shape"):
        augment_batch(low, gt[..., :4], batch["key"], batch["use"], crop=12)


def test_integer_codes_are_cropped_as_they_are(spool):
    batch = next(iter(SpoolDataset(spool, batch_size=3, keep=True, decode=False)))

    low, gt = augment_batch(
        batch["low"], batch["gt"], batch["key"], batch["use"], crop=12, augment="none"
    )

    assert torch.equal(low.int(), batch["low"].int()[..., 1:7])
    assert torch.equal(gt.int(), batch["gt"].int()[..., 2:14])
    assert low.dtype == torch.uint16


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_part_of_a_plan_is_shared_by_the_ranks_of_its_machine(
    tmp_path, process_group, monkeypatch
):
    spool = Spool(tmp_path / "part")
    settings = ProducerSettings(part=1, parts=2)
    spool.create(PlanRecord(stream=stream(), recipe={}, settings=settings))
    fill(spool, [1, 3, 5])
    dataset = SpoolDataset(spool, batch_size=8, read_only=True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(OptionError, match="LOCAL_RANK and LOCAL_WORLD_SIZE must be set"):
        len(dataset)

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    batches = list(dataset)

    assert [len(batch["key"]) for batch in batches] == [2, 2, 2]
    assert {key[:8] for batch in batches for key in batch["key"]} == {
        "00000001",
        "00000003",
        "00000005",
    }


def test_the_ranks_end_where_rank_0_cannot_open_the_spool(spool, process_group):
    opened: list[int] = []

    def open_one() -> SpoolReader:
        opened.append(1)
        return SpoolReader(spool, batch_size=4, keep=True)

    with open_after_rank_0(spool, 0, open_one):
        _openings.clear()  # rank 1 would be another process, with a count of its own
        with pytest.raises(SpoolBusy):
            open_after_rank_0(spool, 1, open_one)
        assert len(opened) == 2
        with pytest.raises(SpoolBusy):
            open_after_rank_0(spool, 0, open_one)
        _openings.subtract(list(_openings))  # as above
        with pytest.raises(RankStopped, match=r"rank 0 failed: .*a trainer is already running"):
            open_after_rank_0(spool, 1, open_one)
    assert len(opened) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("decode", [True, False])
def test_batches_on_cuda_equal_those_on_the_cpu_and_own_their_memory(spool, decode):
    options = {"batch_size": 4, "keep": True, "decode": decode}
    wanted = list(SpoolDataset(spool, **options))
    batches = []
    for batch in SpoolDataset(spool, device="cuda", **options):
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]
        batches.append(batch)

    for batch, expected in zip(batches, wanted, strict=True):
        assert batch["low"].device.type == batch["gt"].device.type == "cuda"
        assert batch["key"] == expected["key"]
        assert torch.equal(batch["gt"].cpu(), expected["gt"])
        low, same = batch["low"].cpu().float(), expected["low"].float()
        torch.testing.assert_close(low, same, rtol=1e-6, atol=1e-7)
