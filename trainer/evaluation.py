"""Evaluate a network: restore whole frames one at a time and compare them with their truth.

The trade-off: only one frame is in memory, so any number of frames of any size fit, but frames are not
batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from darkprep.model import ModelError
from darkprep.shards.errors import DatasetError, OptionError, WeightsError
from darkprep.shards.files import disk_errors, write_json
from darkprep.shards.format import U16, Sample
from darkprep.trainer.device import out_of_memory_errors
from darkprep.trainer.metrics import F32, Protocol, Scores, protocol_named, score
from darkprep.trainer.noise_map import with_noise_map
from darkprep.trainer.picture import write_picture
from darkprep.trainer.picture_row import picture_file_name, side_by_side
from darkprep.trainer.stream import network_input, raw_truth

Restorer = Callable[[Tensor], Tensor]
"""A network; one with the attribute `noise_map` set reads a noise-level map after the planes. Returns `(1, 3, H, W)`, or `(1, C, h, w)` with the target `raw`, in [0, 1] for `(1, C, h, w)` amplified planes of
any size; needs no gradients."""

Prepare = Callable[[Sample, F32 | U16], tuple[F32, F32]]
"""Given a sample and its restored picture `(3, H, W)` or planes `(C, h, w)`, returns the arrays that are compared, of the picture and
of the truth: `(C, h, w)` float32 each. For a protocol whose domain is not sRGB, or for a part of the picture."""


Show = Callable[[Sample, F32 | U16], F32 | U16]
"""Given a sample and a restored picture or planes of it, returns an sRGB picture `(3, h, w)` to look at."""


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """The scores of one pair."""

    pair: str
    ratio: float
    amplification: float
    psnr: float | None
    """In dB; None when restored and truth are equal."""
    ssim: float
    baseline_psnr: float | None = None
    """In dB, for the baseline picture; None if there is no baseline."""
    baseline_ssim: float | None = None


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Mean scores of a group of pairs, such as those of one exposure ratio."""

    group: str
    pairs: int
    psnr: float | None
    ssim: float
    baseline_psnr: float | None = None
    baseline_ssim: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of each pair and their means; metrics.json holds the same."""

    camera: str
    pairs: int
    protocol: str
    protocol_says: str
    """The protocol's description."""
    domain: str
    """`sRGB` or `packed RAW`; scores in different domains cannot be compared."""
    region: str
    """Which part of each frame was compared."""
    settings: Mapping[str, str]
    """Other settings that the scores depend on, such as the amplification and the split."""
    psnr: float | None
    ssim: float
    baseline_psnr: float | None
    baseline_ssim: float | None
    groups: tuple[GroupScores, ...]
    images: tuple[ImageScores, ...]


def evaluate(
    network: Restorer,
    samples: Iterable[Sample],
    out: Path | None = None,
    *,
    protocol: str = "redirt",
    device: torch.device | None = None,
    baseline: Callable[[Sample], F32 | U16 | None] | None = None,
    prepare: Prepare | None = None,
    show: Show | None = None,
    region: str = "whole frames",
    settings: Mapping[str, str] | None = None,
    groups: Callable[[str], Sequence[str]] | None = None,
    on_image: Callable[[ImageScores], None] | None = None,
) -> Evaluation:
    """Score a network on whole frames; with `out`, also write metrics.json and a PNG `restored | truth` for each frame.

    `baseline` returns a picture to compare with, of the form of the restored one, such as the amplified input
    developed by LibRaw. `show` returns what the PNG shows of a picture that is not sRGB. The baseline is scored like the restored picture and comes first in the PNG. `prepare`
    returns the arrays to score, and `region` names the part of the frame that they show. Without `prepare`,
    pictures are scored as they are, which is possible only for protocols in sRGB. `settings` are written to
    metrics.json. `groups` returns the names of the groups of a pair; each group gets mean scores.
    `on_image` is called with the scores of each pair.

    Raises DatasetError when there is no sample, OptionError for a protocol that cannot be used,
    WeightsError when the network cannot read a sample, DiskFull, SpoolError, and whatever `samples` raises.
    """
    rules = protocol_named(protocol)
    if rules.domain == "packed RAW" and prepare is None:
        raise OptionError(
            f"protocol {protocol} compares {rules.domain}; pass as argument `prepare` a function that returns restored picture and truth as {rules.domain}, or choose a protocol that compares sRGB, such as redirt"
        )
    images: list[ImageScores] = []
    cameras: dict[str, None] = {}
    if out:
        with disk_errors(out / "metrics.json"):
            out.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        restored = restore_frame(network, sample, device)
        plain = baseline(sample) if baseline else None
        scores = _score_picture(sample, restored, rules, prepare)
        plain_scores = None if plain is None else _score_picture(sample, plain, rules, prepare)
        images.append(_image_scores(sample, scores, plain_scores))
        cameras[sample.meta.camera] = None
        if out:
            parts = [part for part in (plain, restored, truth_of(sample)) if part is not None]
            shown = [show(sample, part) for part in parts] if show else parts
            write_picture(out / picture_file_name(sample.meta.pair), side_by_side(shown))
        if on_image:
            on_image(images[-1])
    evaluation = _mean_scores(
        images, camera=" ".join(cameras), protocol=rules, region=region, groups=groups
    )
    evaluation = replace(evaluation, settings=dict(settings or {}))
    if out:
        write_json(out / "metrics.json", asdict(evaluation))
    return evaluation


def restore_frame(network: Restorer, sample: Sample, device: torch.device | None = None) -> F32:
    """Restore a whole frame and return it in the host's memory, float32 in [0, 1].

    It has the form of the network's target: `(3, H, W)` sRGB or camera RGB, or `(C, h, w)` planes.

    Raises the errors of `restore_on_device`.
    """
    return restore_on_device(network, sample, device).float().cpu().numpy()


def restore_on_device(
    network: Restorer, sample: Sample, device: torch.device | None = None
) -> Tensor:
    """Restore a whole frame and return it on the network's device, in the form of its target, in [0, 1].

    Raises WeightsError when the network was trained for another CFA, or reads a noise-level map and the sample has
    no noise level, OptionError when the frame is too large for the device's memory.
    """
    reads_map = getattr(network, "noise_map", False)
    if reads_map and sample.noise is None:
        raise WeightsError(
            f"{sample.meta.pair}: the network reads a noise-level map, but the noise of this frame is not known; set the field `noise` of the sample (a NoiseLevel), or choose weights without a map"
        )
    device = device or torch.device("cpu")
    height, width = sample.low.shape[-2:]
    try:
        with (
            torch.inference_mode(),
            out_of_memory_errors(f"a frame of {height}x{width} packed pixels", device),
        ):
            low = torch.from_numpy(sample.low)[None].to(device)
            planes = network_input(low, (sample.meta,))
            if reads_map and sample.noise:
                planes = with_noise_map(planes, (sample.meta,), (sample.noise,))
            return network(planes)[0]
    except ModelError as error:
        hint = (
            "; or choose the --xtrans mode with which the network was trained"
            if sample.meta.cfa == "xtrans"
            else ""
        )
        raise WeightsError(f"{sample.meta.pair}: {error}{hint}") from error


def truth_of(sample: Sample) -> F32 | U16:
    """Return a sample's truth in the form of a restored picture: full-range uint16, or planes in [0, 1]."""
    if sample.meta.target != "raw":
        return sample.gt
    planes: F32 = raw_truth(torch.from_numpy(sample.gt)[None], (sample.meta,))[0].numpy()
    return planes


def amplified_planes(sample: Sample) -> F32:
    """Return the network's input of a sample clipped to [0, 1], `(C, h, w)`: the baseline in packed RAW."""
    low = torch.from_numpy(sample.low)[None]
    planes: F32 = network_input(low, (sample.meta,))[0].clamp_(0, 1).numpy()
    return planes


def _score_picture(
    sample: Sample, picture: F32 | U16, rules: Protocol, prepare: Prepare | None
) -> Scores:
    prepared, truth = prepare(sample, picture) if prepare else (picture, truth_of(sample))
    return score(prepared, truth, rules)


def _image_scores(sample: Sample, scores: Scores, plain: Scores | None) -> ImageScores:
    return ImageScores(
        pair=sample.meta.pair,
        ratio=sample.meta.ratio,
        amplification=sample.meta.amplification,
        psnr=_finite(scores.psnr),
        ssim=scores.ssim,
        baseline_psnr=_finite(plain.psnr) if plain else None,
        baseline_ssim=plain.ssim if plain else None,
    )


def _mean_scores(
    images: list[ImageScores],
    *,
    camera: str,
    protocol: Protocol,
    region: str,
    groups: Callable[[str], Sequence[str]] | None,
) -> Evaluation:
    if not images:
        raise DatasetError("there is no pair to evaluate; choose another --split or --root")
    return Evaluation(
        camera=camera,
        pairs=len(images),
        protocol=protocol.name,
        protocol_says=protocol.description,
        domain=protocol.domain,
        region=region,
        settings={},
        psnr=_mean([image.psnr for image in images]),
        ssim=sum(image.ssim for image in images) / len(images),
        baseline_psnr=_mean([image.baseline_psnr for image in images]),
        baseline_ssim=_mean([image.baseline_ssim for image in images]),
        groups=_group_scores(images, groups) if groups else (),
        images=tuple(images),
    )


def _group_scores(
    images: list[ImageScores], groups: Callable[[str], Sequence[str]]
) -> tuple[GroupScores, ...]:
    members: dict[str, list[ImageScores]] = {}
    for image in images:
        for group in groups(image.pair):
            members.setdefault(group, []).append(image)
    return tuple(
        GroupScores(
            group=group,
            pairs=len(own),
            psnr=_mean([image.psnr for image in own]),
            ssim=sum(image.ssim for image in own) / len(own),
            baseline_psnr=_mean([image.baseline_psnr for image in own]),
            baseline_ssim=_mean([image.baseline_ssim for image in own]),
        )
        for group, own in sorted(members.items())
    )


def _mean(values: list[float | None]) -> float | None:
    """Return the mean; None if any value is None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
