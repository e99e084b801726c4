"""A spool in object storage as the commands use it: its directory on this host, and how its budget is divided.

The trade-off: every host that builds or trains has a directory for the bucket, below --staging and named
after its URL, so that no two spools share one. It may be deleted whenever no process uses it, at the price of
downloading or decoding again.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import xxhash

from darkprep.jobs import background
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import (
    check_budget,
    default_budget,
    default_staging_budget,
    staging_capacity,
)
from darkprep.pipeline.produce.shrinking import recorded_settings
from darkprep.shards import OptionError, PlanError, ShardDamaged, Spool
from darkprep.shards.files import disk_errors
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.uploader import UPLOADS, Uploader
from darkprep.shards.remote.url import StoreUrl
from darkprep.shards.shard_file import verify_shard
from darkprep.view.read_status import build_status, spool_status
from darkprep.view.status import SpoolStatus

STAGING = Path("staging")
"""Default of --staging."""


def staging_directory(
    url: StoreUrl, staging: Path | None, command: Literal["build", "train"]
) -> Path:
    """Return the directory on this host for a spool in object storage."""
    name = "-".join([url.bucket, *url.prefix.split("/")]).rstrip("-")
    return (staging or STAGING) / f"{name[:80]}-{xxhash.xxh32_hexdigest(str(url).encode())}" / command  # fmt: skip


def refuse_staging_options(staging: Path | None, staging_budget: int | None = None) -> None:
    """Raise OptionError when options for object storage are given for a spool in a directory."""
    for name, value in (("staging", staging), ("staging-budget", staging_budget)):
        if value is not None:
            raise OptionError(
                f"{name} can be used only with a --spool in object storage (s3://, gs://, az://)"
            )


# -- building -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BudgetShares:
    """How a disk budget is divided."""

    budget_bytes: int
    """All of it: objects, the producer's directory and the trainer's."""
    staging_bytes: int = 0
    """The trainer's directory."""

    @property
    def build_bytes(self) -> int:
        """The objects and the producer's directory."""
        return self.budget_bytes - self.staging_bytes


@dataclass(frozen=True, kw_only=True)
class BuildSpool:
    """The spool of a build: a directory, which either is the spool or is where shards are made for a bucket."""

    location: Path | StoreUrl
    staging: Path | None
    bucket: Bucket | None

    @classmethod
    def at(
        cls, location: Path | StoreUrl, staging: Path | None, stop: threading.Event
    ) -> BuildSpool:
        """Return the chosen spool. A bucket is contacted at once, before any photograph is read.

        Raises OptionError, and SpoolError as Bucket.at.
        """
        if isinstance(location, StoreUrl):
            bucket = Bucket.at(location, stop=stop)
            return cls(location=location, staging=staging, bucket=bucket)
        refuse_staging_options(staging)
        return cls(location=location, staging=None, bucket=None)

    @property
    def spool(self) -> Spool:
        """The directory."""
        if isinstance(self.location, StoreUrl):
            return Spool(staging_directory(self.location, self.staging, "build"))
        return Spool(self.location)

    def divide_budget(self, plan: Plan, budget: int | None, staged: int | None) -> BudgetShares:
        """Return the shares of a budget, with defaults for None. Raises BudgetTooSmall and OptionError."""
        total = default_budget(self.spool.path) if budget is None else budget
        if not self.bucket:
            refuse_staging_options(None, staged)
            check_budget(plan, total)
            return BudgetShares(budget_bytes=total)
        share = default_staging_budget(plan, total) if staged is None else staged
        staging_capacity(plan, share)
        check_budget(plan, total, in_transit=UPLOADS, staged_bytes=share)
        return BudgetShares(budget_bytes=total, staging_bytes=share)

    def recorded_settings(self, plan: Plan) -> ProducerSettings | None:
        """Return how the plan's spool was built before; None for a new one and for one in object storage."""
        return None if self.bucket else recorded_settings(self.spool, plan)

    def save(self, plan: Plan, shares: BudgetShares, settings: ProducerSettings) -> None:
        """Write the plan, with `settings` for the producers of this host.

        Raises PlanError when the spool holds another plan.
        """
        if self.bucket:
            shared = ProducerSettings(**asdict(shares), part=settings.part, parts=settings.parts)
            self.bucket.publish(plan.record(shared))
        plan.save(self.spool, replace(settings, budget_bytes=shares.build_bytes))

    def reopen(self) -> Spool:
        """Return the spool that was saved. Raises PlanError when its bucket holds another plan by now."""
        spool = self.spool.open()
        if self.bucket and self.bucket.open().digest != spool.digest:
            raise PlanError(
                f"{self.bucket}: holds another plan than {spool.path}; run `darkprep build` again"
            )
        return spool

    def destination(self, jobs: int) -> Uploader | None:
        """Return where finished shards go; None for the directory itself."""
        return Uploader(self.spool, self.bucket, jobs=jobs) if self.bucket else None

    def producer_options(self) -> list[str]:
        """Return the options that name the spool to a background producer; none for a directory."""
        if not self.bucket:
            return []
        staging = (self.staging or STAGING).absolute()
        return ["--spool", str(self.location), "--staging", str(staging)]

    def status(self) -> SpoolStatus:
        """Return the status to show while shards are made."""
        return build_status(self.spool, self.bucket) if self.bucket else spool_status(self.spool)


# -- inspecting ---------------------------------------------------------------------------------------


def verify_bucket(bucket: Bucket, staging: Path | None) -> tuple[int, list[str]]:
    """Download and check every object, one at a time; return how many, and a line for each that is damaged."""
    layout, plan = bucket.stream.layout(), bucket.digest
    faults: list[str] = []
    listed = bucket.list_shards()
    parent = staging or STAGING
    with disk_errors(parent / "check"):
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=parent) as directory:
        path = Path(directory) / "shard.tar"
        for shard, size in sorted(listed.items()):
            reason = ""
            if size != layout.shard_bytes:
                reason = f"{size} bytes, the plan's shards have {layout.shard_bytes}"
            elif bucket.download(shard, path):
                try:
                    verify_shard(path, layout, shard, plan)
                except ShardDamaged as error:
                    reason = str(error).removeprefix(f"{path}: ")
            if reason:
                faults.append(f"damaged {bucket} shard {shard}: {reason}")
    return len(listed), faults


def stop_local_producers(url: StoreUrl, staging: Path | None) -> str:
    """Stop this host's background producers of a bucket; return a line for the user. Raises SpoolError."""
    spool = Spool(staging_directory(url, staging, "build"))
    pids = background.stop_producers(spool.open()) if spool.path.is_dir() else []
    if pids:
        return f"stopped {', '.join(f'pid {pid}' for pid in pids)}"
    holder = Bucket.at(url).open().watch_producer().look()
    elsewhere = f"; the last producer of {url} was {holder}: stop it there" if holder else ""
    return f"no producer is running here{elsewhere}"
