"""How many files a minute `restore` makes: its three stages overlapped, against one after the other.

The loop of one stage after the other is what `restore` did before. Both run in turns on the same synthetic Sony
files, of 12 megapixels, with an untrained REDIRT or `--weights`; the amplification is estimated, and pictures are 8-bit PNG.
With `--precision bf16` the network in that precision is compared with fp32 instead.
"""

from __future__ import annotations

import time
from pathlib import Path

import harness
import numpy as np
import torch

from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.weights import load_network
from darkprep.model import build_model
from darkprep.model.inference import ReadyNetwork, ready_for_inference
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.shards import Sample
from darkprep.trainer.evaluation import restore_on_device
from darkprep.trainer.restoration import RestoreJob, UnpairedFrame, restore, restore_all

SIZE, QUICK_SIZE = (2848, 4256), (256, 384)


def photographs(root: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Dark files with the noise and the levels of a Sony."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    light = 60 + 50 * np.sin(y / 91) * np.sin(x / 57)
    paths = []
    for number in range(count):
        noisy = 512 + light + rng.normal(0, 8, size)
        paths.append(root / f"{number:02d}.dng")
        write_dng(paths[-1], np.clip(noisy, 0, 16383).astype(np.uint16), DngTags())
    return paths


def precision_rows(
    networks: dict[str, ReadyNetwork], samples: list[Sample], rounds: int
) -> list[tuple[str, str, str, str]]:
    """Seconds that each network takes for a file, in turns, and the PSNR of its results against those of the first."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    errors: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for sample in samples:
            exact: torch.Tensor | None = None
            for name, network in networks.items():
                began = time.monotonic()
                found = restore_on_device(network, sample)
                seconds[name].append(time.monotonic() - began)
                exact = found if exact is None else exact
                errors[name].append(float((found - exact).square().mean()))
    return [
        (
            name,
            f"{np.median(own):.2f}",
            " ".join(f"{one:.2f}" for one in own),
            f"{-10 * np.log10(np.mean(errors[name])):.1f}" if any(errors[name]) else "",
        )
        for name, own in seconds.items()
    ]


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    made = harness.parser(__doc__, rounds=3)
    made.add_argument("--files", type=int, default=20)
    made.add_argument("--weights", type=Path, help="weights of REDIRT (default: untrained)")
    made.add_argument("--precision", choices=("bf16",), help="compare this precision with fp32")
    options = made.parse_args()
    size, count = (QUICK_SIZE, 2) if options.quick else (SIZE, options.files)
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    torch.manual_seed(0)
    model = load_network(options.weights) if options.weights else build_model("redirt")
    network = ready_for_inference(model)
    decoder = DecodingOptions(amplify="estimate", has_ratio=False).decoder(Path())
    figures: dict[str, list[float]] = {"one after the other": [], "overlapped": []}

    def load(path: Path) -> UnpairedFrame:
        return UnpairedFrame(sample=decoder.file(path).sample)

    with harness.workplace(options.dir) as root:
        paths = photographs(root, count, size)
        if options.precision:
            rough = ready_for_inference(model, precision=options.precision)
            samples = [load(path).sample for path in paths]
            rows = precision_rows(
                {"fp32": network, options.precision: rough}, samples, options.rounds
            )
            print(harness.table(("precision", "s / file", "rounds", "dB of difference"), rows))
            harness.report({"machine": machine, "precisions": rows}, options.json)
            return
        for _ in range(options.rounds):
            began = time.monotonic()
            for path in paths:
                restore(network, load(path), root / "before" / f"{path.stem}.png")
            figures["one after the other"].append(60 * count / (time.monotonic() - began))
            jobs = [
                RestoreJob(
                    source=path.name,
                    load=lambda path=path: load(path),
                    target=root / "now" / f"{path.stem}.png",
                )
                for path in paths
            ]
            began = time.monotonic()
            results = list(restore_all(network, jobs))
            figures["overlapped"].append(60 * count / (time.monotonic() - began))
            assert not any(result.error for result in results)
        for path in paths:
            same = [(root / kind / f"{path.stem}.png").read_bytes() for kind in ("before", "now")]
            assert same[0] == same[1], f"{path.stem}: the pictures differ"
    rows = [
        (name, f"{np.median(own):.1f}", " ".join(f"{one:.1f}" for one in own))
        for name, own in figures.items()
    ]
    print(harness.table(("stages", "files / min", "rounds"), rows))
    harness.report({"machine": machine, "files_per_minute": figures}, options.json)


if __name__ == "__main__":
    main()
