"""Train on a spool in object storage: the local directory for its shards, and the thread that downloads them.

The trade-off: the ranks of one host share a directory and one download. Several hosts would each download
everything and delete what the others need, so each host needs its own prefix with a part of the plan.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.jobs.remote_spool import refuse_staging_options, staging_directory
from darkprep.pipeline.pairs.sources import source_of_fingerprint
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.budget import block_size, default_budget, staging_capacity
from darkprep.shards import OptionError, PlanError, RawError, Spool, StreamEnded
from darkprep.shards.own_settings import (
    are_own_settings,
    last_own_settings,
    record_own_settings,
)
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.communicator import Communicator

log = logging.getLogger(__name__)

DEFAULT_ROOT = Path("data")
"""Directory of the photographs if the user names none, as for the other commands."""
_MOST_TRIED = 16
"""Number of pairs of which one must be found below --root."""
_STOP_TIMEOUT_S = 30.0
_LEADER_TIMEOUT_S = 30.0
"""Seconds for which another rank waits for a missing shard while the leader downloads nothing."""


@dataclass(frozen=True, kw_only=True)
class RemoteTraining:
    """The bucket to train from, the directory on this host, and the number of shards that fit into it."""

    url: StoreUrl
    bucket: Bucket
    spool: Spool
    max_shards: int

    @classmethod
    def open(
        cls,
        url: StoreUrl,
        staging: Path | None,
        staging_budget: int | None,
        stop: threading.Event,
        *,
        create: bool,
        root: Path | None = None,
    ) -> RemoteTraining:
        """Open the bucket and its directory; one rank of each host must pass `create` to create the directory.

        The photographs for validation are below `root`, by default where this user last built the plan on
        this machine, else below DEFAULT_ROOT; the bucket's plan may come from someone else. Raises
        OptionError, PlanError and SpoolError.
        """
        bucket = Bucket.at(url, stop=stop).open()
        share = bucket.settings.staging_bytes
        if not share:
            raise PlanError(
                f"{url}/plan.json: does not record the trainer's part of the budget (staging_bytes); run `darkprep build` again"
            )
        if staging_budget is not None and staging_budget > share:
            raise OptionError(
                f"staging-budget {staging_budget / 1e6:,.1f} MB is more than the {share / 1e6:,.1f} MB that the spool's disk budget reserves for it; "
                "give stream-train a smaller --staging-budget, or run `darkprep build` again with a larger one"
            )
        spool = Spool(staging_directory(url, staging, "train"))
        if create:
            shared = bucket.settings
            own = last_own_settings(bucket.digest) or ProducerSettings()
            # The share may be the choice of someone else, so it cannot fill the disk.
            usual = max(default_budget(spool.path), own.budget_bytes or 0)
            settings = ProducerSettings(
                root=str((root or Path(own.root or DEFAULT_ROOT)).absolute()),
                pairs=None if root else own.pairs,
                layout=own.layout,
                darks=own.darks,
                dark_shading=own.dark_shading,
                budget_bytes=staging_budget or min(share, usual),
                part=shared.part,
                parts=shared.parts,
            )
            spool.create(replace(bucket.plan, settings=settings))
            record_own_settings(spool.plan)
        spool.open()
        budget_bytes = spool.settings.budget_bytes or 0
        max_shards = staging_capacity(Plan.load(spool), budget_bytes, block_size(spool.path))
        return cls(url=url, bucket=bucket, spool=spool, max_shards=max_shards)

    def check_free(self) -> None:
        """Raise SpoolBusy when another trainer uses the bucket."""
        with self.bucket.trainer_lease():
            pass

    def check_ranks(self, ranks: Communicator) -> None:
        """Raise OptionError if ranks of several hosts would share the bucket."""
        if ranks.world > ranks.local_world and self.bucket.settings.parts == 1:
            raise OptionError(
                f"{self.url}: a spool in object storage can feed only one host; for N hosts build N spools (--part 0/N ... N-1/N, each with its own prefix; docs/scale.md)"
            )


class BackgroundDownload:
    """Downloads the shards of a training run in a thread of the host's first rank (the leader).

    It has the same methods as background.Supervisor.
    """

    def __init__(self, remote: RemoteTraining, *, until: int, is_leader: bool) -> None:
        self._remote, self._until, self._is_leader = remote, until, is_leader
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def ensure_producer(self) -> bool:
        """Start the download if it is not running; return whether it was started."""
        if self._thread:
            return False
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()
        return True

    def on_missing_shard(self, shard: int, seconds: float) -> None:
        """React to a shard for which a reader has waited `seconds`. Raises StreamEnded when it will not come."""
        spool = self._remote.spool
        reason = str(self._failure or "")
        if not self._is_leader and seconds > _LEADER_TIMEOUT_S and not spool.has_producer():
            reason = "no rank of this host is downloading shards"
        if reason and not spool.shard_path(shard).exists():
            raise StreamEnded(
                f"{spool.path}: shard {shard} is missing and its download failed: {reason}"
            )

    def close(self) -> None:
        """Stop the download, after the trainer's last cursor is published."""
        self._stop.set()
        if self._thread:
            self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        remote = self._remote
        config = DownloaderConfig(max_shards=remote.max_shards, until=self._until)
        try:
            # With a stop event of its own: the training's is set before its last position is known.
            bucket = Bucket.at(remote.url, stop=self._stop).open()
            Downloader(remote.spool, bucket, config, stop=self._stop).run()
        except Exception as error:  # noqa: BLE001 # on_missing_shard raises it
            log.warning("the download of shards failed: %s", error)
            self._failure = error


def spool_to_train_on(
    location: Path | StoreUrl,
    *,
    staging: Path | None,
    staging_budget: int | None,
    ranks: Communicator,
    stop: threading.Event,
    root: Path | None = None,
    read_only: bool = False,
) -> tuple[Spool, RemoteTraining | None]:
    """Return the directory to train from, on every rank, and its bucket.

    `root` is the directory of the photographs, if the user names one. Raises the errors of `use_root` and
    of RemoteTraining.open.
    """
    if not isinstance(location, StoreUrl):
        with ranks.fail_together():
            refuse_staging_options(staging, staging_budget)
            spool = Spool(location).open()
            if root is not None:
                use_root(spool, root, save=ranks.local_rank == 0 and not read_only)
            return spool, None
    for create in (True, False):  # first the ranks that create the directory, one on each host
        with ranks.fail_together():
            if (ranks.local_rank == 0) == create:
                remote = RemoteTraining.open(
                    location, staging, staging_budget, stop, create=create, root=root
                )
                remote.check_ranks(ranks)
    return remote.spool, remote


def use_root(spool: Spool, root: Path, *, save: bool) -> None:
    """Take the photographs of a spool from `root`, which this user names; write this into plan.json if `save`.

    Settings that someone else chose are replaced by defaults. Raises OptionError if `root` has none of the
    first photographs of the plan.
    """
    own, plan = spool.settings, Plan.load(spool)
    if not are_own_settings(spool.plan):
        own = ProducerSettings(layout=own.layout, part=own.part, parts=own.parts)
    if not any(_has_photograph(root, planned) for planned in plan.pairs[:_MOST_TRIED]):
        raise OptionError(
            f"root {root}: does not have the photographs of the spool's plan, such as {plan.pairs[0].pair.long}; give the directory below which they are"
        )
    spool.replace_settings(replace(own, root=str(root.absolute())), save=save)
    record_own_settings(spool.plan)


def _has_photograph(root: Path, planned: PlannedPair) -> bool:
    try:
        found = source_of_fingerprint(root / planned.pair.long, planned.long_fingerprint)
    except RawError:
        return False
    return found is not None
