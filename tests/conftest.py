"""What all tests share: one OpenMP thread for each process, one tree for all processes, no clock, the order of files.

OpenMP reads its variables when it is first loaded. Without them a test that trains takes many times as
long beside any other busy process.
"""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.shards import Spool
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from tests.support.small_spools import MakeSpool, fill, stream

pytest_plugins = [
    "tests.support.command_fixtures",
    "tests.support.quick_networks",
    "tests.support.unguarded",
]

gc.disable()  # until all tests are collected

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Otherwise each of the hundreds of processes that tests start compiles the tree again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Background producers and `python -m darkprep` use the tree that the tests stand in, as the tests do,
# though an older one may be installed.
_TREE = str(Path(__file__).resolve().parents[1])
# The settings that tests choose are not recorded among those of the user who runs them.
_STATE = tempfile.TemporaryDirectory(prefix="darkprep-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name

os.environ["PYTHONPATH"] = os.pathsep.join([_TREE, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.hookimpl(optionalhook=True)  # also without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`: three for two CPUs, because many tests wait for processes."""
    return max(2, usable_cpus().count * 3 // 2)


# Those that take longest in the default run, the longest first.
_LONGEST = (
    "tests/shards/remote/test_commands.py",
    "tests/darkprep/test_build.py",
    "tests/darkprep/test_bad_input.py",
    "tests/reliability/test_machine_faults.py",
    "tests/pipeline/produce/test_producer.py",
    "tests/reliability/test_remedies_end.py",
    "tests/trainer/test_train.py",
    "tests/security/test_fields.py",
    "tests/synth/test_scenes.py",
    "tests/model/test_targets.py",
    "tests/darkprep/test_stream_train.py",
    "tests/reliability/test_producer_deaths.py",
    "tests/darkprep/test_restore.py",
    "tests/darkprep/test_process.py",
    "tests/model/test_inference.py",
    "tests/synth/test_dataset.py",
    "tests/reliability/test_budgets.py",
    "tests/trainer/test_dataset.py",
    "tests/bench/test_bench_scripts.py",
    "tests/pipeline/noise/test_model.py",
    "tests/reliability/test_end_of_stream.py",
    "tests/distributed/test_ranks.py",
    "tests/test_docs.py",
    "tests/darkprep/test_pairs.py",
    "tests/reliability/test_storm.py",
    "tests/test_imports.py",
    "tests/shards/remote/test_lease.py",
    "tests/pipeline/noise/test_calibrate.py",
    "tests/shards/remote/test_transfer.py",
    "tests/security/test_crashes.py",
    "tests/reliability/test_kill_points.py",
    "tests/darkprep/test_report_browser.py",
    "tests/shards/test_odd_names.py",
    "tests/shards/test_reader.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Prepare for pytest-xdist: keep the order of the files, and collect them in another order in each worker.

    By itself it starts with the files that have the most tests. Workers that collect in one order compile
    the same files at the same time; in different orders, most are compiled once.
    """
    config.option.loadscopereorder = False
    worker = getattr(config, "workerinput", None)
    if worker is not None and config.args == config.getini("testpaths"):
        files = sorted(map(str, Path(__file__).parent.rglob("test_*.py")))
        start = int(worker["workerid"].removeprefix("gw")) * len(files) // worker["workercount"]
        config.args = files[start:] + files[:start]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that no process ends long after the others."""
    order = {file: place for place, file in enumerate(_LONGEST)}

    def place(item: pytest.Item) -> tuple[int, str]:
        file = item.nodeid.partition("::")[0]
        return order.get(file, len(order)), file

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Keep modules and tests out of later collections of garbage.

    In the processes that tests fork, such a collection would copy all of this memory. A collection of all
    generations takes 0.1 s here, so they are rare.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(20_000, 10, 50)


@pytest.fixture(scope="session", autouse=True)
def _memory_is_freed() -> Iterator[None]:
    """Builds and restorations in this process free their memory: forks of a large process are slow."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("darkprep.pipeline.produce.worker", "darkprep.jobs.restore"):
            patch.setattr(f"{module}.keep_freed_memory", lambda: None)
        yield


@pytest.fixture
def make_spool(tmp_path: Path) -> MakeSpool:
    """Makes a small spool `name` whose shards `ready` are written."""

    def make(name: str = "spool", *, ready: range | list[int] = range(0), **settings: Any) -> Spool:
        spool = Spool(tmp_path / name)
        spool.create(
            PlanRecord(
                stream=stream(**settings),
                recipe={"pairs": [name]},
                settings=ProducerSettings(root="data"),
            )
        )
        fill(spool, ready)
        return spool

    return make
