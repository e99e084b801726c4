"""Nothing is written, truncated or deleted through a link that a spool or run of someone else holds."""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.samples import META
from darkprep.jobs import background
from darkprep.jobs.validation import ValidationCrop, write_jpeg
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import Sample, Spool
from darkprep.shards.errors import SpoolError
from darkprep.shards.files import open_for_writing, remove, write_bytes
from darkprep.shards.locks import FileLock
from darkprep.shards.quarantine import ShardQuarantine
from darkprep.studies.task_kinds import CalibrationTask
from darkprep.studies.tasks import StudyContext, run_tasks
from darkprep.trainer.run_files import training_lock
from darkprep.trainer.run_log import RunLog
from darkprep.view.live import Progress

ROOT = Path(__file__).parents[2]
MINE = b"mine"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file of the user outside the spool."""
    path = tmp_path / "home" / "victim"
    path.parent.mkdir()
    path.write_bytes(MINE)
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return the directory of someone else's spool or run."""
    (tmp_path / "foreign").mkdir()
    return tmp_path / "foreign"


def append_to_quarantine(path: Path) -> None:
    bad = path.parent / "bad"
    bad.write_bytes(b"x")
    ShardQuarantine(path.parent).add(bad, 3, "test")


def write_metrics(path: Path) -> None:
    with RunLog(path.parent, start=0) as log:
        log.write_evaluation({"iteration": 1})


def acquire(path: Path) -> None:
    with FileLock(path, "a test", directory=path.parent):
        pass


WAYS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "file": ("plan.json", lambda path: write_bytes(path, b"x")),
    "temporary": (
        f".plan.json.{os.getpid()}.tmp",
        lambda path: write_bytes(path.parent / "plan.json", b"x"),
    ),
    "lock": ("lock", acquire),
    "log": ("log.txt", lambda path: open(path, "ab", opener=open_for_writing).close()),
    "new log": ("log.txt", lambda path: open(path, "wb", opener=open_for_writing).close()),
    "quarantine": ("refused.jsonl", append_to_quarantine),
    "metrics": ("metrics.jsonl", write_metrics),
    "evaluations": ("evaluations.jsonl", write_metrics),
    "shard": ("1.tar", lambda path: os.close(open_for_writing(path, os.O_WRONLY | os.O_EXCL))),
}


@pytest.mark.parametrize(("name", "write"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("exists", [True, False])
def test_no_file_is_written_through_a_link(here, victim, name, write, exists):
    if not exists:
        victim.unlink()
    (here / name).symlink_to(victim)

    try:
        write(here / name)
    except (SpoolError, OSError) as error:
        assert "is a link" in str(error)  # either outcome is right

    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == MINE


@pytest.mark.parametrize("name", ["partial", "ready", "damaged", "cursors", "producers", "frames"])
@pytest.mark.parametrize("lock", ["producer_lock", "trainer_lock"])
def test_a_spool_whose_directory_is_a_link_is_neither_produced_into_nor_trained_on(
    here, victim, name, lock
):
    spool = Spool(here)
    spool.restore_directories()
    if (here / name).exists():
        (here / name).rmdir()
    (here / name).symlink_to(victim.parent)

    with pytest.raises(SpoolError, match=rf"{name}: is a link to .*; replace the link by a copy"):
        getattr(spool, lock)()


@pytest.mark.parametrize("name", ["checkpoints", "heldout", "tensorboard"])
def test_a_run_whose_directory_is_a_link_is_not_continued(here, victim, name):
    (here / name).symlink_to(victim.parent)

    with pytest.raises(SpoolError, match="is a link"):
        training_lock(here)


def test_pictures_are_not_written_through_a_link(here, victim):
    (here / "pair").symlink_to(victim.parent)

    with pytest.raises(SpoolError, match="is a link"):
        write_jpeg(here / "pair" / "victim", np.zeros((8, 8, 3), np.uint8))


def test_a_zarr_store_of_someone_else_is_not_adopted(tmp_path):
    group = '{"zarr_format": 3, "node_type": "group", "attributes": {"owner": 1}}'
    (tmp_path / "zarr.json").write_text(group)

    with pytest.raises(SpoolError, match="holds a zarr store that darkprep did not make"):
        FrameStore(tmp_path).create()
    assert (tmp_path / "zarr.json").read_text() == group


def test_of_temporary_files_only_those_with_names_of_ones_own_are_removed(tmp_path, make_spool):
    others = tmp_path / "spool" / ".notes.txt.4194305.tmp"
    own = others.with_name(".plan.json.4194305.tmp")
    directory = others.with_name(".plan.json.4194306.tmp")
    directory.mkdir(parents=True)
    for path in (others, own):
        path.write_bytes(MINE)

    make_spool()

    assert others.exists()
    assert directory.exists()
    assert not own.exists()


def test_a_frame_store_removes_only_temporary_files_of_its_own_form(tmp_path, victim):
    FrameStore(tmp_path / "frames").create()
    kept = tmp_path / "frames" / ".cache.tmp"
    kept.mkdir()
    (tmp_path / "frames" / ".a.1.tmp").symlink_to(victim.parent)

    FrameStore(tmp_path / "frames").remove_stale_files()

    assert kept.exists()
    assert victim.exists()


@pytest.mark.parametrize("name", WAYS)
def test_no_file_with_a_second_name_is_appended_to_or_cut(here, victim, name):
    file_name, write = WAYS[name]
    (here / file_name).hardlink_to(victim)

    try:
        write(here / file_name)
    except (SpoolError, OSError) as error:
        assert "has a second name (a hard link)" in str(error)  # either outcome is right

    assert victim.read_bytes() == MINE


def test_a_producer_in_the_background_writes_no_log_through_a_linked_directory(here, victim):
    log = victim.parent / "log.txt"
    log.write_bytes(b"x" * (600 << 10))
    (here / "producers").symlink_to(victim.parent)

    with pytest.raises(SpoolError, match="producers: is a link to"):
        background.start(Spool(here), [])

    assert log.stat().st_size == 600 << 10


def test_nothing_is_deleted_through_a_link(here, victim):
    (here / "ready").symlink_to(victim.parent)

    with pytest.raises(SpoolError, match="ready: is a link to"):
        remove(here / "ready" / "victim")

    assert victim.exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_of_a_link_only_the_link_is_deleted(here, victim, kind):
    (here / "link").symlink_to(victim if kind == "file" else victim.parent)

    assert remove(here / "link")

    assert victim.exists()
    assert not remove(here / "link")


@pytest.mark.parametrize(
    "name",
    ["cells", "cells/a.lock", "cells/a.json", "trainings", "trainings/a/run", "scores/a/b.png"],
)
def test_a_study_in_which_anything_is_a_link_is_not_continued(here, victim, name):
    link = here / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim.parent / "new")
    context = StudyContext(
        out=here, root=here, progress=Progress(quiet=True), stop=threading.Event()
    )
    task = CalibrationTask(camera="sony", isos=(100,), seed=0, size=(64, 64))

    with pytest.raises(SpoolError, match=rf"{name}: is a link to"):
        run_tasks([task], context)

    assert not (victim.parent / "new").exists()


@pytest.mark.parametrize("pair", ["..", ".", "../../home", "/home/someone"])
def test_the_pictures_of_a_pair_of_any_id_are_written_below_the_run(here, pair):
    array = np.zeros((4, 2, 2), np.uint16)
    sample = Sample(array, array, replace(META, pair=pair))

    crop = ValidationCrop(sample=sample, dark=array, amplified=array, colours=None)

    assert (here / crop.name).resolve().parent == here


def test_frames_are_stored_and_deleted_behind_a_link_that_the_user_chose(tmp_path, victim):
    (tmp_path / "frames").symlink_to(victim.parent)

    chosen = FramesDirectory.from_options(tmp_path / "spool", tmp_path / "frames", 1 << 30)

    assert chosen.path == victim.parent


SINKS = {
    "shards/files.py": "the functions that open files for writing, delete and rename",
    "shards/shard_file.py": "opens shards for reading",
    "darkprep/commands/errors.py": "/dev/null",
    "darkprep/jobs/background.py": "/dev/null",
    "darkprep/__main__.py": "/dev/null",
    "model/files.py": "may not import shards; opens a new file that it has removed before",
}
"""Files that may open files for writing, delete or rename themselves."""
FORBIDDEN = {
    *("os.open", "os.unlink", "os.remove", "os.rmdir", "os.removedirs", "os.rename", "os.renames", "os.replace"),
    *("os.link", "os.symlink", "os.truncate", "shutil.rmtree", "shutil.move", "shutil.copy", "shutil.copy2"),
    *("shutil.copyfile", "shutil.copytree", "np.save", "np.savez", "tempfile.mkstemp", "tempfile.mkdtemp"),
}  # fmt: skip
WRITING_FLAGS = {"os.O_CREAT", "os.O_RDWR", "os.O_WRONLY"}
METHODS = (".write_text", ".write_bytes", ".touch", ".unlink", ".rmdir", ".rename", ".tofile", ".symlink_to", ".hardlink_to")  # fmt: skip


def changes_files(call: ast.Call) -> bool:
    """Return whether a call writes, deletes or renames files otherwise than by a function of shards/files.py."""
    name = ast.unparse(call.func)
    if any(one.arg == "opener" and ast.unparse(one.value) == "open_for_writing" for one in call.keywords):  # fmt: skip
        return False
    if name == "np.save" and ast.unparse(call.args[0]) == "file":  # of replace_atomically
        return False
    constants = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    is_open = name == "open" or name.endswith(".open")
    to_write = any(
        isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in constants
    )
    if name == "open_regular_file" and any(
        ast.unparse(one) in WRITING_FLAGS for arg in call.args for one in ast.walk(arg)
    ):
        return True
    renames = name.endswith(".replace") and len(call.args) == 1 and not call.keywords
    return (is_open and to_write) or renames or name in FORBIDDEN or name.endswith(METHODS)


@pytest.mark.parametrize(
    "code",
    [
        *("open(path, 'w')", "path.open('ab')", "open(p, 'xb', opener=other)", "os.open(p, flags)"),
        *("path.unlink()", "path.replace(other)", "path.rename(other)", "shutil.rmtree(path)"),
        *("path.write_text('x')", "open_regular_file(path, os.O_RDWR | os.O_CREAT)"),
    ],
)
def test_the_check_of_the_code_finds(code):
    assert changes_files(ast.parse(code, mode="eval").body)


def test_only_one_module_opens_files_for_writing_deletes_and_renames():
    folders = ("darkprep", "model", "pipeline", "shards", "synth", "trainer")
    for path in (one for folder in folders for one in (ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        calls = (one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call))
        found = [f"{name}:{call.lineno}" for call in calls if changes_files(call)]
        assert not found or name in SINKS
