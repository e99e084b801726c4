"""The command line in this process: options for small plans, a finished spool, a directory's contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from darkprep.commands.main import main
from tests.support.reused_workers import ReusedWorkers

Call = Callable[..., Result]
"""Type of the fixture `call`."""

SMALL = (
    *("--crop", "32", "--margin", "4", "--samples-per-shard", "8", "--crops-per-visit", "4"),
    *("--window", "2", "--jobs", "1"),
)
"""A plan for frames of 64 x 96 pixels: 3 scenes with 2 shorts each make 3 shards."""
LARGE = (
    *("--crop", "192", "--margin", "16", "--samples-per-shard", "4", "--crops-per-visit", "2"),
    *("--window", "2", "--jobs", "1"),
)
"""A plan that the loss can take, for frames of 224 x 256: 2 scenes with one short each make 1 shard."""


def build_spool(home: Path, *arguments: object) -> Path:
    """Run `darkprep build` with a spool in `home` to its end; the spool."""
    spool = home / "spool"
    words = ["build", "--camera", "sony", "--spool", spool, "--quiet", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darkprep.pipeline.produce.executors.config.LokyPool", ReusedWorkers)
        result = CliRunner().invoke(main, [str(one) for one in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return spool


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
