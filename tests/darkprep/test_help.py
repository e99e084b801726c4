"""Every command has help with an example; showing it loads no torch and writes no file."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from darkprep.commands.main import main, visible_commands
from darkprep.model import MODELS
from darkprep.pipeline.pairs.sets import PAIR_SETS
from darkprep.studies.catalogue import STUDIES
from darkprep.trainer import PROTOCOLS

COMMANDS = visible_commands()
NAMES = sorted(COMMANDS)

HEAVY = (
    "zarr",
    "rawpy",
    "joblib",
    "rich",
    "torch",
    "darkprep.model",
    "darkprep.trainer.loop",
    "webdataset",
    "tensorboard",
    "safetensors",
    "pynvml",
)


def test_the_commands_are_those_that_others_rely_on():
    assert set(NAMES) >= {
        *("demo", "synth", "build", "stream-train", "status", "verify", "stop"),
        *("evaluate", "restore", "import-weights"),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_an_example_and_lists_every_option(call, name, flag):
    result = call(name, flag)

    assert result.exit_code == 0
    assert f"Example: darkprep {name}" in result.stdout
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_example_can_be_pasted(name):
    command = COMMANDS[name]
    assert command.help is not None
    example = command.help.split("Example: darkprep ")[1].split("\n")[0].split()
    context = command.make_context(name, example[1:], resilient_parsing=True)

    assert example[0] == name
    assert set(context.params) == {option.name for option in command.params if option.expose_value}


@pytest.mark.parametrize("name", NAMES)
def test_help_lists_a_command_with_one_short_sentence(name):
    short = COMMANDS[name].short_help
    context = click.Context(main)
    formatter = context.make_formatter()
    main.format_commands(context, formatter)

    assert short
    assert f"  {name} " in formatter.getvalue()
    assert f"  {short}\n" in formatter.getvalue()
    assert short.endswith(".")
    assert len(short) < 60


def test_help_loads_no_torch_and_makes_no_file(tmp_path: Path):
    code = (
        "import sys\nfrom darkprep.commands.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip

    assert done.stdout.endswith("LOADED []\n")
    assert "stream-train" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_lists_the_names_that_an_option_takes(call):
    def shown(command: str) -> str:
        return " ".join(call(command, "--help").stdout.split())

    assert f"Network: {', '.join(MODELS[:-1])} or {MODELS[-1]}." in shown("stream-train")
    assert all(f" {name}" in shown("study") for name in STUDIES)
    assert all(f" ({name})" in shown("evaluate") for name in PROTOCOLS)
    assert all(f" {name} (" in shown("evaluate") for name in PAIR_SETS)


def test_the_version_is_the_package_s(call):
    result = call("--version")

    assert result.exit_code == 0
    assert result.stdout == f"darkprep, version {version('darkprep')}\n"


def test_without_a_command_all_are_listed(call):
    result = call()

    assert result.exit_code == 2
    assert "Commands:\n  advise " in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option '--nonsense'"),
        (["build"], "Missing option '--camera'"),
        (["build", "--camera"], "Option '--camera' requires an argument"),
        (["build", "--camera", "sony", "--fraction", "most"], "'most' is not a valid float"),
        (["build", "--camera", "sony", "--epochs", "some"], "'some' is neither a whole number"),
        (["build", "--camera", "sony", "--disk-budget", "10lb"], "'10lb' is not a valid size"),
        (["synth", "out", "--camera", "sony", "--size", "big"], "'big' is not a valid frame size"),
        (["restore", "--weights", "w"], "Missing argument 'RAW...'"),
        (["status", "left-over"], "Got unexpected extra argument (left-over)"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_status_2(complaint, words, said):
    line = complaint(*words, status=2)

    assert said in line
    assert "--help)" in line
