"""The study `targets`: the same pairs restored towards sRGB, linear camera RGB and RAW, scored in two domains."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from darkprep.shards import Target
from darkprep.studies.figures import (
    AMPLIFIED_INPUT,
    format_psnr,
    title_of,
    training_columns,
)
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.panel import Comparison, median_pair, read_comparison
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.target_tasks import CostTask, TwoDomainsTask
from darkprep.studies.task_kinds import TrainingTask
from darkprep.studies.task_results import (
    CostResult,
    DomainsResult,
    PairScore,
    entry_of,
    result_of,
)
from darkprep.studies.tasks import StudyContext

CAMERA = "sony"
_RATIO = re.compile(r"x\d{1,9}")
_NETWORKS: tuple[tuple[str, Target], ...] = (
    ("redirt", "srgb"),
    ("redirt", "linear"),
    ("redirt", "raw"),
    ("unet", "srgb"),
    ("unet", "linear"),
    ("unet", "raw"),
)
_SMALL_ITERATIONS, _SMALL_BATCH = 800, 1
_UNET_ITERATIONS = 400
"""Of a small run: a step of the U-Net takes several times as long as one of REDIRT."""
_UNET_LEARNING_RATE = 4e-4
"""Of a small run; with the 1e-3 of the other networks the U-Net diverges."""

_PROTOCOLS = (
    "RAW: protocol pmn, packed RAW of whole frames, one illuminance factor. sRGB: protocol redirt, 8-bit sRGB of whole "
    "frames. Results of the targets linear and raw are developed by LibRaw in the place of the long exposure's codes. "
    "An sRGB result is taken back to RAW by inverting the development, which loses highlights and colours outside "
    "sRGB; even the truth scores only 62 to 64 dB so. Never compare a figure of one domain with one of the other."
)
_COST_NOTE = (
    "CPU time of one worker to decode or develop four pairs of frames of this study once, and to cut and write eight "
    "samples of each; frames of a whole sensor are in the benchmarks. A pair of stored frames is what the disk budget "
    "keeps so that no file is decoded again."
)
_PUBLISHED = Table(
    caption="Published figures, PSNR / SSIM, of photographs of SID's Sony",
    heads=("network", "target", "RAW x100", "RAW x250", "RAW x300", "sRGB, all"),
    rows=(
        ("U-Net on photographed pairs (Feng et al., ACM MM 2022)", "raw", "42.06 / 0.955", "39.60 / 0.938", "36.85 / 0.923", ""),
        ("U-Net, PMN (Feng et al., TPAMI 2023)", "raw", "43.47 / 0.961", "41.04 / 0.947", "37.87 / 0.934", ""),
        ("U-Net, SID (Chen et al., CVPR 2018)", "srgb", "", "", "", "28.88 / 0.787"),
        ("REDIRT (Lamba & Mitra, CVPR 2021)", "srgb", "", "", "", "28.66 / 0.790"),
    ),
    note="What compares: the protocol of each column, and that a score in packed RAW is some 10 dB above one in sRGB for "
    "results of equal quality. What does not: the values, which are of photographs, whole sensors and hundreds of "
    "times as many iterations; and PMN's, whose test input has a measured dark shading subtracted.",
)  # fmt: skip


def targets(options: StudyOptions) -> Study:
    """Train towards each target on the same pairs; score in packed RAW and in sRGB; measure what samples cost."""
    camera = options.camera_or_label(CAMERA)
    trainings = tuple(_training(options, camera, *one) for one in _NETWORKS)
    domains = {one.name: TwoDomainsTask(training=one) for one in trainings}
    costs = {one.target: CostTask(training=one) for one in trainings}

    def result(context: StudyContext) -> StudyResult:
        return StudyResult(
            name="targets",
            title="Three targets",
            lead="Networks trained on the same pairs towards developed sRGB, linear camera RGB and packed RAW, all scored "
            "in packed RAW and in sRGB, with what the samples of each target cost to produce.",
            tables=(
                _scores_table(context, camera, trainings, domains),
                _cost_table(context, costs),
                _PUBLISHED,
            ),
            notes=(*_small_note(options, trainings), _PROTOCOLS),
            comparisons=(_comparison(context, camera, trainings, domains),),
            trainings=trainings,
        )

    tasks = (*options.dataset_tasks([camera]), *costs.values(), *trainings, *domains.values())
    return Study(tasks=tasks, result=result)


def _training(options: StudyOptions, camera: str, model: str, target: Target) -> TrainingTask:
    task = options.training_task(f"{model} to {target}", camera, model=model, target=target)
    if options.small is None:
        return task
    scale = replace(task.scale, batch_size=_SMALL_BATCH)
    if options.iterations is None:
        steps = _UNET_ITERATIONS if model == "unet" else _SMALL_ITERATIONS
        scale = replace(scale, iterations=steps)
    if model == "unet":
        scale = replace(scale, learning_rate=_UNET_LEARNING_RATE)
    return replace(task, scale=scale, group="targets")


def _small_note(options: StudyOptions, trainings: Sequence[TrainingTask]) -> tuple[str, ...]:
    if options.small is None:
        return ()
    unet = next(one.scale for one in trainings if one.model == "unet")
    return (
        options.small.note(trainings[0].scale),
        f"The U-Net was trained for {unet.iterations:,} iterations at a learning rate of {unet.learning_rate:g}, so targets "
        "compare, and networks do not.",
    )


def _scores_table(
    context: StudyContext,
    camera: str,
    trainings: Sequence[TrainingTask],
    domains: dict[str, TwoDomainsTask],
) -> Table:
    first = result_of(context, domains[trainings[0].name], DomainsResult)
    ratios = sorted(filter(_RATIO.fullmatch, first.means), key=_number)
    groups = ("all", *ratios)
    raw = next(domains[one.name] for one in trainings if one.target == "raw")

    def cells(task: TwoDomainsTask, prefix: str = "") -> list[str]:
        columns = [(group, "raw") for group in groups] + [("all", "srgb")]
        return [_pair(context, task, group, f"{prefix}{domain}") for group, domain in columns]

    rows = [(AMPLIFIED_INPUT, "", "", *cells(raw, "input_"), "")]
    for one in trainings:
        columns = training_columns(context, one)
        shown = (one.model, one.target, columns["parameters"])
        rows.append((*shown, *cells(domains[one.name]), columns["time"]))
    heads = ("network", "target", "parameters", *(f"RAW {group}" for group in groups))
    return Table(
        caption=f"PSNR / SSIM on the test scenes of {title_of(camera)}",
        heads=(*heads, "sRGB all", "training time"),
        rows=tuple(rows),
    )


def _cost_table(context: StudyContext, costs: Mapping[Target, CostTask]) -> Table:
    rows = []
    for target, task in costs.items():
        found = result_of(context, task, CostResult)
        sizes = (f"{size / 1e6:.2f}" for size in (found.sample_bytes, found.frame_bytes))
        rows.append((target, f"{found.cpu_ms:.1f}", *sizes))
    return Table(
        caption="What samples cost to produce",
        heads=("target", "CPU ms per cold sample", "MB per sample", "MB per pair of stored frames"),
        rows=tuple(rows),
        note=_COST_NOTE,
    )


def _pair(context: StudyContext, task: TwoDomainsTask, group: str, domain: str) -> str:
    groups = result_of(context, task, DomainsResult).means
    means = entry_of(context, task, "means", groups, group)
    psnr, ssim = (
        entry_of(context, task, f"means[{group!r}]", means, f"{domain}_{name}")
        for name in ("psnr", "ssim")
    )
    return f"{format_psnr(psnr)} / {ssim:.3f}"


def _number(group: str) -> float:
    return float(group.removeprefix("x"))


def _comparison(
    context: StudyContext,
    camera: str,
    trainings: Sequence[TrainingTask],
    domains: dict[str, TwoDomainsTask],
) -> Comparison:
    """Return the sRGB pictures of the pair with the median PSNR for the first network."""
    images = result_of(context, domains[trainings[0].name], DomainsResult).images
    pair = median_pair([PairScore(pair=one.pair, psnr=one.srgb_psnr) for one in images])
    folders = [(one.label, domains[one.name].folder(context)) for one in trainings]
    return read_comparison(title_of(camera), pair, folders)
