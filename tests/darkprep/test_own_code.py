"""`--model package.module:Class` and `--loss package.module:function`: trained, resumed, evaluated, refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.processes import free_port

NET = """
import pathlib
from torch import nn

pathlib.Path("imported").touch()


class Net(nn.Module):
    '''Normalises over the batch and drops out, so that its state and the random numbers matter.'''

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(8, 12, 1), nn.PixelShuffle(2))

    def forward(self, low):
        return self.last(self.first(low))
"""
LOSS = """
def charbonnier(restored, target):
    return ((restored - target).square() + 1e-6).sqrt().mean()
"""
OWN = ("--model", "mynet:Net", "--loss", "myloss:charbonnier")
TRAIN = (
    *("stream-train", "--batch-size", "2", "--log-every", "1", "--device", "cpu"),
    *("--keep-shards", "--evaluate-every", "0"),
)


@pytest.fixture(autouse=True)
def own_code() -> Iterator[None]:
    """The two modules in the working directory; afterwards they are not imported any more."""
    Path("mynet.py").write_text(NET)
    Path("myloss.py").write_text(LOSS)
    path, threads = list(sys.path), torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that tests start
    yield
    torch.set_num_threads(threads)
    sys.path[:] = path
    for name in ("mynet", "myloss"):
        sys.modules.pop(name, None)


def losses(run: str) -> list[float]:
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_a_network_and_loss_of_ones_own_are_killed_resumed_and_evaluated_as_if_nothing_happened(
    start, call, large_spool, large_data
):
    words = (*TRAIN, *OWN, "--checkpoint-every", "4", "--iterations", "20")
    assert call(*words, "--run", "whole").exit_code == 0
    killed = start(*words, "--run", "cut")
    deadline = time.monotonic() + 120
    while not list(Path("cut").glob("checkpoints/*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    resumed = call("stream-train", "--resume", "--run", "cut", *OWN)
    assert resumed.exit_code == 0, resumed.output
    assert losses("cut") == losses("whole")
    ours, theirs = (load_file(f"{run}/weights.safetensors") for run in ("cut", "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert "mynet:Net" in Path("cut/report.html").read_text()

    evaluated = call(
        *("evaluate", "--model", "mynet:Net", "--weights", "cut/weights.safetensors"),
        *("--camera", "sony", "--root", large_data, "--device", "cpu"),
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert "sony: 1 pair, PSNR " in evaluated.stdout


def test_no_code_is_imported_because_a_file_names_it(call, complaint, large_spool, large_data):
    assert call(*TRAIN, *OWN, "--iterations", "1", "--run", "run").exit_code == 0
    Path("imported").unlink()
    sys.modules.pop("mynet")
    weights = ("--weights", "run/weights.safetensors")
    line = "run/weights.safetensors: holds weights of mynet:Net, a network of your own; give --model mynet:Net"

    assert complaint("evaluate", *weights, "--camera", "sony", "--root", large_data).startswith(
        line
    )
    short = large_data / "Sony/short/10001_00_0.1s.dng"
    assert complaint("restore", *weights, short).startswith(line)
    resumed = complaint("stream-train", "--resume", "--run", "run", "--iterations", "2")
    assert resumed.startswith(
        "run: this run uses code of your own; give --model mynet:Net --loss myloss:charbonnier again"
    )
    assert not Path("imported").exists()


def test_the_command_that_continues_names_the_code(call, large_spool):
    result = call(*TRAIN[:-3], *OWN, "--producers", "0", "--iterations", "9", "--run", "run")

    assert "stream ended after 4 iterations" in result.stdout
    assert (
        "to continue: darkprep stream-train --resume --run run --model mynet:Net --loss myloss:charbonnier --producers 0\n"
        in result.stdout
    )


@pytest.mark.parametrize(
    ("replaced", "by", "said"),
    [
        (
            "nn.PixelShuffle(2)",
            "nn.Identity()",
            "model mynet:Net: forward of (2, 4, 96, 96) must return (2, 3, 192, 192), not (2, 12, 96, 96)",
        ),
        (
            "self.last(self.first(low))",
            "low.nothing",
            "model mynet:Net: forward of (2, 4, 96, 96) failed: AttributeError: ",
        ),
        (
            "self.last(self.first(low))",
            "[low]",
            "model mynet:Net: forward of (2, 4, 96, 96) must return (2, 3, 192, 192), not a list",
        ),
        (
            "__init__(self)",
            "__init__(self, depth)",
            "model mynet:Net: cannot be built: TypeError: ",
        ),
        ("class Net(nn.Module)", "class Net", "model mynet:Net: is a Net, not a torch.nn.Module"),
        ("class Net", "class Other", "model mynet:Net: cannot be imported from "),
        ("import pathlib", "import nowhere", "model mynet:Net: cannot be imported from "),
        (".mean()", "", "loss myloss:charbonnier: must return a scalar tensor that depends on"),
        (".mean()", ".mean().item()", "loss myloss:charbonnier: must return a scalar tensor"),
        (".mean()", ".mean().detach()", "loss myloss:charbonnier: must return a scalar tensor"),
        ("restored - target", "restored / 'x'", "loss myloss:charbonnier failed: TypeError: "),
        ("def charbonnier", "charbonnier = 3\ndef other", "loss myloss:charbonnier: is a int and"),
    ],
)
def test_what_breaks_the_contract_is_refused_before_the_first_step(
    replaced, by, said, complaint, large_spool
):
    for name in ("mynet.py", "myloss.py"):
        Path(name).write_text(Path(name).read_text().replace(replaced, by))

    line = complaint(*TRAIN, *OWN, "--iterations", "1", "--run", "run", "--quiet")

    assert line.startswith(said)
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize("name", ["my net:Net", "mynet:", ":Net", "os.path:../x", "a:b:c"])
def test_an_invalid_name_is_refused(name, complaint, large_spool):
    line = complaint(*TRAIN, "--model", name, "--iterations", "1", "--run", "run", "--quiet")

    assert line == f"model {name!r}: is not of the form package.module:name"


@pytest.mark.slow
def test_two_ranks_train_and_resume_a_network_of_ones_own(large_spool):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        return subprocess.run(
            [*command, "-m", "darkprep", "stream-train", *OWN, "--run-dir", "run", *words],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )

    first = run(*TRAIN[1:], "--iterations", "2")
    second = run("--resume", "--iterations", "4")
    third = run("--resume")

    assert first.returncode == second.returncode == third.returncode == 0, second.stderr
    assert "finished after 2 iterations" in first.stdout
    assert "resuming run after 2 of 4 iterations" in second.stderr
    assert "finished after 4 iterations" in second.stdout
    assert third.stderr.count("the run is finished, 4 of 4 iterations") == 1
    assert len(losses("run")) == 4
