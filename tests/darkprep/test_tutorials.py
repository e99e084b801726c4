"""Every code block of the README and of the tutorials runs, on small synthetic data instead of gigabytes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sid_tree import write_sid

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial-sid.md", "docs/tutorial-eld.md", "docs/api.md")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

SMALL_PLAN = ("--crop", "192", "--samples-per-shard", "4", "--crops-per-visit", "2", "--jobs", "1")
SMALL_TRAINING = (
    *("--iterations", "2", "--batch-size", "2", "--device", "cpu", "--precision", "fp32"),
    *("--model", "redirt-2rdb", "--producers", "1"),
)
ADDED = {
    "build": (*SMALL_PLAN, "--window", "2", "--disk-budget", "60MB"),
    "stream-train": SMALL_TRAINING,
    "advise": (*SMALL_PLAN, *SMALL_TRAINING[:-2], "--disk-budget", "60MB"),
    "synth": ("--scenes", "2", "--shorts", "1", "--size", "256x320", "--jobs", "1"),
    "evaluate": ("--device", "cpu"),
    "restore": ("--device", "cpu"),
    "demo": ("--minutes", "0.5"),
}
"""Options that make a page's command small; of an option given twice the last one counts."""

NOT_IN_A_BLOCK = {"import_published"}
"""Functions without an example that runs: this one needs the checkpoint of REDIRT's authors, which is not here."""

RUN_BY_THE_GATE = re.compile(r"(python3 -m venv|\.venv/bin/pip|\.venv/bin/pytest|eval )")
"""Installation and tests; .ci/run does what the README says there."""


def blocks(page: str, *languages: str) -> Iterator[str]:
    for language, text in _BLOCK.findall((ROOT / page).read_text()):
        if language in languages:
            yield text


def expanded(word: str) -> list[str]:
    """Return the files that match a pattern, or the word itself, as a shell does."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def commands(page: str) -> Iterator[list[str]]:
    """Return the page's calls of darkprep, with options that make them small."""
    for block in blocks(page, "bash"):
        for call in re.split(r"\n| && ", block.replace("\\\n", " ")):
            words = shlex.split(call, comments=True)
            if not words or RUN_BY_THE_GATE.match(call):
                continue
            called = words[0].removeprefix(".venv/bin/")
            assert called == "darkprep", f"{page}: {call!r} is no call of darkprep"
            named = [file for word in words[1:] for file in expanded(word)]
            added = list(ADDED.get(words[1], ()))
            if "--model" in named and "--model" in added:  # a network of one's own stays
                at = added.index("--model")
                del added[at : at + 2]
            yield [*named, *added]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call) -> Path:
    """A directory with a small SID in ./data, another photograph, more in ./night, and pairs in ./mine."""
    monkeypatch.chdir(tmp_path)
    data = write_sid(tmp_path / "data", scenes=2, shorts=1, size=(256, 320))
    write_sid(data, scenes=1, shorts=1, size=(256, 320), split=1)
    (tmp_path / "night").mkdir()
    short = next((data / "Sony" / "short").iterdir())
    shutil.copy(short, tmp_path / "photo.ARW")
    shutil.copy(short, tmp_path / "night" / "DSC0001.ARW")
    for kind in ("short", "long"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for photograph in (data / "Sony" / kind).iterdir():
            shutil.copy(photograph, tmp_path / "mine" / kind / f"{photograph.name[:5]}.NEF")
    return tmp_path


def darkprep(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, because `--background` leaves one behind and signal handlers are per process."""
    call = [sys.executable, "-m", "darkprep", *words]
    return subprocess.run(call, capture_output=True, text=True, timeout=300)


def run_page(page: str) -> None:
    spools = {"spool"}
    for block in blocks(page, "python"):
        if block.startswith("# mynet.py"):
            Path("mynet.py").write_text(block)
    try:
        for words in commands(page):
            if "--spool" in words:
                spools.add(words[words.index("--spool") + 1])
            # A training that is to be resumed has ended here already: let it go on.
            if "--resume" in words:
                words += ["--iterations", "4"]
            # The stream with an end of the README's first block gives way to the endless one.
            if words[0] == "build" and "inf" in words and Path("spool/plan.json").exists():
                shutil.rmtree("spool") if "--spool" not in words else None
            done = darkprep(words)
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    finally:
        for spool in spools:
            darkprep(["stop", "--spool", spool])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page, world):
    run_page(page)


def test_every_code_block_of_a_page_is_either_run_or_output():
    for page in PAGES:
        kinds = {language for language, _ in _BLOCK.findall((ROOT / page).read_text())}
        assert kinds <= {"bash", "python", "text"}, page
        assert list(commands(page)) or page == "docs/api.md"


FRAMEWORKS = ("torchdata", "pytorch_lightning", "accelerate")
INTERFACE = list(blocks("docs/api.md", "python"))


def framework_of(block: str) -> str | None:
    """The framework that a block needs, if any."""
    return next(
        (name for name in FRAMEWORKS if re.search(rf"^(?:import|from) {name}", block, re.M)), None
    )


@pytest.mark.slow
def test_the_python_blocks_of_the_interface_page_run(large_spool, large_data):
    """In one process, because loading torch for each of them would take most of the time."""
    Path("data").symlink_to(large_data)
    run_blocks([block for block in INTERFACE if framework_of(block) is None])


@pytest.mark.frameworks
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_blocks_for_a_framework_run(framework, large_spool):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed (pip install '.[frameworks]')")
    found = [block for block in INTERFACE if framework_of(block) == framework]

    assert found
    run_blocks(found, warnings="default")


@pytest.mark.parametrize("package", ["shards", "pipeline", "trainer", "model"])
def test_every_public_name_is_on_the_interface_page_and_every_function_in_a_block(package):
    module = importlib.import_module(f"darkprep.{package}")
    page = (ROOT / "docs" / "api.md").read_text()
    code = set(re.findall(r"\w+", " ".join(INTERFACE)))
    functions = {name for name in module.__all__ if inspect.isfunction(getattr(module, name))}

    assert [name for name in module.__all__ if not re.search(rf"`{name}\b", page)] == []
    assert sorted(functions - code - NOT_IN_A_BLOCK) == []


def test_the_python_of_the_readme_runs(large_spool):
    for block in blocks("README.md", "python"):
        # The README's loop goes on for ever; the plan here has an end.
        run_python(block.replace("batch_size=8", "batch_size=2, shards=2"))


def run_blocks(found: list[str], *, warnings: str = "error") -> None:
    """Run blocks one after the other, each with names of its own; a traceback shows the line of the block."""
    code = """
import json, linecache, sys
for number, block in enumerate(json.load(sys.stdin)):
    name = f"<block {number}>"
    linecache.cache[name] = (len(block), None, block.splitlines(True), name)
    exec(compile(block, name, "exec"), {"__name__": "__main__"})
"""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", code],
        input=json.dumps(found),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def run_python(block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        timeout=120,
        env=None,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_commands_is_up_to_date():
    """Runs in a process of its own, because click caches the names of the --help option."""
    code = "import runpy; print(runpy.run_path('docs/make_commands.py')['page'](), end='')"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )

    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == made.stdout, "run: python docs/make_commands.py"


def test_the_pages_build_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the pages are not built: mkdocs is not installed (pip install '.[docs]')")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    place = ["--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([*build, *place], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tutorial-sid" / "index.html").exists()


@pytest.mark.parametrize("words", ["darkprep st", "darkprep --version st"])
def test_completion_offers_the_commands(words):
    asked = {
        "_DARKPREP_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [
        sys.executable,
        "-c",
        "from darkprep.commands.main import main; main(prog_name='darkprep')",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | asked, timeout=60
    )

    assert "plain,stream-train" in done.stdout
    assert all(line.startswith("plain,") for line in done.stdout.splitlines())
