"""Compare three ways to feed the same training run on one machine: hours, bytes, and the price if one is given.

The trade-off: each way is computed from the rates of the parts, as the prediction of `advise` is. The disk is assumed
to be fast enough for each way, and the table states how fast that is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from darkprep.jobs.advise import Advice, AdviseOptions, assumed_plan, predict
from darkprep.jobs.machines import Machine
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import DEFAULT_BUDGET_BYTES
from darkprep.view.numbers import format_bytes, format_duration, format_number

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to feed a training run."""

    name: str
    before_h: float
    """Hours before the first training step."""
    hours: float
    """Hours in all."""
    busy: float
    """Share of all hours in which the GPU trains."""
    bytes_written: int
    """Bytes written in total."""
    peak_bytes: int
    """Largest size on the disk at any time, beside the photographs."""
    fits: bool
    """Whether the disk has room for `peak_bytes`."""
    write_bytes_per_s: float
    """Speed of writing that the disk is assumed to have, while samples are written."""
    read_bytes_per_s: float
    """Speed of reading samples that the disk is assumed to have. What was just written is mostly still in memory."""


def advise_for_machine(options: AdviseOptions, machine: Machine) -> tuple[Advice, tuple[Way, ...]]:
    """Predict a training run on a described machine, without measuring. Raises OptionError, DatasetError, BudgetTooSmall."""
    plan = _plan(options)
    chosen = replace(
        options,
        jobs=options.jobs or machine.cores,
        disk_budget=options.disk_budget or min(DEFAULT_BUDGET_BYTES, machine.disk_bytes // 2),
    )
    advice = predict(chosen, machine.assumed(plan, options.config), plan)
    ways = compare_ways(
        advice, plan, batch_size=options.config.batch_size, disk_bytes=machine.disk_bytes
    )
    return advice, ways


def _plan(options: AdviseOptions) -> Plan:
    if options.origin.is_data_set:
        return assumed_plan(options.plan)
    found = options.origin.find()
    return make_plan(found.root, options.plan, pairs=found)


def compare_ways(
    advice: Advice, plan: Plan, *, batch_size: int, disk_bytes: int
) -> tuple[Way, ...]:
    """Return darkprep, everything written first, and a lazy DataLoader, for the training run of `advice`."""
    found, visits = advice.measured, plan.options.samples_per_shard // plan.options.crops_per_visit
    size, pair_s = found.sample_bytes, found.decode_s + found.develop_s
    workers = min(advice.jobs, found.cores)
    alone_s = advice.samples / found.train_samples_per_s

    def way(
        name: str, *, before_s: float, training_s: float, peak: int, written: int, writing_s: float
    ) -> Way:
        return Way(
            name=name,
            before_h=before_s / _HOUR,
            hours=(before_s + training_s) / _HOUR,
            busy=alone_s / (before_s + training_s),
            bytes_written=written,
            peak_bytes=peak,
            fits=peak <= disk_bytes,
            write_bytes_per_s=written / writing_s,
            read_bytes_per_s=advice.samples * size / training_s if written else 0.0,
        )

    # While every frame is decoded for the first time, the trainer waits for what the workers cannot make in time.
    first_epoch = len(plan.pairs) * plan.options.crops_per_visit * advice.reuse
    late_s = max(0.0, advice.first_epoch_s - first_epoch / advice.samples_per_s)
    streaming_s = advice.samples / advice.samples_per_s + late_s
    fresh = advice.samples // advice.reuse
    making_s = (advice.first_epoch_s * workers + fresh * found.sample_cpu_s) / found.cores
    lazily_s = advice.samples * (found.train_cpu_s + pair_s) / found.cores
    return (
        way(
            "darkprep",
            before_s=max(1, visits) * pair_s / min(workers, max(1, visits)),
            training_s=streaming_s,
            peak=advice.budget_bytes,
            written=advice.bytes_written,
            writing_s=streaming_s,
        ),
        way(
            "everything written first",
            before_s=making_s,
            training_s=max(alone_s, advice.samples * found.train_cpu_s / found.cores),
            peak=fresh * size,
            written=fresh * size,
            writing_s=making_s,
        ),
        way(
            "lazy DataLoader",
            before_s=batch_size * pair_s,
            training_s=max(alone_s, lazily_s),
            peak=0,
            written=0,
            writing_s=lazily_s,
        ),
    )


def way_lines(ways: tuple[Way, ...], disk_bytes: int, price_per_hour: float | None) -> list[str]:
    """Return the comparison as lines of a table; a price, in the user's own currency, adds a column."""
    rows = [["", "first step after", "in all", "GPU busy", "written", "on disk", "writing at", "reading at", "price"]]  # fmt: skip
    rows += [
        [
            one.name,
            format_duration(one.before_h * _HOUR),
            f"{format_number(one.hours)} h",
            f"{one.busy:.0%}",
            format_bytes(one.bytes_written),
            format_bytes(one.peak_bytes) + ("" if one.fits else " (too much)"),
            f"{format_bytes(one.write_bytes_per_s)}/s",
            f"{format_bytes(one.read_bytes_per_s)}/s",
            format_number(one.hours * price_per_hour) if price_per_hour is not None else "",
        ]
        for one in ways
    ]
    if price_per_hour is None:
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        f"three ways to feed this training run, with {format_bytes(disk_bytes)} of disk beside the photographs:",
        *(
            "  "
            + "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ),
    ]
