"""Read evaluations.jsonl: scores of a network on validation pictures while it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.shards.files import json_objects, read_last_lines
from darkprep.trainer.records import decode


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


def read_validations(run_dir: Path) -> list[Validation]:
    """Return the valid lines of a run's evaluations.jsonl; none if the file is missing or cannot be read."""
    try:
        rows = read_last_lines(run_dir / "evaluations.jsonl")
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
