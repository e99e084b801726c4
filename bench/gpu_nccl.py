"""The way through torch.distributed with one rank: NCCL on a GPU, gloo on a CPU, against one plain process.

The trade-off: one rank exchanges nothing with another one; what shows is that it works, and what the calls cost.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import AbstractContextManager

from gpu_section import Row, Section
from gpu_spool import built_spool

from darkprep.jobs.train import stream_training
from darkprep.jobs.train_options import TrainOptions
from darkprep.shards import Spool
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.distributed import ProcessGroup
from darkprep.view.live import Progress

STEPS, TINY_STEPS = 150, 2


def main() -> None:
    """Train a few steps each way."""
    section = Section(__doc__)
    rows: list[Row] = []
    for name in ("one process", "one rank"):
        with section.guarded(name), built_spool(section, f"spool-{name[4:]}") as spool:
            rows.append({"training": name} | train(section, spool, communicator(name)))
            section.save("One rank through torch.distributed", rows)
    section.finish()


def communicator(name: str) -> AbstractContextManager[SingleProcess | ProcessGroup]:
    """Return the communicator; the one rank meets itself at a free port."""
    if name == "one process":
        return SingleProcess()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    return ProcessGroup(rank=0, world=1, local_rank=0, local_world=1, timeout_s=60)


def train(
    section: Section,
    spool: Spool,
    ranks: AbstractContextManager[SingleProcess | ProcessGroup],
) -> Row:
    """Return the pace and the losses of a few steps."""
    config = TrainConfig(
        iterations=TINY_STEPS if section.cpu else STEPS,
        batch_size=2 if section.cpu else 8,
        precision="fp32" if section.cpu else "bf16",
        device=section.device.type,
        log_every=10,
        evaluate_every=0,
    )
    options = TrainOptions(
        spool=spool,
        config=config,
        run_dir=section.directory / f"run-{spool.path.name}",
    )
    with ranks as communicator, Progress(quiet=True) as progress:
        summary = stream_training(options, progress, threading.Event(), communicator=communicator)
    return {
        "samples/s": summary.samples_per_second,
        "data wait %": 100 * summary.data_wait_fraction,
        "first loss": summary.first_loss,
        "last loss": summary.last_loss,
    }


if __name__ == "__main__":
    main()
