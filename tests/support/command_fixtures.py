"""Fixtures of the commands as a user types them: calls in this process, processes, data and finished spools."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from darkprep.commands.main import main
from tests.support.command_line import LARGE, SMALL, Call, build_spool
from tests.support.reused_workers import ReusedWorkers
from tests.support.sid_tree import write_sid

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current directory, no default data, one thread; afterwards the signal handlers of before."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DARKPREP_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def _workers_end() -> Iterator[None]:
    yield
    ReusedWorkers.end_all()


@pytest.fixture
def reused_workers(_workers_end: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of this process use the worker processes of earlier tests."""
    monkeypatch.setattr("darkprep.pipeline.produce.executors.config.LokyPool", ReusedWorkers)


@pytest.fixture
def call(reused_workers: None) -> Call:
    """Runs `darkprep` with arguments; anything but a clean end is raised."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(
            main, [str(one) for one in arguments], prog_name="darkprep", catch_exceptions=False
        )

    return run


@pytest.fixture
def complaint(call: Call) -> Callable[..., str]:
    """Runs `darkprep`, which must fail with one line on stderr and nothing else there; the line."""

    def run(*arguments: object, status: int = 1) -> str:
        result = call(*arguments)
        lines = result.stderr.splitlines()
        assert result.exit_code == status, result.output
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("darkprep: ")
        return lines[0].removeprefix("darkprep: ")

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `darkprep` as a process of its own, ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "darkprep", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training scenes with two shorts each and one test scene, 64 x 96 pixels."""
    root = write_sid(tmp_path_factory.mktemp("small"), scenes=3, shorts=2)
    return write_sid(root, scenes=1, shorts=1, split=1)


@pytest.fixture(scope="session")
def large_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training scenes and one test scene with one short each, 224 x 256 pixels."""
    root = write_sid(tmp_path_factory.mktemp("large"), scenes=2, shorts=1, size=(224, 256))
    return write_sid(root, scenes=1, shorts=1, size=(224, 256), split=1)


@pytest.fixture(scope="session")
def _small_spool(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, _workers_end: None
) -> Path:
    return build_spool(tmp_path_factory.mktemp("built"), "--root", small_data, *SMALL)


@pytest.fixture(scope="session")
def _large_spool(
    tmp_path_factory: pytest.TempPathFactory, large_data: Path, _workers_end: None
) -> Path:
    return build_spool(
        tmp_path_factory.mktemp("built"), "--root", large_data, *LARGE, "--epochs", "2"
    )


@pytest.fixture
def small_spool(_small_spool: Path, tmp_path: Path) -> Path:
    """A finished plan of three small shards, for this test alone, in ./spool."""
    return Path(shutil.copytree(_small_spool, tmp_path / "spool")).relative_to(tmp_path)


@pytest.fixture
def large_spool(_large_spool: Path, tmp_path: Path) -> Path:
    """A finished plan of two shards of four samples, for this test alone, in ./spool."""
    return Path(shutil.copytree(_large_spool, tmp_path / "spool")).relative_to(tmp_path)
