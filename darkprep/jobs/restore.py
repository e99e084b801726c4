"""Restore RAW files to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from darkprep.jobs.colour_balance import tint_factors, with_tint
from darkprep.jobs.decoding import AUTO, NONE, DecodingOptions, FrameDecoder, LoneFrame
from darkprep.jobs.output_directory import check_output_directory
from darkprep.jobs.picture_files import SOFTWARE_NAME, SUFFIX, PictureFormat, save_picture
from darkprep.jobs.restore_files import PlannedFile, find_raw_files, is_foreign, plan_files
from darkprep.jobs.restore_raw import LoadedFrame, raw_writer
from darkprep.jobs.weights import load_restorer
from darkprep.model.inference import Precision, ReadyNetwork
from darkprep.pipeline.produce.kept_memory import keep_freed_memory
from darkprep.pipeline.raw.camera_colours import CameraColours, camera_name, cameras_from_text
from darkprep.pipeline.raw.colour import colours_of
from darkprep.pipeline.raw.guard import DECODE_S, GuardedReader
from darkprep.pipeline.raw.photo_metadata import PhotoMetadata, read_metadata
from darkprep.pipeline.raw.restored_dng import parse_white_balance
from darkprep.shards import OptionError, RawError, WeightsError
from darkprep.shards.format import Sample
from darkprep.trainer.device import open_device
from darkprep.trainer.picture import Pixels
from darkprep.trainer.restoration import (
    RestoreJob,
    RestoreResult,
    UnpairedFrame,
    Write,
    file_errors,
    integer_pixels,
    restore_all,
    upright,
)

METADATA = ("all", "no-position", "none")
_MAX_PLAUSIBLE = 1000.0
_MAX_CLIPPED = 0.2
_STEP = 4
"""Every fourth pixel of each row and column is looked at for clipping."""


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """The options for restoring files. Raises OptionError, which names the invalid field."""

    raw: tuple[Path, ...]
    """RAW files, and folders of them."""
    weights: Path
    out: Path
    decoding: DecodingOptions = field(
        default_factory=lambda: DecodingOptions(amplify="estimate", has_ratio=False)
    )
    amplify: tuple[str, ...] = ()
    """Several amplifications, of which each gives a picture of its own; empty for the one of `decoding`."""
    recursive: bool = False
    existing: str = "skip"
    """What happens to pictures that exist already: `skip`, `replace` or `rename`."""
    picture: PictureFormat = field(default_factory=PictureFormat)
    metadata: str = "all"
    """Which metadata of the photograph are kept: `all`, `no-position` or `none`."""
    white_balance: str | None = None
    """`camera`, `auto` or gains `R,G,B`, for weights of the targets `raw` and `linear`; None for `camera`."""
    model: str | None = None
    """`package.module:Class` of the weights' network, if it is the user's own."""
    device: str = "auto"
    precision: Precision = "fp32"
    """Number format in which the network computes."""
    root: Path = Path("data")
    """Directory of the photographs of a camera whose colours are to be matched."""

    def __post_init__(self) -> None:
        if self.white_balance is not None:
            parse_white_balance(self.white_balance)
        if self.metadata not in METADATA:
            raise OptionError(
                f"metadata must be one of {', '.join(METADATA)}, not {self.metadata!r}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Restoration:
    """The files to restore, and the results as they come."""

    planned: tuple[PlannedFile, ...]
    """Everything that was asked for, including pictures that exist already."""
    results: Iterator[RestoreResult]
    """The result of each file that is not skipped, in order. Raises DiskFull."""


def restoration(options: RestoreOptions) -> Restoration:
    """Load the weights and return the restoration, which has not begun. Raises OptionError and WeightsError."""
    check_output_directory("out", options.out)
    planned = plan_files(
        find_raw_files(options.raw, recursive=options.recursive),
        options.out,
        SUFFIX[options.picture.format],
        amplify=options.amplify or (options.decoding.amplify,),
        existing=options.existing,
    )
    device = open_device(options.device)
    network = load_restorer(
        options.weights, device, model=options.model, precision=options.precision
    )
    write = _writer(options, network)
    load = _loader(options, network)
    jobs = [
        RestoreJob(source=str(one.source), load=load(one), target=one.target)
        for one in planned
        if not one.exists
    ]
    results = restore_all(network, jobs, device=device, write=write)
    return Restoration(planned=tuple(planned), results=results)


def _loader(
    options: RestoreOptions, network: ReadyNetwork
) -> Callable[[PlannedFile], Callable[[], UnpairedFrame]]:
    """Return a function that returns the function which decodes a file."""
    # Colours are matched for sRGB only: other targets keep the file's own.
    trained_on = cameras_from_text(network.cameras) if network.target == "srgb" else ()
    readers = {
        amplify: GuardedReader(
            partial(
                _read,
                replace(options.decoding, amplify=amplify).decoder(
                    options.root, trained_on, reads_noise_map=network.noise_map
                ),
                options.metadata,
            ),
            seconds=DECODE_S,
        )
        for amplify in options.amplify or (options.decoding.amplify,)
    }

    def frame(planned: PlannedFile) -> UnpairedFrame:
        if options.existing == "replace" and is_foreign(planned.target):
            raise RawError(
                str(planned.source),
                f"{planned.target} exists and was not written by darkprep, so it may be an original; choose another --out",
            )
        lone, metadata = readers[planned.amplify](planned.source)
        _check_cfa(lone, network, planned.source)
        header, meta = lone.decoded.header, lone.sample.meta
        return LoadedFrame(
            sample=lone.sample,
            orientation=header.orientation,
            text={
                "Camera": f"{header.make} {header.model}".strip(),
                "Exposure": f"{header.exposure_s:g} s, ISO {header.iso:g}",
                "Amplification": f"{meta.amplification:g} ({meta.amplification_source})",
                "Precision": options.precision,
                "Software": SOFTWARE_NAME,
            },
            notes=tuple(_notes(lone, trained_on, options.decoding)),
            lone=lone,
            metadata=metadata,
        )

    return lambda planned: partial(frame, planned)


def _read(decoder: FrameDecoder, kept: str, path: Path) -> tuple[LoneFrame, PhotoMetadata]:
    """Decode a file and read the `kept` metadata, in a process of its own that may crash."""
    keep_freed_memory()
    lone = decoder.file_unguarded(path)
    if kept == "none":
        return lone, PhotoMetadata()
    found = read_metadata(path, lone.decoded.header)
    return lone, found if kept == "all" else found.without_position()


def _check_cfa(lone: LoneFrame, network: ReadyNetwork, path: Path) -> None:
    """Raise WeightsError, with the option that helps, for a frame that the network cannot read."""
    if lone.sample.meta.cfa == network.cfa:
        return
    if network.cfa == "bayer":
        reason = "is of an X-Trans sensor, and these weights read Bayer mosaics; add --xtrans rggb, which resamples it"
    elif lone.decoded.header.cfa == "xtrans":
        reason = "these weights read X-Trans mosaics; leave --xtrans out"
    else:
        reason = "is of a Bayer sensor, and these weights read X-Trans mosaics; choose weights that were trained on Bayer mosaics, or with --xtrans rggb"
    raise WeightsError(f"{path}: {reason}")


def _notes(
    lone: LoneFrame, trained_on: tuple[CameraColours, ...], decoding: DecodingOptions
) -> Iterator[str]:
    """Yield the warnings about a frame."""
    camera = camera_name(lone.decoded.header)
    known = [one.camera for one in trained_on]
    if known and not lone.is_matched and camera.casefold() not in map(str.casefold, known):
        why = (
            "its file has no usable colours to convert"
            if decoding.match_colour == AUTO
            else "see --match-colour auto"
        )
        yield f"the weights were trained on {', '.join(known[:3])}, this is {camera or 'an unknown camera'}: {why}"
    factor = lone.sample.meta.amplification
    if factor > _MAX_PLAUSIBLE:
        yield f"the amplification {factor:g} is beyond {_MAX_PLAUSIBLE:g}: little but noise is left"
    clipped = _clipped(lone.sample)
    if clipped > _MAX_CLIPPED:
        yield f"{clipped:.0%} of its pixels are white after the amplification {factor:g}; choose a smaller --amplify"


def _clipped(sample: Sample) -> float:
    """Return the share of values that are at or above full scale after the amplification."""
    meta = sample.meta
    black = np.array(meta.black)[:, None, None]
    limit = black + (meta.white - black) / meta.amplification
    return float((sample.low[:, ::_STEP, ::_STEP] >= limit).mean())


def _writer(options: RestoreOptions, network: ReadyNetwork) -> Write:
    """Return the function that writes what the network restores. Raises OptionError for options that its target forbids."""
    named = options.decoding.match_colour not in (None, NONE, AUTO)
    if network.target != "srgb":
        if named:
            raise OptionError(
                f"--match-colour cannot be used with weights of the target {network.target}, whose results have the colours of the file's own camera; leave it out"
            )
        return raw_writer(
            options.picture, network.target, parse_white_balance(options.white_balance or "camera")
        )
    baked = "restore sRGB pictures, whose white balance and tone curve the network has learned; choose weights that were trained with --target raw or linear"
    if options.picture.format == "dng":
        raise OptionError(f"--format dng cannot be written with these weights: they {baked}")
    if options.white_balance is not None:
        raise OptionError(f"--white-balance cannot be changed with these weights: they {baked}")
    return _picture_writer(options)


def _picture_writer(options: RestoreOptions) -> Write:
    """Return the function that writes sRGB pictures."""

    def write(frame: UnpairedFrame, restored: Tensor, target: Path) -> None:
        assert isinstance(frame, LoadedFrame)
        pixels = upright(_srgb_pixels(frame, restored, options), frame.orientation)
        with file_errors(target):
            save_picture(target, pixels, options.picture, metadata=frame.metadata, text=frame.text)

    return write


def _srgb_pixels(frame: LoadedFrame, restored: Tensor, options: RestoreOptions) -> Pixels:
    """Return the picture `(H, W, 3)`, with the tint of another camera's network removed."""
    bits = options.picture.bits
    if not (frame.lone.is_matched and options.decoding.match_colour == AUTO):
        return integer_pixels(restored, bits)
    pixels = integer_pixels(restored, 16)
    assert pixels.dtype == np.uint16
    decoded = frame.lone.decoded
    factors = tint_factors(
        pixels.astype(np.uint16, copy=False),
        decoded,
        colours_of(decoded, decoded.header.path),
        frame.sample.meta.amplification,
    )
    return with_tint(
        pixels.astype(np.uint16, copy=False), np.ones(3) if factors is None else factors, bits
    )
