"""Where REDIRT's time on a CPU goes: each convolution beside the same convolution alone, and everything else.

One thread, float32, each operation timed by the CPU time of its thread. "Alone" is the same convolution again and again on
the same rows, whose operands stay in the cache: what oneDNN reaches on this machine. So the sum of the column "alone" is the
time below which this network cannot get with these convolutions. The trade-off: the hook on each operation adds some
microseconds that are not counted.

    python bench/model_profile.py                 one frame of 2048x4096
    python bench/model_profile.py --quick         seconds, to see that it runs
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import harness
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from darkprep.model import build_model
from darkprep.model.inference import inference_copy
from darkprep.model.redirt import Redirt
from darkprep.model.rows import RowwiseRedirt

SIZE, QUICK_SIZE = (2048, 4096), (512, 1024)
_ALONE_S = 0.05
"""Time for which a convolution alone is repeated; the fastest repetition counts."""
Shape = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shapes of input and weight, and groups, of a convolution."""
_STEPS = {
    (64, 64, 3): "medium scale, two 64 to 64, 3x3",
    (32, 32, 3): "mix, 64 to 32 in 2 groups, 3x3",
    (32, 4, 5): "lift and mix, 4 to 32, 5x5",
    (192, 32, 3): "expand, 32 to 192, 3x3",
    (12, 4, 9): "lower scale and its half of FB2, 4 to 12, 9x9",
    (12, 12, 5): "the other half of FB2, 12 to 12, 5x5",
}
_HIGHER = "higher scale"


class Stopwatch(TorchDispatchMode):
    """Adds up the CPU time of each convolution by its shapes, and of all other operations by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: dict[Shape, list[float]] = defaultdict(list)
        self.others: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its time."""
        began = time.thread_time()
        result = func(*args, **(kwargs or {}))
        took = time.thread_time() - began
        name = func._schema.name.removeprefix("aten::")
        if name == "convolution":
            self.convolutions[(tuple(args[0].shape), tuple(args[1].shape), args[8])].append(took)
        else:
            self.others[name] += took
        return result


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    options = harness.parser(__doc__, rounds=5).parse_args()
    size = QUICK_SIZE if options.quick else SIZE
    torch.set_num_threads(1)
    torch.manual_seed(0)
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    body = inference_copy(build_model("redirt")).body
    assert isinstance(body, Redirt)
    network = RowwiseRedirt(body)
    packed = torch.rand(1, 4, size[0] // 2, size[1] // 2)
    rounds = [measured(network, packed) for _ in range(options.rounds)]
    steps = {
        name: {key: harness.median([one[name] for one in rounds], key) for key in rounds[0][name]}
        for name in rounds[0]
    }
    print(step_table(steps))
    harness.report({"machine": machine, "size": size, "steps": steps}, options.json)


@torch.no_grad()  # inference mode would hide convolutions from the hook
def measured(network: RowwiseRedirt, packed: Tensor) -> dict[str, harness.Figures]:
    """One frame: MACs, milliseconds in the frame, and milliseconds of the same convolutions alone."""
    began = time.thread_time()
    network(packed)
    whole = time.thread_time() - began
    with Stopwatch() as watch:
        network(packed)
    found: dict[str, harness.Figures] = defaultdict(
        lambda: dict.fromkeys(("gmac", "ms", "alone"), 0.0)
    )
    for (image, weight, groups), times in watch.convolutions.items():
        own = found[_STEPS.get((*weight[:2], weight[2]), _HIGHER)]
        outputs = image[0] * weight[0] * (image[2] - weight[2] + 1) * image[3]
        own["gmac"] += len(times) * outputs * weight[1] * weight[2] * weight[3] / 1e9
        own["ms"] += sum(times) * 1e3
        own["alone"] += len(times) * fastest(alone(image, weight, groups)) * 1e3
    products = watch.others.pop("bmm", 0.0) + watch.others.pop("mm", 0.0)
    found[f"{_HIGHER}, first convolution as products"]["ms"] = products * 1e3
    found["copies between layouts"]["ms"] = watch.others.pop("copy_", 0.0) * 1e3
    found["all other operations"]["ms"] = sum(watch.others.values()) * 1e3
    found["the whole frame, without the hook"] = {"gmac": 0.0, "ms": whole * 1e3, "alone": 0.0}
    return dict(found)


def alone(image: tuple[int, ...], weight: tuple[int, ...], groups: int) -> Callable[[], Tensor]:
    """The same convolution on operands of its own."""
    rows = torch.rand(image).to(memory_format=torch.channels_last)
    kernel = torch.rand(weight).to(memory_format=torch.channels_last)
    halo = weight[-1] // 2
    return lambda: F.conv2d(rows, kernel, padding=(0, halo), groups=groups)


def fastest(run: Callable[[], Tensor]) -> float:
    """CPU seconds of the fastest repetition."""
    times, over = [], time.monotonic() + _ALONE_S
    while len(times) < 2 or time.monotonic() < over:
        began = time.thread_time()
        run()
        times.append(time.thread_time() - began)
    return min(times)


def step_table(steps: dict[str, harness.Figures]) -> str:
    """Each step with its pace, and the sums."""
    rows = []
    for name, own in steps.items():
        has_pace = own["gmac"] > 0
        rows.append(
            [
                name,
                f"{own['gmac']:.2f}" if has_pace else "",
                f"{own['ms']:.0f}",
                f"{own['gmac'] / own['ms'] * 1e3:.0f}" if has_pace else "",
                f"{own['alone']:.0f}" if has_pace else "",
                f"{own['gmac'] / own['alone'] * 1e3:.0f}" if has_pace else "",
            ]
        )
    sums = {
        key: sum(own[key] for own in steps.values() if own["gmac"])
        for key in ("gmac", "ms", "alone")
    }
    rows.append(
        [
            "all convolutions",
            *(
                f"{sums[key]:.2f}" if key == "gmac" else f"{sums[key]:.0f}"
                for key in ("gmac", "ms")
            ),
            f"{sums['gmac'] / sums['ms'] * 1e3:.0f}",
            f"{sums['alone']:.0f}",
            f"{sums['gmac'] / sums['alone'] * 1e3:.0f}",
        ]
    )
    head = ["step", "GMAC", "CPU ms", "GMAC/s", "alone ms", "alone GMAC/s"]
    return harness.table(head, rows)


if __name__ == "__main__":
    main()
