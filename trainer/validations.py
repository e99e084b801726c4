"""Read evaluations.jsonl: scores of a network on validation pictures while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.shards.decode import decode
from darkprep.shards.files import LARGEST_RECORD, json_objects, read_last_lines
from darkprep.trainer.records import RunSummary

VALIDATIONS_FILE = "evaluations.jsonl"
"""File name in a run directory."""


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """The score of one picture in one evaluation."""

    pair: str
    psnr: float
    """In dB."""
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Validation:
    """One line of evaluations.jsonl: mean scores over all pictures, and the score of each picture."""

    iteration: int
    psnr: float
    ssim: float
    scores: tuple[PictureScore, ...] = ()


def best_validation(validations: Sequence[Validation]) -> Validation | None:
    """Return the first validation with the highest PSNR; None if there is none."""
    return max(validations, key=lambda one: one.psnr, default=None)


def with_validations(summary: RunSummary, run_dir: Path) -> RunSummary:
    """Return the summary of a run with the scores of its last and its best validation, if it has any."""
    found = read_validations(run_dir)
    best = best_validation(found)
    if best is None:
        return summary
    return replace(
        summary,
        validation_psnr=found[-1].psnr,
        validation_ssim=found[-1].ssim,
        best_validation_psnr=best.psnr,
        best_validation_iteration=best.iteration,
    )


def read_validations(run_dir: Path, *, tail_bytes: int | None = None) -> list[Validation]:
    """Return the valid lines of a run's evaluations.jsonl; with `tail_bytes`, only lines within its last bytes.

    Returns no lines if the file is missing or cannot be read.
    """
    try:
        rows = read_last_lines(run_dir / VALIDATIONS_FILE, tail_bytes or LARGEST_RECORD)
    except OSError:
        return []
    decoded = (_decode(record) for record in json_objects(rows))
    return [validation for validation in decoded if validation]


def _decode(record: Mapping[str, Any]) -> Validation | None:
    """Decode a line; return None if it is invalid. Invalid scores of single pictures are left out."""
    images = record.get("images")
    try:
        means = decode(Validation, {name: record[name] for name in record if name != "scores"})
    except ValueError:
        return None
    scores = []
    for image in images if isinstance(images, list) else []:
        try:
            scores.append(decode(PictureScore, image if isinstance(image, dict) else {}))
        except ValueError:
            continue
    return replace(means, scores=tuple(scores))
