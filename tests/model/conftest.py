"""The published graph and the table of networks, from `bench/`, which is not a package."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published() -> ModuleType:
    return _load("published")


@pytest.fixture(scope="session")
def model_table() -> ModuleType:
    return _load("model_table")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Use one thread, for small frames on shared cores, and restore the number after each test."""
    torch.manual_seed(0)  # weights, and so rounding errors, do not depend on the tests before
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def released(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the names and shapes of the released checkpoint, and random numbers."""
    path = tmp_path_factory.mktemp("released") / "weights"
    torch.save({"model": published.checkpoint(seed=7)}, path)
    return path


@pytest.fixture
def slim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the large networks small; their graphs have the same operations."""
    monkeypatch.setattr("darkprep.model.unet.WIDTHS", (2, 4, 8, 16, 32))
    monkeypatch.setattr("darkprep.model.nafnet.WIDTH", 4)
    for name in ("ENCODER_BLOCKS", "DECODER_BLOCKS"):
        monkeypatch.setattr(f"darkprep.model.nafnet.{name}", (1, 1, 1, 1))
    monkeypatch.setattr("darkprep.model.nafnet.MIDDLE_BLOCKS", 1)
