"""A spool in object storage as the commands use it: its directory on this host, and the division of its budget.

The trade-off: every host that builds or trains has a directory for the bucket, below --staging and named
after the bucket's URL, so that no two spools share a directory. It may be deleted when no process uses it;
then files must be downloaded or decoded again.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import xxhash

from darkprep.jobs import background
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import (
    check_budget,
    default_budget,
    default_staging_budget,
    staging_capacity,
)
from darkprep.pipeline.produce.shrinking import recorded_settings
from darkprep.shards import OptionError, PlanError, ShardDamaged, Spool, SpoolError
from darkprep.shards.files import disk_errors
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote.bucket import Bucket, wrong_size
from darkprep.shards.remote.uploader import UPLOADS, Uploader
from darkprep.shards.remote.url import StoreUrl
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
    """Raise OptionError if options for object storage are given although the spool is a directory."""
    for name, value in (("staging", staging), ("staging-budget", staging_budget)):
        if value is not None:
            raise OptionError(
                f"{name} can be used only with a --spool in object storage (s3://, gs://, az://)"
            )


# -- building -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BudgetShares:
    """The parts into which a disk budget is divided."""

    budget_bytes: int
    """The whole budget: objects, the producer's directory and the trainer's directory."""
    staging_bytes: int = 0
    """Bytes for the trainer's directory."""

    @property
    def build_bytes(self) -> int:
        """Bytes for the objects and the producer's directory together."""
        return self.budget_bytes - self.staging_bytes


@dataclass(frozen=True, kw_only=True)
class BuildSpool:
    """The spool of a build: a directory that is the spool, or in which shards for a bucket are made."""

    location: Path | StoreUrl
    staging: Path | None
    bucket: Bucket | None

    @classmethod
    def at(
        cls, location: Path | StoreUrl, staging: Path | None, stop: threading.Event
    ) -> BuildSpool:
        """Return the spool at the chosen location. A bucket is contacted at once, before any photograph is read.

        Raises OptionError, and the errors of Bucket.at.
        """
        if isinstance(location, StoreUrl):
            bucket = Bucket.at(location, stop=stop)
            return cls(location=location, staging=staging, bucket=bucket)
        refuse_staging_options(staging)
        return cls(location=location, staging=None, bucket=None)

    @property
    def spool(self) -> Spool:
        """The spool's directory on this host."""
        if isinstance(self.location, StoreUrl):
            return Spool(staging_directory(self.location, self.staging, "build"))
        return Spool(self.location)

    def divide_budget(self, plan: Plan, budget: int | None, staged: int | None) -> BudgetShares:
        """Return the parts of a budget; None stands for a default. Raises BudgetTooSmall and OptionError."""
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
        """Return the settings with which the spool was built before; None for a new spool or object storage."""
        return None if self.bucket else recorded_settings(self.spool, plan)

    def with_recorded_noise(self, options: PlanOptions) -> PlanOptions:
        """Return `options` with the edition of the noise with which this spool was built before, if with that noise."""
        if options.noise is None:
            return options
        try:
            recipe = (self.bucket or self.spool).open().plan.recipe
            before = PlanOptions.from_record(recipe.get("options"))
        except (PlanError, SpoolError, OptionError, TypeError, ValueError):
            return options  # no spool there, or one that is refused later
        same = before.noise == options.noise
        return replace(options, noise_edition=before.noise_edition) if same else options

    def save(self, plan: Plan, shares: BudgetShares, settings: ProducerSettings) -> None:
        """Write the plan, with the `settings` for producers on this host.

        Raises PlanError when the spool holds another plan.
        """
        if self.bucket:
            shared = ProducerSettings(**asdict(shares), part=settings.part, parts=settings.parts)
            self.bucket.publish(plan.record(shared, plan.cameras))
        plan.save(self.spool, replace(settings, budget_bytes=shares.build_bytes))

    def reopen(self) -> Spool:
        """Open the spool that was saved. Raises PlanError when its bucket now holds another plan."""
        spool = self.spool.open()
        if self.bucket and self.bucket.open().digest != spool.digest:
            raise PlanError(
                f"{self.bucket}: its plan is not the one in the local directory {spool.path}; choose another --staging, or run `darkprep build` with the options of the bucket's plan"
            )
        return spool

    def destination(self, jobs: int) -> Uploader | None:
        """Return the destination of finished shards; None if it is the directory itself."""
        return Uploader(self.spool, self.bucket, jobs=jobs) if self.bucket else None

    def producer_options(self) -> list[str]:
        """Return the options that name the spool to a background producer; empty for a directory."""
        if not self.bucket:
            return []
        staging = (self.staging or STAGING).absolute()
        return ["--spool", str(self.location), "--staging", str(staging)]

    def status(self) -> SpoolStatus:
        """Return the status that is shown while shards are made."""
        return build_status(self.spool, self.bucket) if self.bucket else spool_status(self.spool)


# -- inspecting ---------------------------------------------------------------------------------------


def verify_bucket(bucket: Bucket, staging: Path | None) -> tuple[int, list[str]]:
    """Download and check every object, one at a time; return their number, and a line for each damaged one."""
    faults: list[str] = []
    parent = staging or STAGING

    def on_damaged(shard: int, reason: str) -> None:
        faults.append(f"damaged {bucket} shard {shard}: {reason}")

    sizes, shard_bytes = bucket.list_shards(), bucket.stream.layout().shard_bytes
    for shard, size in sizes.items():
        if size != shard_bytes:
            on_damaged(shard, wrong_size(size, shard_bytes))
    with disk_errors(parent / "check"):
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=parent) as directory:
        path = Path(directory) / "shard.tar"
        for shard in (shard for shard, size in sizes.items() if size == shard_bytes):
            try:
                bucket.download(shard, path)
            except ShardDamaged as error:
                on_damaged(shard, str(error).removeprefix(f"{path}: "))
    return len(sizes), faults


def stop_local_producers(url: StoreUrl, staging: Path | None) -> str:
    """Stop this host's background producers of a bucket; return a message for the user. Raises SpoolError."""
    spool = Spool(staging_directory(url, staging, "build"))
    pids = background.stop_producers(spool.open()) if spool.path.is_dir() else []
    if pids:
        return f"stopped {', '.join(f'pid {pid}' for pid in pids)}"
    holder = Bucket.at(url).open().watch_producer().look()
    elsewhere = f"; the last producer of {url} was {holder}: stop it there" if holder else ""
    return f"no producer is running here{elsewhere}"
