"""No process that darkprep starts imports from the working directory, which may be someone else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OF_PYTHON = {
    *("importlib", "warnings", "contextlib", "collections", "keyword", "operator", "reprlib", "functools", "types"),
}  # fmt: skip
"""What `python -m` itself imports before any code of darkprep runs."""
HOSTILE = {
    *("click", "joblib", "numpy", "rawpy", "xxhash", "torch", "zarr", "PIL", "rich", "safetensors"),
    *("darkprep", "cloudpickle", "psutil", "distributed", "ray", "sitecustomize", "usercustomize", "jinja2"),
    *("tifffile", "skimage", "scipy", "lmdb", "obstore", "webdataset", "pipeline", "shards", "trainer", "model"),
    *sys.stdlib_module_names - OF_PYTHON,
}  # fmt: skip
LOKY = """
from darkprep.pipeline.produce.executors.loky import LokyPool
pool = LokyPool(1)
assert pool.submit(abs, -2).result() == 2
pool.close()
"""
SPAWN = """
from pathlib import Path
from darkprep.pipeline.produce.quarantine import crashes_decoder
if __name__ == "__main__":
    assert not crashes_decoder(Path("none.dng"))
"""
CLUSTER = """
from darkprep.pipeline.produce.executors.config import ExecutorConfig
if __name__ == "__main__":
    pool = ExecutorConfig(backend="{backend}").create_pool(1)
    assert pool.submit(abs, -2).result() == 2
    pool.close()
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory with modules of many names; each writes a file `imported-NAME` when it is imported."""
    for name in HOSTILE:
        code = f"open({str(tmp_path / f'imported-{name}')!r}, 'w').close()\nraise SystemExit('{name}')\n"
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def run(hostile: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the hostile directory, as a user does who has not set PYTHONSAFEPATH."""
    if "darkprep" in words:  # Python itself would run it in place of darkprep
        (hostile / "darkprep.py").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=hostile, env=environment, capture_output=True, text=True
    )
    assert [path.name for path in hostile.glob("imported-*")] == []
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("code", [LOKY, SPAWN], ids=["loky", "spawn"])
def test_worker_processes_import_nothing_from_the_working_directory(hostile: Path, code: str):
    run(hostile, "-P", "-c", code)


def test_a_rank_that_torchrun_starts_imports_nothing_from_the_working_directory(hostile: Path):
    # As torchrun does it.
    assert "stream-train" in run(hostile, "-u", "-m", "darkprep", "--help").stdout


@pytest.mark.slow
def test_torchrun_itself_does_not_either(hostile: Path):
    words = ["--nproc-per-node", "1", "-m", "darkprep", "--version"]
    assert "darkprep" in run(hostile, "-P", "-m", "torch.distributed.run", *words).stdout


def test_a_producer_in_the_background_imports_nothing_from_the_working_directory(
    hostile: Path, small_data: Path
):
    words = ["--camera", "sony", "--root", str(small_data), "--crop", "32", "--margin", "4"]
    words += ["--jobs", "1", "--disk-budget", "50MB"]
    run(hostile, "-m", "darkprep", "build", *words, "--background", "--quiet")
    run(hostile, "-m", "darkprep", "stop")

    assert "Traceback" not in (hostile / "spool" / "producers" / "log.txt").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_workers_of_a_cluster_import_nothing_from_the_working_directory(
    hostile: Path, backend: str, module: str
):
    pytest.importorskip(module)
    run(hostile, "-P", "-c", CLUSTER.format(backend=backend))
