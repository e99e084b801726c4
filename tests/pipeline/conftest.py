"""Small RAW files of every phase, margin, orientation and level, made of one smooth scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.pipeline.raw.dng import DngTags, write_dng
from tests.support.raw_scene import NEUTRAL, PHASES, U16, mosaic_of


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """Writes a RAW file of the scene: phase by name, visible size, tags; returns its path."""

    def write(
        name: str = "frame.dng",
        *,
        phase: str = "RGGB",
        size: tuple[int, int] = (60, 80),
        start: tuple[int, int] = (0, 0),
        gain: float = 1.0,
        mosaic: U16 | None = None,
        **tags: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dng_tags = replace(DngTags(cfa=PHASES[phase], as_shot_neutral=NEUTRAL), **tags)
        top, left, bottom, right = dng_tags.margins
        if mosaic is None:
            period = len(dng_tags.cfa)
            levels = (
                np.array(dng_tags.black)
                if len(dng_tags.black) == 1
                else np.reshape(dng_tags.black, (period, period))
            )
            mosaic = mosaic_of(
                dng_tags.cfa,
                top=start[0],
                left=start[1],
                height=size[0],
                width=size[1],
                black=levels,
                white=dng_tags.white,
                gain=gain,
            )
        masked = np.full(
            (top + size[0] + bottom, left + size[1] + right), int(dng_tags.black[0]), np.uint16
        )
        masked[top : top + size[0], left : left + size[1]] = mosaic
        write_dng(path, masked, dng_tags)
        return path

    return write
