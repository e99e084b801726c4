"""Finished cells as the entries of tables and the pictures of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darkprep.shards.files import read_json
from darkprep.studies.cells import Score, Training
from darkprep.studies.outcome import Comparison, Shown, picture_row, typical
from darkprep.studies.work import Cell, Work
from darkprep.view.numbers import format_duration

UNTRAINED = "none: the input, amplified"
"""The row of what is to be beaten."""


def result(work: Work, cell: Cell) -> dict[str, Any]:
    """What a finished cell found."""
    found = work.result(cell.name)
    assert found is not None, f"{cell.name} was carried out"
    return found


def decibels(value: float | None) -> str:
    """A PSNR."""
    return "infinite" if value is None else f"{value:.2f}"


def scores(work: Work, cell: Score, of: str = "") -> str:
    """PSNR / SSIM of a score; `of` is "input " for those of the amplified input."""
    found = result(work, cell)
    return f"{decibels(found[f'{of}psnr'])} / {found[f'{of}ssim']:.3f}"


def group_scores(work: Work, cell: Score, group: str, of: str = "") -> str:
    """PSNR / SSIM of one reported group of pairs; `of` is "baseline_" for those of the amplified input."""
    found = result(work, cell)["groups"][group]
    return f"{decibels(found[f'{of}psnr'])} / {found[f'{of}ssim']:.3f}"


def trained(work: Work, training: Training) -> dict[str, str]:
    """A training's scenes, parameters, last loss and time."""
    found = result(work, training)
    return {
        "scenes": str(found["scenes"]),
        "parameters": f"{found['parameters']:,}",
        "loss": f"{found['last loss']:.4f}",
        "time": format_duration(found["seconds"]),
    }


def images(work: Work, cell: Score) -> list[dict[str, Any]]:
    """A score's figures by pair."""
    return list((read_json(cell.folder(work) / "metrics.json") or {})["images"])


def compared(
    work: Work, name: str, labelled: Sequence[tuple[str, Score]], pair: str | None = None
) -> Comparison:
    """One pair of a camera: the amplified input, each network's picture, and the truth.

    It is the first network's typical one, or the given `pair` where that network has restored it.
    """
    there = images(work, labelled[0][1])
    known = pair in {image["pair"] for image in there}
    chosen = (pair if pair and known else typical(there)).replace("/", "_")
    rows = [picture_row(score.folder(work) / f"{chosen}.png", 3) for _, score in labelled]
    return Comparison(
        name=name,
        pictures=(
            Shown(label="amplified", pixels=rows[0][0]),
            *(
                Shown(label=label, pixels=row[1])
                for (label, _), row in zip(labelled, rows, strict=True)
            ),
            Shown(label="truth", pixels=rows[0][2]),
        ),
    )
