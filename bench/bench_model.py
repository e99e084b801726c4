"""The networks' pace and memory: the published graph, run plainly, against ours.

    python bench/bench_model.py                    4K and a full Sony frame, then training; minutes
    python bench/bench_model.py --quick            small frames, to see that it runs
    python bench/bench_model.py --compile          torch.compile'd training too (needs a C++ compiler)
    python bench/bench_model.py --json model.json

Variants take turns within a round, and a ratio is the median over rounds of the ratios within a
round: what else the machine does hits neighbours alike. Memory is each variant's alone, the peak of
a fresh process. The trade-off: random weights of the released shapes, since the released ones may
not be shipped; pace and rounding do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import published
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from darkprep.model import Network, Precision, build_model, ready_for_inference
from darkprep.model.cuda import StreamedRedirt
from darkprep.model.inference import fold_weight_norm
from darkprep.model.weights import published_names

Run = Callable[[Tensor], Tensor]
Table = list[dict[str, Any]]

VARIANTS = ("published", "ours fp32", "ours bf16", "sid")
SIZES = ((2048, 4096), (2848, 4256))


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(json.dumps(peak_of(args.alone, tuple(args.size))))
        return
    sizes = ((512, 1024),) if args.quick else SIZES
    crop = (2, 128) if args.quick else (8, 512)
    report: dict[str, Any] = {"machine": machine(), "inference": [], "gpu": []}
    for size in sizes:
        report["inference"] += inference(size, args.rounds)
        show(f"Inference of {size[0]}x{size[1]}, CPU", report["inference"][-len(VARIANTS) :])
    report["training"] = training(*crop, rounds=args.rounds, compiled=args.compile)
    show(f"One training step of {crop[0]}x{crop[1]}x{crop[1]}, CPU", report["training"])
    if torch.cuda.is_available():
        for size in sizes:
            report["gpu"] += on_gpu(size, args.rounds)
        show("Inference, GPU", report["gpu"])
    else:
        print("No GPU here: nothing of the GPU's execution was measured.")
    print("\n" + "; ".join(f"{name} {value}" for name, value in report["machine"].items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small frames")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="torch.compile'd training too")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--alone", choices=VARIANTS, help="only this variant's memory, as JSON")
    parser.add_argument("--size", type=int, nargs=2, default=SIZES[0], help="with --alone")
    return parser.parse_args()


def inference(size: tuple[int, int], rounds: int) -> Table:
    """Pace, error and memory of every variant on one frame."""
    mosaic = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    packed = F.pixel_unshuffle(mosaic, 2)
    runs = {name: variant(name) for name in VARIANTS}
    inputs = {name: mosaic if name == "published" else packed for name in VARIANTS}
    with torch.no_grad():
        truth = runs["published"](mosaic)
        errors = {name: error(runs[name](inputs[name]), truth) for name in VARIANTS[1:3]}
        seconds = interleaved(
            {name: partial(run, inputs[name]) for name, run in runs.items()}, rounds
        )
    table = []
    for name in VARIANTS:
        used = alone(name, size)
        table.append(
            {
                "variant": name,
                "size": f"{size[0]}x{size[1]}",
                **pace(seconds, name),
                "peak MiB": round(used["peak"]),
                "of which the call": round(used["peak"] - used["before"]),
                **errors.get(name, {"max difference": "", "mean difference": ""}),
            }
        )
    return table


def variant(name: str) -> Run:
    """The callable that is measured under `name`."""
    state = published.checkpoint(seed=0)
    if name == "published":
        return partial(published.restore, state)
    if name == "sid":
        return ready_for_inference(build_model("sid"))
    return ready_for_inference(filled(state), precision="bf16" if name.endswith("bf16") else "fp32")


def filled(state: published.State) -> Network:
    """Our network with the weights of a checkpoint under the released names."""
    model = build_model("redirt")
    model.load_state_dict({ours: state[theirs] for theirs, ours in published_names().items()})
    return model


def alone(name: str, size: tuple[int, int]) -> dict[str, float]:
    """Peak memory of one variant in a fresh process, in MiB."""
    command = [sys.executable, __file__, "--alone", name, "--size", *map(str, size)]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak_of(name: str, size: tuple[int, int]) -> dict[str, float]:
    """This process's memory before and at the peak of two calls."""
    run = variant(name)
    frame = torch.rand(1, 1, *size) if name == "published" else torch.rand(1, 4, *halved(size))
    with torch.no_grad():
        run(frame[..., :64, :64])
        before = memory("VmRSS")
        for _ in range(2):
            run(frame)
    return {"before": before, "peak": memory("VmHWM")}


def halved(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 2, size[1] // 2


def memory(what: str) -> float:
    """This process's memory now (VmRSS) or at its peak (VmHWM), in MiB.

    Not from getrusage: what that calls the peak a child inherits from its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def training(batch: int, side: int, *, rounds: int, compiled: bool) -> Table:
    """One step, forward to optimiser, of the published graph and of ours."""
    mosaic, truth = torch.rand(batch, 1, side, side), torch.rand(batch, 3, side, side)
    packed = F.pixel_unshuffle(mosaic, 2).contiguous(memory_format=torch.channels_last)
    state = {name: t.requires_grad_(True) for name, t in published.checkpoint(seed=0).items()}
    steps = {
        "published": step(
            partial(published.restore, state, mosaic), list(state.values()), truth, fused=False
        )
    }
    for name in ("ours", "ours compiled") if compiled else ("ours",):
        model = filled(published.checkpoint(seed=0)).to(memory_format=torch.channels_last)
        call = torch.compile(model) if name.endswith("compiled") else model
        steps[name] = step(partial(call, packed), list(model.parameters()), truth, fused=True)
    first = {name: run() for name, run in steps.items()}
    seconds = interleaved(steps, rounds)
    return [
        {
            "variant": name,
            **pace(seconds, name),
            "difference of the first loss": f"{abs(first[name] - first['published']):.1e}",
        }
        for name in steps
    ]


def step(
    forward: Callable[[], Tensor], parameters: list[Tensor], truth: Tensor, *, fused: bool
) -> Callable[[], float]:
    optimiser = torch.optim.Adam(parameters, lr=1e-4, fused=fused)

    def run() -> float:
        optimiser.zero_grad()
        loss = F.l1_loss(forward(), truth)
        loss.backward()
        optimiser.step()
        return loss.item()

    return run


def on_gpu(size: tuple[int, int], rounds: int) -> Table:
    """Frames a second on a CUDA device: the plain graph, and ours step by step."""
    table: Table = []
    mosaic = torch.rand(1, 1, *size, device="cuda")
    packed = F.pixel_unshuffle(mosaic, 2)
    precisions: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
    for precision, dtype in precisions.items():
        state = {name: t.to("cuda", dtype) for name, t in published.checkpoint(seed=0).items()}
        model = filled(published.checkpoint(seed=0))
        body = fold_weight_norm(model).body.to("cuda", dtype)
        convert_conv2d_weight_memory_format(body, torch.channels_last)
        frame = packed.to(dtype).contiguous(memory_format=torch.channels_last)
        calls: dict[str, tuple[Run, Tensor]] = {
            "published": (partial(published.restore, state), mosaic.to(dtype)),
            "sequential": (body, frame),
            "streams": (StreamedRedirt(body), frame),
            "streams in a graph": (
                ready_for_inference(model, precision=precision, device="cuda"),
                packed,
            ),
            "compiled": (torch.compile(body), frame),
        }
        runs = {name: partial(run, frame) for name, (run, frame) in calls.items()}
        with torch.no_grad():
            seconds = interleaved({n: synchronised(r) for n, r in runs.items()}, rounds)
            for name, run in runs.items():
                torch.cuda.reset_peak_memory_stats()
                run()
                peak = torch.cuda.max_memory_allocated() / 2**20
                row = {"variant": name, "precision": precision, "size": f"{size[0]}x{size[1]}"}
                table.append(row | pace(seconds, name) | {"peak MiB": round(peak)})
    return table


def synchronised(run: Callable[[], Tensor]) -> Callable[[], None]:
    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-2, rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def pace(seconds: dict[str, list[float]], name: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(seconds["published"], seconds[name], strict=True)]
    return {
        "median s": f"{statistics.median(seconds[name]):.3f}",
        "best s": f"{min(seconds[name]):.3f}",
        "times published": f"{statistics.median(ratios):.2f}",
    }


def error(ours: Tensor, theirs: Tensor) -> dict[str, str]:
    difference = (ours - theirs).abs()
    return {
        "max difference": f"{difference.max().item():.1e}",
        "mean difference": f"{difference.mean().item():.1e}",
    }


def show(title: str, table: Table) -> None:
    """Print a table in Markdown."""
    columns = list(table[0])

    def lines() -> Iterator[str]:
        yield f"\n{title}\n"
        yield "| " + " | ".join(columns) + " |"
        yield "|" + "---|" * len(columns)
        for row in table:
            yield "| " + " | ".join(str(row[column]) for column in columns) + " |"

    print("\n".join(lines()), flush=True)


def machine() -> dict[str, str]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
