"""What a noise-level map and added shot noise do to a network in a short training: two tables in Markdown.

U-Nets are trained towards RAW on synthetic photographs of the Sony A7S II, each kind with the same seeds. The map: on
long exposures with made noise at ISO 100 to 6400, tested at each of several ISO values. Added shot noise: on few
photographed pairs, tested on photographed short exposures of other scenes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from darkprep.jobs.noise_map import training_noise
from darkprep.model import Network, build_model
from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.noise.darken import darken, noise_rng
from darkprep.pipeline.noise.noise_levels import NoiseLevels
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.shards import Sample, Spool
from darkprep.synth.dataset import synthesise
from darkprep.trainer import SpoolDataset, restore_frame
from darkprep.trainer.evaluation import amplified_planes, truth_of

CAMERA, MODEL = "sony", "unet"
LEARNING_RATE, BATCH = 3e-4, 4
TEST_ISOS = (200, 800, 1600, 3200, 6400)
ELECTRONS = 1.66e5
"""Electrons from black to white at ISO 100: 15871 codes at 0.0956 codes per electron."""


def decibels(restored: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """PSNR of planes in [0, 1]."""
    return float(-10 * np.log10(np.mean((restored.astype(np.float64) - truth) ** 2)))


def spool_of(root: Path, where: Path, *options: object) -> Spool:
    """A finished spool of RAW targets that `darkprep build` made with these options."""
    words = (
        *("build", "--camera", CAMERA, "--root", root, "--spool", where, "--target", "raw"),
        *("--samples-per-shard", 16, "--crops-per-visit", 8, "--frames", "all", "--quiet"),
        *("--epochs-ahead", "inf", "--jobs", 1, *options),
    )
    subprocess.run([sys.executable, "-m", "darkprep", *map(str, words)], check=True)
    return Spool(where).open()


def trained(spool: Spool, seed: int, steps: int, **chosen: Any) -> Network:
    """A network after `steps` steps, the second half with a tenth of the learning rate."""
    torch.manual_seed(seed)
    network = build_model(MODEL, "bayer", "raw", noise_map="noise_of" in chosen).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    dataset, done = SpoolDataset(spool, batch_size=BATCH, keep=True, seed=seed, **chosen), 0
    while done < steps:
        for batch in dataset:
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 if done < steps / 2 else 0.1)
            loss = (network(batch["low"]) - batch["gt"]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == steps:
                break
    dataset.close()
    return network.eval()


def test_pairs(root: Path) -> list[Pair]:
    """The photographed test pairs."""
    return [one for one in find_pairs(root, camera_named(CAMERA)).pairs if one.split != "train"]


def made_samples(root: Path, iso: int) -> list[Sample]:
    """Long exposures of the test scenes with made noise at one ISO."""
    table = replace(calibration_of(CAMERA), drawn_isos=(float(iso), float(iso)))
    samples = []
    for number, pair in enumerate({one.long: one for one in test_pairs(root)}.values()):
        whole = whole_frame(root, pair, target="raw")
        made = darken(
            whole.gt, black=whole.meta.gt_black, white=whole.meta.gt_white, cfa="bayer", noise=table,
            rng=noise_rng(iso, 0, number),
        )  # fmt: skip
        meta = replace(
            whole.meta, black=made.black, white=made.white, iso=made.iso, ratio=made.ratio,
            amplification=made.ratio,
        )  # fmt: skip
        samples.append(Sample(made.planes, whole.gt, meta, NoiseLevels().of_sample(meta)))
    return samples


def photographed_samples(root: Path, ratio: float) -> list[Sample]:
    """The photographed test pairs of one exposure ratio."""
    pairs = [one for one in test_pairs(root) if one.ratio == ratio]
    return [whole_frame(root, one, target="raw", noise=NoiseLevels().of_frame) for one in pairs]


def table(
    title: str,
    tests: dict[str, list[Sample]],
    kinds: dict[str, Callable[[int], Network]],
    seeds: Sequence[int],
) -> None:
    """Train each kind with each seed, and print mean and standard deviation of the PSNR of each test."""
    print(f"\n**{title}**\n\n| | {' | '.join(tests)} | all |\n|---|{'---:|' * (len(tests) + 1)}")
    plain = [
        mean(decibels(amplified_planes(one), truth_of(one)) for one in own)
        for own in tests.values()
    ]
    print(
        f"| none: the amplified input | {' | '.join(f'{one:.2f}' for one in (*plain, mean(plain)))} |"
    )
    for kind, train in kinds.items():
        scores = []
        for seed in seeds:
            network = train(seed)
            own = [
                mean(decibels(restore_frame(network, one), truth_of(one)) for one in samples)
                for samples in tests.values()
            ]
            scores.append([*own, mean(own)])
        cells = [
            f"{mean(column):.2f}" + (f" ± {stdev(column):.2f}" if len(seeds) > 1 else "")
            for column in zip(*scores, strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def compare_map(root: Path, place: Path, crop: int, steps: int, seeds: range) -> None:
    """Print the table of networks with and without a noise-level map."""
    made = spool_of(root, place / "made", "--crop", crop, "--epochs", 20, "--noise", CAMERA)
    levels = training_noise("auto", made).samples.of_sample
    table(
        f"Made noise at ISO 100 to 6400, {steps} steps, {len(seeds)} seeds",
        {f"ISO {iso}": made_samples(root, iso) for iso in TEST_ISOS},
        {
            "without the map": lambda seed: trained(made, seed, steps),
            "with the map": lambda seed: trained(made, seed, steps, noise_of=levels),
        },
        seeds,
    )


def compare_shot_noise(root: Path, place: Path, crop: int, steps: int, seeds: range) -> None:
    """Print the table of networks with and without added shot noise."""
    pairs = spool_of(root, place / "pairs", "--crop", crop, "--epochs", 10)
    lit = {"shot_noise": 1.0, "full_scale_electrons": ELECTRONS}
    ratios = sorted({one.ratio for one in test_pairs(root)})
    table(
        f"Photographed pairs, {steps} steps, {len(seeds)} seeds",
        {f"x{ratio:g}": photographed_samples(root, ratio) for ratio in ratios},
        {
            "without added shot noise": lambda seed: trained(pairs, seed, steps),
            "--shot-noise 1": lambda seed: trained(pairs, seed, steps, **lit),
        },
        seeds,
    )


_COMPARISONS = {"map": compare_map, "shot-noise": compare_shot_noise}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("what", choices=_COMPARISONS)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--crop", type=int, default=64)
    options.add_argument("--scenes", type=int, default=12)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        synthesise(
            root, CAMERA, scenes=chosen.scenes, shorts=2, size=(192, 288), isos=(400, 800, 1600)
        )
        compare = _COMPARISONS[chosen.what]
        compare(root, Path(name), chosen.crop, chosen.steps, range(chosen.seeds))


if __name__ == "__main__":
    main()
