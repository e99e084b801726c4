"""The figures of a training run: reported after each step, in a line of metrics.jsonl, and in summary.json.

Each of the three has a dataclass, and only this module reads these files; invalid lines are left out.
Importing this module does not load torch, so that `darkprep status` and the reports start fast. The
trade-off: a line with one invalid field is left out completely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from darkprep.shards.cursor import DATA_BOUND_WAIT, NEGLIGIBLE_WAIT
from darkprep.shards.decode import decode, is_number
from darkprep.shards.files import LARGEST_RECORD, json_objects, read_json, read_last_lines

METRICS_FILE, SUMMARY_FILE = "metrics.jsonl", "summary.json"
"""File names in a run directory."""

EndReason = Literal["finished", "stream ended", "stopped"]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The state of a training run after a step."""

    iteration: int
    """Steps done, including those before the run was resumed."""
    iterations: int
    """Steps to do in all."""
    loss: float | None
    """The last known loss; on a GPU it is the loss of a few steps before."""
    learning_rate: float
    iterations_per_s: float
    """Mean over the last steps, as are the next two."""
    samples_per_s: float
    data_wait_fraction: float
    """Share of the time in which the device waited for data, in [0, 1]."""
    eta_s: float
    """Seconds until the last step; infinite before the second step."""
    gpu_busy_percent: float | None
    """The driver's utilisation; None if it is not available."""
    shards_deleted: int
    damaged: int
    """Number of damaged shards found so far; the producer rebuilds them."""


@dataclass(frozen=True, kw_only=True)
class MetricsLine:
    """One line of metrics.jsonl."""

    iteration: int
    loss: float
    """Mean over the steps since the previous line."""
    learning_rate: float
    iterations_per_s: float
    samples_per_s: float
    data_wait_fraction: float
    gpu_busy_percent: float | None
    shards_deleted: int
    damaged: int
    seconds: float
    """Seconds spent in training since the run was started, resumptions included."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further numbers by name; `darkprep stream-train` adds disk_bytes and shards_ready."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MetricsLine:
        """Create a line from a JSON object. Raises ValueError, which names the invalid field."""
        known = {one.name for one in fields(cls)} - {"extra"}
        numbers = {name: value for name, value in record.items() if name not in known}
        extra = {name: value for name, value in numbers.items() if is_number(value)}
        return decode(cls, {**{name: record[name] for name in known & set(record)}, "extra": extra})

    def record(self) -> dict[str, Any]:
        """Return the line as a JSON object, with figures rounded to a useful number of digits."""
        record = asdict(self)
        del record["extra"]
        for name, digits in _DIGITS.items():
            record[name] = round(record[name], digits)
        return record | dict(self.extra)


_DIGITS = {"iterations_per_s": 4, "samples_per_s": 3, "data_wait_fraction": 5, "seconds": 3}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The result of a whole run, resumptions included; summary.json holds the same."""

    iterations: int
    samples: int
    first_loss: float | None
    """Loss of the very first step."""
    last_loss: float | None
    """Loss of the last line of metrics.jsonl."""
    data_wait_fraction: float
    """Share of the time in which the device waited for data, in [0, 1], not counting the time before the first batch."""
    samples_per_second: float
    seconds: float
    first_batch_seconds: float
    """Seconds from the last start or resumption to the first batch."""
    shards_deleted: int
    damaged_shards: int
    peak_disk_bytes: int
    """Largest measured size of the spool directory."""
    parameters: int
    ended: EndReason
    limiting_side: str
    """One sentence: which side was slower, and what to change."""
    validation_psnr: float | None = None
    """In dB, of the last evaluation on validation frames; None if there was none."""
    validation_ssim: float | None = None
    best_validation_psnr: float | None = None
    """The highest of all evaluations."""
    best_validation_iteration: int | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunSummary:
        """Create a summary from a JSON object. Raises ValueError, which names the invalid field."""
        return decode(cls, record)

    def record(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return asdict(self)


def limiting_side(data_wait_fraction: float, *, device: str) -> str:
    """Return one sentence that states whether data or device limits the pace of training, and what to change."""
    share = f"{data_wait_fraction:.1%} of the time"
    if data_wait_fraction < NEGLIGIBLE_WAIT:
        return f"the {device} limits the pace: it waited for data {share}; nothing to change"
    if data_wait_fraction < DATA_BOUND_WAIT:
        return f"producers are nearly as fast as the {device}, which waited for data {share}; a few more --jobs would be enough"
    return (
        f"the data limits the pace: the {device} waited for it {share}; give the producers more --jobs, use each "
        f"sample more often (--reuse), or, if producers are blocked, increase --disk-budget"
    )


def read_metrics(run_dir: Path, *, tail_bytes: int | None = None) -> list[MetricsLine]:
    """Return the valid lines of a run's metrics.jsonl; with `tail_bytes`, only lines within its last `tail_bytes` bytes.

    Returns no lines if the file is missing or cannot be read.
    """
    try:
        rows = read_last_lines(run_dir / METRICS_FILE, tail_bytes or LARGEST_RECORD)
    except OSError:
        return []
    return metrics_lines(rows)


def metrics_lines(rows: Sequence[str | bytes]) -> list[MetricsLine]:
    """Return the valid metrics lines among `rows`; a row that a crash has cut off is invalid."""
    lines = []
    for record in json_objects(rows):
        try:
            lines.append(MetricsLine.from_record(record))
        except ValueError:
            continue
    return lines


def read_summary(run_dir: Path) -> RunSummary | None:
    """Return a run's summary; None if the run has not ended or the file is invalid."""
    record = read_json(run_dir / SUMMARY_FILE)
    try:
        return None if record is None else RunSummary.from_record(record)
    except ValueError:
        return None
