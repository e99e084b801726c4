"""What the packages offer is there, and loading them does nothing else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = (
    "darkprep",
    *(f"darkprep.{name}" for name in ("pipeline", "shards", "trainer", "model", "synth")),
)
LIGHT = (
    "darkprep.commands.main",
    "darkprep.pipeline",
    "darkprep.pipeline.produce.producer",
    "darkprep.report.run_page",
    "darkprep.shards",
    "darkprep.view.live",
)
"""What producers, `--help`, `status` and `report` load."""
HEAVY = (
    "torch",
    "darkprep.trainer.loop",
    "darkprep.model",
    "webdataset",
    "tensorboard",
    "safetensors",
)
NOT_OF_A_TRAINING = ("rawpy", "joblib", "click", "tensorboard", "pynvml")
"""What the loop of a training does not load."""


def modules(package: str) -> list[str]:
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    return [one.name for one in found if not one.name.endswith("__main__")]


def run(code: str, home: Path) -> str:
    """What a fresh interpreter prints in the empty directory `home`, every warning an error."""
    tree = Path(__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "darkprep"])
def test_what_a_package_lists_is_there_once(package):
    module = importlib.import_module(package)

    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_says_what_it_is(package):
    for name in [package, *modules(package)]:
        assert importlib.import_module(name).__doc__, name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package):
    (folder,) = importlib.import_module(package).__path__

    assert Path(folder, "py.typed").is_file()


@pytest.mark.parametrize("module", LIGHT)
def test_the_producing_side_loads_no_torch(tmp_path, module):
    code = f"import {module}; print([name for name in {HEAVY} if name in sys.modules])"

    assert run(code, tmp_path) == "[]\n"


def test_loading_everything_says_nothing_starts_nothing_and_makes_nothing(tmp_path):
    """In one process, the loop of a training first: it needs nothing of what makes its shards."""
    every = [name for package in PACKAGES for name in modules(package)]
    code = f"""
import importlib, os, signal, threading
import darkprep.trainer.loop
print([name for name in sys.modules if name.split(".")[0] in {NOT_OF_A_TRAINING}
       or name.startswith("darkprep.pipeline")])
import joblib, numpy, torch  # joblib does set something
before = (torch.initial_seed(), torch.get_num_threads(), dict(os.environ),
          signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
state = numpy.random.get_state()[1].tobytes()
for name in {every}:
    importlib.import_module(name)
assert before == (torch.initial_seed(), torch.get_num_threads(), dict(os.environ),
                  signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
assert state == numpy.random.get_state()[1].tobytes()
assert threading.active_count() == 1
"""

    assert run(code, tmp_path) == "[]\n"
    assert not list(tmp_path.iterdir())


def imported_by(path: Path) -> list[str]:
    """Every module that a file names in an import, at whatever depth."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
            assert not node.level, f"{path} has a relative import"
    return found


def test_tests_share_code_through_support_alone():
    """A module of tests, or a conftest, that another one imports cannot be read or run on its own."""
    folder = Path(__file__).parent
    programs = [
        *folder.rglob("*.py"),
        *folder.parent.glob("bench/*.py"),
        *folder.parent.glob("fuzz/*.py"),
    ]
    wrong = [
        f"{path}: {name}"
        for path in programs
        for name in imported_by(path)
        if "conftest" in name
        or (name.split(".")[0] == "tests" and not name.startswith("tests.support."))
    ]

    assert not wrong
