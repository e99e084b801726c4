"""Score trained weights on the photographs of a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.output_directory import check_output_directory
from darkprep.jobs.pictures import show_simply
from darkprep.jobs.protocols import ELD_CENTRE, packed_raw
from darkprep.jobs.weights import load_restorer
from darkprep.model.inference import Precision, ReadyNetwork
from darkprep.pipeline.pairs.cameras import dataset_of
from darkprep.pipeline.pairs.groups import report_groups
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.sets import pair_set_named
from darkprep.pipeline.pairs.sid import MISALIGNED_SCENES
from darkprep.pipeline.pairs.table import Pairs, Skipped, first_skipped, splits_named
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.guard import guarded
from darkprep.shards import DatasetError, OptionError, RawError, Sample
from darkprep.shards.file_names import published_path
from darkprep.shards.format import U16
from darkprep.trainer.device import open_device
from darkprep.trainer.evaluation import Evaluation, ImageScores, amplified_planes, evaluate
from darkprep.trainer.metrics import F32, protocol_for, protocol_named
from darkprep.view.live import Progress


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of an evaluation. Raises OptionError, which names the invalid field."""

    weights: Path
    camera: str | None
    """Name of a camera in SID or ELD; with `pairs` or `layout`, a label or None."""
    root: Path
    pairs: Path | None = None
    """Path of a pair table to use instead of a camera's pairs."""
    layout: str | None = None
    """A folder layout in which to find pairs, instead of a camera's pairs."""
    split: str = "test"
    frames: str = "first"
    """`first`: only the first frame of each burst; `all`: every frame."""
    exclude_misaligned: bool = False
    """Leave out the scenes of SID's Sony set whose exposures are not aligned."""
    pair_set: str | None = None
    """A name in PAIR_SETS, instead of split, frames and exclude_misaligned."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    protocol: str | None = None
    """How the figures are computed: a name in trainer.PROTOCOLS, or None for the one of the weights' target."""
    baseline: bool = False
    """Also score the amplified short exposure: as LibRaw develops it, or its planes, clipped to [0, 1]."""
    model: str | None = None
    """`package.module:Class` of the weights' network, if it is the user's own."""
    device: str = "auto"
    precision: Precision = "fp32"
    """Number format in which the network computes."""
    out: Path | None = None
    """Directory for metrics.json and pictures; None to write none."""

    def __post_init__(self) -> None:
        if self.frames not in ("first", "all"):
            raise OptionError(f"frames must be first or all, not {self.frames!r}")
        splits_named(self.split)
        if self.pair_set is not None:
            pair_set_named(self.pair_set)
            if (self.split, self.frames, self.exclude_misaligned) != ("test", "first", False):
                raise OptionError(
                    f"--set {self.pair_set} determines which split, frames and misaligned scenes are used; leave out --split, --frames and --exclude-misaligned"
                )
        if self.protocol is not None:
            protocol_named(self.protocol)
        _ = self.origin

    @property
    def origin(self) -> PairOrigin:
        """The origin of the pairs."""
        is_label = self.pairs is not None or self.layout is not None
        camera = self.camera if is_label or self.camera is None else self.camera.lower()
        return PairOrigin(root=self.root, camera=camera, table=self.pairs, layout=self.layout)

    def find(self) -> Pairs:
        """Return the pairs to score. Raises OptionError or DatasetError."""
        if self.pair_set is not None:
            return pair_set_named(self.pair_set).find(self.origin)
        return self.origin.find(
            frames=self.frames,  # type: ignore[arg-type] # checked in the constructor
            exclude_misaligned=self.exclude_misaligned,
        ).of_split(self.split)

    def settings(self) -> dict[str, str]:
        """Return the settings, other than the protocol, on which the scores depend."""
        decoding = self.decoding
        multiplier = decoding.effective_multiplier()
        left_out = self.exclude_misaligned and self.origin.label in MISALIGNED_SCENES
        chosen = {
            "pairs": published_path(self.pairs) if self.pairs else "",
            "layout": self.layout or "",
        }
        return {
            **{name: value for name, value in chosen.items() if value},
            "split": self.split,
            "frames": self.frames,
            "misaligned scenes": "left out" if left_out else "as found",
            "amplify": decoding.amplify
            + (f", m = {multiplier:g}" if decoding.amplify == "estimate" else ""),
            "cfa": decoding.xtrans,
            "match colour": published_path(decoding.match_colour or "no"),
            "precision": self.precision,
            **(
                {"dark shading": published_path(decoding.dark_shading)}
                if decoding.dark_shading
                else {}
            ),
        }


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation, and the files that could not be used."""

    evaluation: Evaluation
    skipped: tuple[Skipped, ...]
    pairs: Pairs
    """The pairs that were to be scored."""

    def record(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        return asdict(self.evaluation)

    def lines(self) -> list[str]:
        """Return the scores as lines of text."""
        found = self.evaluation
        lines = [f"{found.camera}: {_figures(found.pairs, found.psnr, found.ssim)}"]
        if found.baseline_ssim is not None:
            lines.append(
                f"amplified input: PSNR {_decibels(found.baseline_psnr)}, SSIM {found.baseline_ssim:.4f}"
            )
        lines += [
            f"  {group.group}: {_figures(group.pairs, group.psnr, group.ssim)}"
            for group in found.groups
        ]
        if "set" in found.settings:
            lines.append(f"set {found.settings['set']}")
        lines.append(f"protocol {found.protocol}, {found.region}: {found.protocol_says}")
        return lines


def evaluation(
    options: EvaluateOptions, progress: Progress, *, check: Callable[[], None] = lambda: None
) -> EvaluationResult:
    """Score weights on a camera's frames. Raises OptionError, WeightsError, and DatasetError when no frame is usable.

    `check` is called before each frame and may raise an error to end the evaluation.
    """
    check_output_directory("out", options.out)
    device = open_device(options.device)
    network = load_restorer(
        options.weights, device, model=options.model, precision=options.precision
    )
    target, protocol = network.target, protocol_for(network.target, options.protocol)
    if target != "srgb" and options.decoding.matches:
        raise OptionError(
            f"--match-colour cannot be used with weights of the target {target}: it changes the colours of the short exposure, but not of the truth; leave it out"
        )
    found = options.find()
    by_id = {pair.id: pair for pair in found.pairs}
    skipped: list[Skipped] = []
    done: list[ImageScores] = []

    def on_image(image: ImageScores) -> None:
        done.append(image)
        progress.show(
            f"{len(done)}/{len(by_id)} {image.pair}: PSNR {_decibels(image.psnr)}, SSIM {image.ssim:.4f}"
        )

    def amplified_input(sample: Sample) -> F32 | U16:
        if target == "raw":
            return amplified_planes(sample)
        path = found.root / by_id[sample.meta.pair].short
        factor = sample.meta.amplification
        return guarded(
            lambda path: develop_amplified(path, factor, linear=target == "linear"), path
        )

    in_raw = protocol.domain == "packed RAW"
    all_sid = {dataset_of(pair.camera) for pair in found.pairs} == {"SID"}
    centre = ELD_CENTRE if protocol.name == "eld" and all_sid else None
    result = evaluate(
        network,
        _whole_frames(options, found, skipped, check, network),
        options.out,
        protocol=protocol.name,
        device=device,
        baseline=amplified_input if options.baseline else None,
        prepare=packed_raw(found.root, by_id, centre=centre, target=target) if in_raw else None,
        show=None if target == "srgb" else show_simply(found.root, by_id),
        region=f"the middle {centre} x {centre} packed pixels" if centre else "whole frames",
        settings=options.settings()
        | _set_of(options, found)
        | ({} if target == "srgb" else {"target": target})
        | _noise_map_of(options, network),
        groups=lambda pair: report_groups(by_id[pair]),
        on_image=on_image,
    )
    return EvaluationResult(result, (*found.skipped, *skipped), found)


def _noise_map_of(options: EvaluateOptions, network: ReadyNetwork) -> dict[str, str]:
    """Return the record of whose noise the noise-level map holds; empty for a network without one."""
    chosen = options.decoding.noise_map
    if not network.noise_map:
        return {}
    return {"noise map": published_path(chosen) if chosen else "of each camera"}


def _set_of(options: EvaluateOptions, found: Pairs) -> dict[str, str]:
    """Return the record of a named set, and of its split and frames; empty without one."""
    if options.pair_set is None:
        return {}
    chosen = pair_set_named(options.pair_set)
    return {
        "set": f"{chosen.name}, {len(found.pairs)} of {chosen.count} pairs: {chosen.description}",
        "split": chosen.split,
        "frames": chosen.frames,
        "misaligned scenes": "left out" if chosen.exclude_misaligned else "as found",
    }


def _whole_frames(
    options: EvaluateOptions,
    found: Pairs,
    skipped: list[Skipped],
    check: Callable[[], None],
    network: ReadyNetwork,
) -> Iterator[Sample]:
    """Yield the samples to score, and append to `skipped` the files that cannot be used."""
    decoder = options.decoding.decoder(
        options.root, cameras_from_text(network.cameras), reads_noise_map=network.noise_map
    )
    for pair in found.pairs:
        check()
        try:
            yield decoder.pair(found.root, pair, network.target)
        except RawError as error:
            skipped.append(found.skip(pair, error.path, error.reason))
    if len(skipped) == len(found.pairs):
        raise DatasetError(
            f"{found.root}: none of the pairs ({len(skipped)}) can be used: {first_skipped([Skipped(one.path, one.reason) for one in skipped])}"
        )


def _figures(pairs: int, psnr: float | None, ssim: float) -> str:
    return f"{pairs} pair{'s' * (pairs != 1)}, PSNR {_decibels(psnr)}, SSIM {ssim:.4f}"


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f} dB"
