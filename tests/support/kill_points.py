"""Every durable write of the project, killed before each of its calls; afterwards the old or the new is there.

    python -m tests.support.kill_points FOLDER [NAME...]

Prints one JSON object: per write its calls, and how often the old and the new were found.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore, SensorLevels
from darkprep.shards import Cursor, PlanError, ShardFile, Spool
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.process import ProcessId
from tests.support.small_spools import fill, sample, stream
from tests.support.tracing import Tracing, calls_until_killed

if TYPE_CHECKING:
    from darkprep.trainer.checkpoint import TrainState

SKIPPED = 77
_MOST_CALLS = 200
_RECIPE = {"pairs": ["some"]}


@dataclass(frozen=True, kw_only=True)
class Durable:
    """One kind of write. `found` says which of "none", "old" and "new" is there, and raises for anything else."""

    name: str
    prepare: Callable[[Path], None]
    write: Callable[[Path], None]
    found: Callable[[Path], str]
    allowed: frozenset[str] = frozenset({"old", "new"})
    sweep: Callable[[Path], None] = lambda folder: None
    """What the next process does first."""


def _spool(folder: Path) -> Spool:
    return Spool(folder / "spool")


def _open(folder: Path) -> Spool:
    return _spool(folder).open()


def _create(folder: Path, root: str) -> None:
    _spool(folder).create(
        PlanRecord(stream=stream(), recipe=_RECIPE, settings=ProducerSettings(root=root))
    )


# -- plan ---------------------------------------------------------------------------------------------


def _plan_found(folder: Path) -> str:
    try:
        spool = _open(folder)
    except PlanError as error:
        assert "is missing" in str(error), error
        return "none"
    assert spool.stream == stream()
    return str(spool.settings.root)


# -- shard --------------------------------------------------------------------------------------------


def _shard_found(folder: Path) -> str:
    spool = _open(folder)
    if spool.ready_shards() != [3]:
        assert spool.ready_shards() == []
        return "none"
    opened = ShardFile(spool.shard_path(3), spool.stream.layout(), 3, spool.digest)
    opened.verify_all()
    assert opened.metas[1].origin == sample(3, 1, spool.stream).meta.origin
    opened.close()
    return "new"


def _sweep_spool(folder: Path) -> None:
    spool = _open(folder)
    with spool.producer_lock():
        assert not spool.has_writers()
        spool.remove_stale_files()
    spool.remove_cursors_from(9)


def _quarantine(folder: Path) -> None:
    spool = _open(folder)
    spool.quarantine.add(spool.shard_path(3), 3, "test")


def _refused_found(folder: Path) -> str:
    spool = _open(folder)
    ready, damaged = spool.ready_shards(), spool.quarantine.count()
    assert (ready, damaged) in (([3], 0), ([], 1))
    return "old" if ready else "new"


# -- state --------------------------------------------------------------------------------------------


def _write_cursor(folder: Path, batch: int) -> None:
    _open(folder).write_cursor(Cursor(rank=0, world=1, batch=batch, shard=batch))


def _cursor_found(folder: Path) -> str:
    (cursor,) = _open(folder).read_cursors()
    assert cursor.batch == cursor.shard
    return {1: "old", 2: "new"}[cursor.batch]


def _write_heartbeat(folder: Path, made: int) -> None:
    """Under one name, as one producer does; the forked writers have pids of their own."""
    with mock.patch.object(ProcessId, "own", lambda: ProcessId(host="here", pid=1, started=1)):
        _open(folder).write_heartbeat(ProducerStatus(state="making", shards_made=made))


def _after(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        for step in steps:
            step(folder)

    return run


def _heartbeat_found(folder: Path) -> str:
    (heartbeat,) = _open(folder).heartbeats()
    made = heartbeat.status.shards_made
    assert made
    return {1: "old", 2: "new"}[made]


# -- frame --------------------------------------------------------------------------------------------


def _frame(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.random.default_rng(seed).integers(0, 65536, (3, 40, 60), dtype=np.uint16)


_ATTRIBUTES = FrameAttributes(
    kind="short",
    raw="a.dng",
    levels=SensorLevels(black=(512.0,) * 4, white=16383, iso=800.0),
)


def _put_frame(folder: Path) -> None:
    store = FrameStore(folder / "frames")
    with store.decode_lock("long-1"):
        store.put("long-1", _frame(1), _ATTRIBUTES)


def _create_store(folder: Path) -> None:
    FrameStore(folder / "frames").create()


def _frame_found(folder: Path) -> str:
    store = FrameStore(folder / "frames")
    found = store.get("long-1")
    if found is None:
        return "none"
    np.testing.assert_array_equal(found.array, _frame(1))
    assert found.attributes == _ATTRIBUTES
    return "new"


def _damage_frame(folder: Path) -> None:
    _create_store(folder)
    _put_frame(folder)
    with (folder / "frames/long-1/0.0.0").open("r+b") as file:
        file.write(b"flip")


def _sweep_frames(folder: Path) -> None:
    store = FrameStore(folder / "frames")
    store.create()
    store.remove_stale_files()


# -- checkpoint and weights: torch is loaded for these alone, because that takes seconds ---------------


def _trainee() -> TrainState:
    import torch

    from darkprep.model import build_model
    from darkprep.trainer.adam import EagerAdam
    from darkprep.trainer.checkpoint import TrainState

    network = build_model("redirt-2rdb")
    return TrainState(
        network=network,
        optimiser=EagerAdam(network.parameters()),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )


def _save_checkpoint(folder: Path, iteration: int) -> None:
    import torch

    from darkprep.trainer.checkpoint import Checkpoints, Progress

    torch.manual_seed(iteration)
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    checkpoints.save(_trainee(), Progress(iteration=iteration), {"model": "redirt-2rdb"})


def _checkpoint_found(folder: Path) -> str:
    import torch

    from darkprep.trainer.checkpoint import Checkpoints

    trainee = _trainee()
    progress = Checkpoints(folder / "checkpoints").load_newest(trainee, {"model": "redirt-2rdb"})
    assert progress is not None
    torch.manual_seed(progress.iteration)
    expected = _trainee().network.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in trainee.network.state_dict().items())
    return {1: "old", 2: "new"}[progress.iteration]


def _save_weights(folder: Path, seed: int) -> None:
    import torch

    from darkprep.model import build_model, save_weights

    torch.manual_seed(seed)
    save_weights(build_model("redirt-2rdb"), folder / "weights.safetensors", note=str(seed))


def _weights_found(folder: Path) -> str:
    import torch

    from darkprep.model import build_model, load_model

    found = load_model(folder / "weights.safetensors").state_dict()
    for seed, name in ((1, "old"), (2, "new")):
        torch.manual_seed(seed)
        expected = build_model("redirt-2rdb").state_dict()
        if all(torch.equal(value, expected[key]) for key, value in found.items()):
            return name
    raise AssertionError("weights that nobody saved")


# -- all ----------------------------------------------------------------------------------------------

_NONE_OR_NEW = frozenset({"none", "new"})


def _nothing(folder: Path) -> None:
    """Start from an empty folder."""


def _spool_with_shard(folder: Path) -> None:
    _create(folder, "old")
    fill(_open(folder), [3])


DURABLES = (
    Durable(name="first plan", prepare=lambda folder: _spool(folder).path.mkdir(), write=lambda folder: _create(folder, "new"),
            found=_plan_found, allowed=_NONE_OR_NEW, sweep=lambda folder: _create(folder, "new")),
    Durable(name="plan", prepare=lambda folder: _create(folder, "old"), write=lambda folder: _create(folder, "new"),
            found=_plan_found, sweep=lambda folder: _create(folder, "third")),
    Durable(name="shard", prepare=lambda folder: _create(folder, "old"), write=lambda folder: fill(_open(folder), [3]),
            found=_shard_found, allowed=_NONE_OR_NEW, sweep=_sweep_spool),
    Durable(name="shard again", prepare=_spool_with_shard, write=lambda folder: fill(_open(folder), [3]),
            found=_shard_found, allowed=frozenset({"new"}), sweep=_sweep_spool),
    Durable(name="refusal", prepare=_spool_with_shard, write=_quarantine,
            found=_refused_found, sweep=_sweep_spool),
    Durable(name="cursor", prepare=_after(lambda folder: _create(folder, "old"), lambda folder: _write_cursor(folder, 1)),
            write=lambda folder: _write_cursor(folder, 2), found=_cursor_found, sweep=_sweep_spool),
    Durable(name="heartbeat", prepare=_after(lambda folder: _create(folder, "old"), lambda folder: _write_heartbeat(folder, 1)),
            write=lambda folder: _write_heartbeat(folder, 2), found=_heartbeat_found, sweep=_sweep_spool),
    Durable(name="frame store", prepare=_nothing, write=_create_store, found=_frame_found,
            allowed=frozenset({"none"}), sweep=_sweep_frames),
    Durable(name="frame", prepare=_create_store, write=_put_frame, found=_frame_found, allowed=_NONE_OR_NEW,
            sweep=_sweep_frames),
    Durable(name="frame that was damaged", prepare=_damage_frame, write=_put_frame, found=_frame_found,
            allowed=_NONE_OR_NEW, sweep=_sweep_frames),
    Durable(name="checkpoint", prepare=lambda folder: _save_checkpoint(folder, 1),
            write=lambda folder: _save_checkpoint(folder, 2), found=_checkpoint_found,
            sweep=lambda folder: _save_checkpoint(folder, 3)),
    Durable(name="weights", prepare=lambda folder: _save_weights(folder, 1), write=lambda folder: _save_weights(folder, 2),
            found=_weights_found, sweep=lambda folder: _save_weights(folder, 3)),
)  # fmt: skip
"""All that a later process believes. summary.json, config.json and the like are the plan's write again."""


def kill_at_every_call(durable: Durable, folder: Path) -> dict[str, object]:
    """Kill the write before each of its calls, each time from the same beginning."""
    before = folder / "before"
    before.mkdir(parents=True)
    durable.prepare(before)
    found: list[str] = []
    for count in range(_MOST_CALLS):
        here = folder / str(count)
        shutil.copytree(before, here)
        calls, ended = calls_until_killed(lambda: durable.write(here), count)  # noqa: B023 # run at once
        state = durable.found(here)
        assert state in durable.allowed, f"{state} after {calls}"
        found.append(state)
        if ended:
            break
        durable.sweep(here)
        left = [str(path) for path in here.rglob("*.tmp")] + list(map(str, here.rglob("partial/*")))
        assert not left, f"after {calls} and a sweep: {left}"
        shutil.rmtree(here)
    else:
        raise AssertionError(f"more than {_MOST_CALLS} calls")
    assert found[-1] == "new" or durable.allowed == {"none"}
    return {"calls": calls, "found": {state: found.count(state) for state in sorted(set(found))}}


def main() -> None:
    folder, *names = sys.argv[1:]
    results: dict[str, object] = {}
    for durable in DURABLES:
        if not names or durable.name in names:
            try:
                results[durable.name] = kill_at_every_call(durable, Path(folder) / durable.name)
            except Tracing as error:
                sys.stdout.write(f"{error}\n")
                sys.exit(SKIPPED)
            except Exception as error:  # the others are still to be tried
                results[durable.name] = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
