"""A small SID-like Sony folder of real RAW files: random mosaics, so that no two crops are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darkprep.pipeline.raw.dng import DngTags, write_dng

SIZE = (64, 96)


def write_sid(
    root: Path, scenes: int = 3, shorts: int = 2, size: tuple[int, int] = SIZE, split: int = 0
) -> Path:
    """`scenes` scenes with a 10 s exposure and `shorts` shorts of 0.1 s, 0.04 s and 0.033 s."""
    for scene in range(1, scenes + 1):
        rng = np.random.default_rng(scene)
        light = rng.uniform(0.05, 0.95, size)
        _write(root / f"Sony/long/{split}{scene:04d}_00_10s.dng", light, 10.0)
        for exposure in ("0.1", "0.04", "0.033")[:shorts]:
            name = f"{split}{scene:04d}_00_{exposure}s.dng"
            _write(root / "Sony/short" / name, light * float(exposure) / 10, float(exposure))
    return root


def _write(path: Path, light: np.ndarray, exposure: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = np.rint(512 + light * (16383 - 512)).astype(np.uint16)
    write_dng(path, codes, DngTags(exposure_s=exposure, iso=800))


SID_NAMES = (
    "short/00001_00_0.1s",
    "short/00001_01_0.1s",
    "short/00001_00_0.04s",
    "long/00001_00_10s",
    "short/10003_00_0.033s",
    "long/10003_00_10s",
    "short/20211_00_0.1s",
    "long/20211_00_30s",
)
"""Short and long exposures of three scenes, one of each split."""


def touch_sid(root: Path, *names: str, folder: str = "Sony", extension: str = ".ARW") -> Path:
    """Create empty files `short/NAME` and `long/NAME`: SID's pairs are found by name alone."""
    for kind in ("short", "long"):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / f"{name}{extension}").touch()
    return root
