"""Loops of frameworks over a SpoolDataset are given what SpoolReader yields, also after they were stopped and resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darkprep.shards import Spool, SpoolReader
from darkprep.trainer.stream import DeviceStream
from tests.support.framework_loops import BATCH_SIZE, SEED
from tests.support.processes import free_port
from tests.support.sequences import Seen, hashed
from tests.support.small_spools import MakeSpool

pytestmark = pytest.mark.frameworks

ROOT = Path(__file__).parents[2]
MODULES = {
    "stateful": "torchdata",
    "lightning": "pytorch_lightning",
    "accelerate": "accelerate",
}


def wanted(spool: Spool, ranks: int) -> list[list[Seen]]:
    """What SpoolReader yields and the trainer makes of it, for each rank."""
    found = []
    for rank in range(ranks):
        with SpoolReader(
            spool, batch_size=BATCH_SIZE, seed=SEED, rank=rank, world=ranks, read_only=True
        ) as reader:
            stream = DeviceStream(reader, torch.device("cpu"), cfa="bayer", crop=12, seed=SEED)
            found.append([hashed(one.index, one.keys, one.low, one.gt) for one in stream])
    return found


def given(loop: str, spool: Spool, stop: int, ranks: int) -> list[list[Seen]]:
    """What the loop is given, for each rank."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command = [sys.executable, *(torchrun if ranks > 1 else ())]
    command += ["-m", "tests.support.framework_loops", loop, str(spool.path), str(stop)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("given "))
    return [
        [(index, keys, digest) for index, keys, digest in json.loads(line.split(" ", 2)[2])]
        for line in lines
    ]


@pytest.mark.parametrize(
    ("loop", "stop", "ranks"),
    [
        ("stateful", 0, 1),
        ("stateful", 2, 1),
        ("lightning", 0, 1),
        ("lightning", 2, 1),
        ("lightning", 0, 2),
        ("accelerate", 0, 1),
        ("accelerate", 2, 1),
        ("accelerate", 0, 2),
    ],
)
def test_a_loop_is_given_what_the_reader_yields(loop, stop, ranks, make_spool: MakeSpool):
    if importlib.util.find_spec(MODULES[loop]) is None:
        pytest.skip(f"{MODULES[loop]} is not installed (pip install '.[frameworks]')")
    spool = make_spool(ready=range(6), window=3)
    expected = wanted(spool, ranks)

    assert given(loop, spool, stop, ranks) == expected
    assert len(expected[0]) == 6
    assert spool.ready_shards() == []


def test_a_worker_process_that_was_not_forked_is_refused_in_one_line_too(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    code = f"""
from torch.utils.data import DataLoader
from darkprep.trainer import SpoolDataset

if __name__ == "__main__":
    dataset = SpoolDataset({str(spool.path)!r}, batch_size=4)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    try:
        next(iter(loader))
    except Exception as error:
        print(type(error).__mro__[1].__name__, str(error))
"""
    program = spool.path.parent / "spawn.py"
    program.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, env=environment
    )

    (line,) = done.stdout.splitlines()
    assert line.startswith("OptionError num_workers must be 0: SpoolDataset reads with threads")
