"""Show a spool's status as plain text: several lines for `darkprep status`, one line in a pipe."""

from __future__ import annotations

from darkprep.view.numbers import format_bytes, format_count, format_duration
from darkprep.view.status import FramesStatus, SpoolStatus, TrainerStatus, WatchedProducer


def status_lines(status: SpoolStatus) -> list[str]:
    """Return the whole status as lines of text."""
    planned = (
        "plan without end" if status.shards_planned is None else f"{status.shards_planned} planned"
    )
    trainer = status.trainer
    lines = [
        f"spool      {status.spool} ({status.camera}, plan {status.plan})",
        f"shards     {status.shards_ready} ready, {planned}, {format_bytes(status.shard_bytes)} each",
        f"disk       {disk_text(status)}{_disk_parts(status)}",
        *_frames_lines(status.frames_elsewhere),
        f"trainer    {'running' if trainer.alive else 'not running'}, next batch {trainer.batch}, "
        f"needs shards from {status.next_needed} on, waited {_wait_text(trainer)}",
        *_training_lines(trainer),
        *(_producer_line(producer) for producer in status.producers),
    ]
    if status.damaged:
        where = "" if status.objects_bytes is not None else "; see damaged/refused.jsonl"
        lines.append(f"damaged    {format_count(status.damaged, 'shard')}{where}")
    return [*lines, f"limit      {status.limiting_side}"]


def summary_line(status: SpoolStatus) -> str:
    """Return the changing figures in one line."""
    parts = trainer_parts(status.trainer) if status.trainer.alive else []
    parts += [disk_text(status), f"{format_count(status.shards_ready, 'shard')} ready"]
    if status.live_producers:
        parts.append(_producer_part(status.live_producers[-1]))
    if status.damaged:
        parts.append(f"{status.damaged} damaged")
    return " | ".join(parts)


def disk_text(status: SpoolStatus) -> str:
    """Return the used and allowed disk space, such as `40 MB of 80 MB (50%)`."""
    used, budget = status.disk_bytes, status.budget_bytes
    share = f" of {format_bytes(budget)} ({used / budget:.0%})" if budget else ""
    return f"{format_bytes(used)}{share}"


def trainer_parts(trainer: TrainerStatus) -> list[str]:
    """Return the trainer's figures: position and two rates first, then everything else that is known."""
    training = trainer.training
    if training is None:
        return [f"batch {trainer.batch:,}"]
    goal = (
        f" of {training.iterations:,}" if training.iterations and not training.ends_by_clock else ""
    )
    parts = [
        f"iteration {training.iteration:,}{goal}",
        f"{training.iterations_per_s:.2f} it/s",
        f"{training.samples_per_s:.1f} samples/s",
    ]
    if training.loss is not None:
        parts.append(f"loss {training.loss:.4f}")
    if training.validation is not None:
        _, psnr, ssim = training.validation
        parts.append(f"validation {psnr:.2f} dB, SSIM {ssim:.3f}")
    wait = f", now for {format_duration(trainer.waiting_s)}" if trainer.waits_long else ""
    parts.append(f"data wait {trainer.wait_fraction:.1%}{wait}")
    if training.gpu_busy_percent is not None:
        parts.append(f"GPU {training.gpu_busy_percent:.0f}%")
    if training.ends_by_clock:
        parts.append(f"ends in {format_duration(training.ends_in_s or 0.0)}")
    elif training.eta_s is not None:
        parts.append(f"ETA {format_duration(training.eta_s)}")
    return parts


def _wait_text(trainer: TrainerStatus) -> str:
    now = f", now for {format_duration(trainer.waiting_s)}" if trainer.waits_long else ""
    return f"{trainer.wait_fraction:.1%} of the time{now}"


def _training_lines(trainer: TrainerStatus) -> list[str]:
    training = trainer.training
    if training is None:
        return []
    goal = f" of {training.iterations:,}" if training.iterations else ""
    parts = [
        f"iteration {training.iteration:,}{goal}",
        f"{training.iterations_per_s:.2f} it/s",
        "loss ?" if training.loss is None else f"loss {training.loss:.4f}",
        f"ETA {format_duration(float('inf') if training.eta_s is None else training.eta_s)}",
    ]
    if training.validation is not None:
        iteration, psnr, ssim = training.validation
        parts.append(f"validation {psnr:.2f} dB, SSIM {ssim:.3f} at {iteration:,}")
    return [f"           {', '.join(parts)}"]


def _producer_line(producer: WatchedProducer) -> str:
    status = producer.status
    state = status.state if producer.alive else f"ended ({status.state})"
    since = producer.seconds_since
    seen = "" if since is None else f", seen {since:.0f} s ago"
    return (
        f"producer   pid {producer.pid} on {producer.host}: {state}, "
        f"{format_count(status.shards_made or 0, 'shard')} made, {status.mb_per_s or 0.0:.1f} MB/s, "
        f"blocked {producer.blocked_fraction:.0%}{seen}"
    )


def _producer_part(producer: WatchedProducer) -> str:
    status = producer.status
    eta = "" if producer.eta_s is None else f", ETA {format_duration(producer.eta_s)}"
    return (
        f"producer {status.state}, {status.shards_made or 0} made, "
        f"{format_count(status.frames_decoded or 0, 'frame')} decoded, {status.mb_per_s or 0.0:.1f} MB/s{eta}"
    )


def _disk_parts(status: SpoolStatus) -> str:
    """Return where the bytes of a spool in object storage are; empty for a spool in a directory."""
    if status.objects_bytes is None:
        return ""
    objects, staged = status.objects_bytes, status.staged_bytes or 0
    rest = status.disk_bytes - objects - staged
    parts = [f"{format_bytes(objects)} objects"]
    parts += [f"{format_bytes(rest)} at the producer"] if rest else []
    parts += [f"{format_bytes(staged)} at the trainer"] if staged else []
    return f": {', '.join(parts)}"


def _frames_lines(frames: FramesStatus | None) -> list[str]:
    if frames is None:
        return []
    used, budget = format_bytes(frames.disk_bytes), format_bytes(frames.budget_bytes)
    return [f"frames     {used} of {budget} in {frames.path}"]
