"""A training on a spool in object storage: the directory that shards are fetched into, and who fetches.

The trade-off: the ranks of one host share a directory and one inbox; several hosts would each fetch all
of a bucket and delete what the others need, so each has a prefix of its own, with a part of the plan.
"""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.jobs import background
from darkprep.jobs.remote_spool import STAGING, folder_for, only_with_bucket
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import block_size, staging_capacity
from darkprep.shards import OptionError, PlanError, Spool, SpoolBusy
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.communicator import Communicator

_FORMER_S = 30.0
"""How long the inbox of a trainer that was killed is waited for; it ends by itself within seconds."""


@dataclass(frozen=True, kw_only=True)
class RemoteTraining:
    """One trainer's side of a bucket: the directory into which shards are fetched, and how many fit there."""

    url: StoreUrl
    bucket: Bucket
    spool: Spool
    staging: Path | None
    staged_bytes: int
    room: int

    @classmethod
    def chosen(
        cls,
        url: StoreUrl,
        staging: Path | None,
        staged: int | None,
        stop: threading.Event,
        *,
        keeps_house: bool,
    ) -> RemoteTraining:
        """Make the directory ready (whoever `keeps_house` on this host); raises OptionError, PlanError, SpoolError."""
        bucket = Bucket.at(url, stop=stop).open()
        share = bucket.settings.staging_bytes
        if not share:
            raise PlanError(f"{url}/plan.json: names no staging_bytes; run `darkprep build` again")
        if staged is not None and staged > share:
            raise OptionError(
                f"staging-budget {staged / 1e6:,.1f} MB is more than the {share / 1e6:,.1f} MB that the disk budget keeps for it; "
                "give less, or build again with a larger --staging-budget"
            )
        spool = Spool(folder_for(url, staging, "using"))
        if keeps_house:
            shared = bucket.settings
            settings = ProducerSettings(
                root=shared.root, budget_bytes=staged or share, part=shared.part, parts=shared.parts
            )
            spool.create(replace(bucket.plan, settings=settings))
        spool.open()
        room = staging_capacity(Plan.load(spool), staged or share, block_size(spool.path))
        return cls(
            url=url,
            bucket=bucket,
            spool=spool,
            staging=staging,
            staged_bytes=staged or share,
            room=room,
        )

    def check_free(self) -> None:
        """Raises SpoolBusy when another trainer uses the bucket; waits for the inbox of one that was killed."""
        deadline = time.monotonic() + _FORMER_S
        while self.spool.has_producer() and not self.spool.has_trainer():
            if time.monotonic() > deadline:
                raise SpoolBusy(
                    f"{self.spool.path}: the inbox of an earlier trainer ({self.spool.producer_process()}) does not end; stop it by hand"
                )
            time.sleep(0.1)
        with self.bucket.trainer_lease():
            pass

    def check_ranks(self, ranks: Communicator) -> None:
        """Raises OptionError when ranks of several hosts would share the bucket."""
        if ranks.world > ranks.local_world and self.bucket.settings.parts == 1:
            raise OptionError(
                f"{self.url}: serves the ranks of one host; build with --part n/N into a prefix for each host, and train with those (docs/scale.md)"
            )

    def fetching(self, until: int | None) -> subprocess.Popen[bytes]:
        """Start to fetch shards before `until`, in the background; raises SpoolError when that ends at once."""
        words = ["fetch", "--spool", str(self.url)]
        words += ["--staging", str((self.staging or STAGING).absolute())]
        words += ["--room", str(self.room), "--until", "inf" if until is None else str(until)]
        return background.start(self.spool, words)


def spool_to_train_on(
    place: Path | StoreUrl,
    *,
    staging: Path | None,
    staging_budget: int | None,
    ranks: Communicator,
    stop: threading.Event,
) -> tuple[Spool, RemoteTraining | None]:
    """The directory to train from, on every rank, and what is behind it; raises as Using.chosen."""
    if not isinstance(place, StoreUrl):
        with ranks.fail_together():
            only_with_bucket(staging, staging_budget)
            return Spool(place).open(), None
    for turn in (True, False):  # first those that make the directory ready, one on each host
        with ranks.fail_together():
            if (ranks.local_rank == 0) == turn:
                using = RemoteTraining.chosen(
                    place, staging, staging_budget, stop, keeps_house=turn
                )
                using.check_ranks(ranks)
    return using.spool, using
