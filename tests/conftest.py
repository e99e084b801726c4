"""What all tests share: OpenMP threads that sleep while they wait, one tree for all processes, no clock.

torch reads the variable when it is first imported. Without it a test that trains takes many times as
long beside any other busy process.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.shards import Spool
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from tests.support.small_spools import MakeSpool, fill, stream

pytest_plugins = ["tests.support.command_fixtures"]

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Background producers and `python -m darkprep` use the tree that the tests stand in, as the tests do,
# though an older one may be installed.
_TREE = str(Path(__file__).resolve().parents[1])
# The settings that tests choose are not recorded among those of the user who runs them.
_STATE = tempfile.TemporaryDirectory(prefix="darkprep-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name

os.environ["PYTHONPATH"] = os.pathsep.join([_TREE, *filter(None, [os.environ.get("PYTHONPATH")])])


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`: three for two CPUs, because many tests wait for processes."""
    return max(2, usable_cpus().count * 3 // 2)


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
