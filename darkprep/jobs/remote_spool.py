"""A spool in object storage as the commands see it: which directory stands for it here, and who carries.

The trade-off: every host that makes or uses shards of a bucket has a directory for it, below --staging and
named after the bucket's URL, so that two spools never meet in one; its content may be deleted whenever
nobody works there, at the price of fetching or decoding again.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xxhash

from darkprep.jobs import background
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import (
    check_budget,
    default_budget,
    default_staging_budget,
    staging_capacity,
)
from darkprep.shards import OptionError, PlanError, ShardDamaged, Spool
from darkprep.shards.files import disk_errors
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.uploader import CARRIERS, Uploader
from darkprep.shards.remote.url import StoreUrl
from darkprep.shards.shard_file import verify_shard
from darkprep.view.read_status import build_status, spool_status
from darkprep.view.status import SpoolStatus

STAGING = Path("staging")
"""Where the directories of buckets are that are given no other place."""


def folder_for(url: StoreUrl, staging: Path | None, side: str) -> Path:
    """The directory that stands for a bucket's spool here; `side` is `making` or `using`."""
    name = "-".join([url.bucket, *url.prefix.split("/")]).rstrip("-")
    return (staging or STAGING) / f"{name[:80]}-{xxhash.xxh32_hexdigest(str(url).encode())}" / side


def only_with_bucket(staging: Path | None, staging_budget: int | None = None) -> None:
    """Raises OptionError when staging options are given for a spool in a directory."""
    for name, value in (("staging", staging), ("staging-budget", staging_budget)):
        if value is not None:
            raise OptionError(
                f"{name} goes with a --spool in object storage (s3://, gs://, az://) only"
            )


# -- making -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BuildSpool:
    """Where a build makes shards, in a directory that is the spool or stands for one in a bucket."""

    place: Path | StoreUrl
    staging: Path | None
    bucket: Bucket | None

    @classmethod
    def at(cls, place: Path | StoreUrl, staging: Path | None, stop: threading.Event) -> BuildSpool:
        """The chosen place; a bucket is reached at once, before minutes are spent on photographs.

        Raises OptionError, and SpoolError as Bucket.at.
        """
        if isinstance(place, StoreUrl):
            return cls(place=place, staging=staging, bucket=Bucket.at(place, stop=stop))
        only_with_bucket(staging)
        return cls(place=place, staging=None, bucket=None)

    @property
    def spool(self) -> Spool:
        """The directory."""
        if isinstance(self.place, StoreUrl):
            return Spool(folder_for(self.place, self.staging, "making"))
        return Spool(self.place)

    def shares(self, plan: Plan, budget: int | None, staged: int | None) -> Shares:
        """How a budget is divided, defaults filled in; raises BudgetTooSmall, OptionError."""
        whole = default_budget(self.spool.path) if budget is None else budget
        if not self.bucket:
            only_with_bucket(None, staged)
            check_budget(plan, whole)
            return Shares(budget_bytes=whole)
        share = default_staging_budget(plan, whole) if staged is None else staged
        staging_capacity(plan, share)
        check_budget(plan, whole, in_transit=CARRIERS, staged_bytes=share)
        return Shares(budget_bytes=whole, staging_bytes=share)

    def save(self, plan: Plan, shares: Shares, settings: ProducerSettings) -> None:
        """Keep the plan where others find it; `settings` is how producers work on this host.

        Raises PlanError when the place holds another plan.
        """
        if self.bucket:
            shared = ProducerSettings(**asdict(shares), part=settings.part, parts=settings.parts)
            self.bucket.publish(plan.record(shared))
        plan.save(self.spool, replace(settings, budget_bytes=shares.own_bytes))

    def again(self) -> Spool:
        """The spool that was saved; raises PlanError when its bucket holds another plan by now."""
        spool = self.spool.open()
        if self.bucket and self.bucket.open().digest != spool.digest:
            raise PlanError(
                f"{self.bucket}: holds another plan than {spool.path}; run `darkprep build` again"
            )
        return spool

    def destination(self, jobs: int) -> Uploader | None:
        """Where a producer's finished shards go, if not into the directory."""
        return Uploader(self.spool, self.bucket, jobs=jobs) if self.bucket else None

    def words(self) -> list[str]:
        """How a background producer is told of the place."""
        if not self.bucket:
            return []
        folder = (self.staging or STAGING).absolute()
        return ["--spool", str(self.place), "--staging", str(folder)]

    def status(self) -> SpoolStatus:
        """The status to show while shards are made."""
        return build_status(self.spool, self.bucket) if self.bucket else spool_status(self.spool)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How a disk budget is divided."""

    budget_bytes: int
    """For everything: objects, the producer's directory and the trainer's."""
    staging_bytes: int = 0
    """The trainer's share of it."""

    @property
    def own_bytes(self) -> int:
        """What is left for the objects and the producer's directory."""
        return self.budget_bytes - self.staging_bytes


# -- looking ------------------------------------------------------------------------------------------


def verify_bucket(bucket: Bucket, staging: Path | None) -> tuple[int, list[str]]:
    """Fetch every object, one at a time, and check it; how many, and what is wrong."""
    layout, plan = bucket.stream.layout(), bucket.digest
    faults: list[str] = []
    listed = bucket.list_shards()
    where = staging or STAGING
    with disk_errors(where / "check"):
        where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=where) as folder:
        path = Path(folder) / "shard.tar"
        for shard, size in sorted(listed.items()):
            if size != layout.shard_bytes:
                faults.append(
                    f"damaged {bucket} shard {shard}: {size} bytes, the plan's shards have {layout.shard_bytes}"
                )
            elif bucket.download(shard, path):
                try:
                    verify_shard(path, layout, shard, plan)
                except ShardDamaged as error:
                    why = str(error).removeprefix(f"{path}: ")
                    faults.append(f"damaged {bucket} shard {shard}: {why}")
    return len(listed), faults


def stop_here(url: StoreUrl, staging: Path | None) -> str:
    """End this host's background producers of a bucket; what to tell the user. Raises SpoolError."""
    spool = Spool(folder_for(url, staging, "making"))
    pids = background.stop_producers(spool.open()) if spool.path.is_dir() else []
    if pids:
        return f"stopped {', '.join(f'pid {pid}' for pid in pids)}"
    holder = Bucket.at(url).open().watch_producer().look()
    if holder is None:
        return "nobody produces here"
    return f"nobody produces here; {url} was last produced into by {holder}: stop it there"
