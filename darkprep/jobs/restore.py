"""Restore RAW files to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from darkprep.jobs.decoding import DecodingOptions, FrameDecoder
from darkprep.jobs.output_directory import check_output_directory
from darkprep.jobs.weights import load_restorer
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from darkprep.shards import OptionError
from darkprep.trainer.device import open_device
from darkprep.trainer.picture import Bits
from darkprep.trainer.restoration import RestoreJob, RestoreResult, UnpairedFrame, restore_all


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """The options for restoring files. Raises OptionError, which names the invalid field."""

    raw: tuple[Path, ...]
    weights: Path
    out: Path
    decoding: DecodingOptions = field(
        default_factory=lambda: DecodingOptions(amplify="estimate", has_ratio=False)
    )
    format: str = "png"
    """`png` or `tiff`."""
    bits: Bits = 8
    model: str | None = None
    """`package.module:Class` of the weights' network, if it is the user's own."""
    device: str = "auto"
    root: Path = Path("data")
    """Directory of the photographs of a camera whose colours are to be matched."""

    def __post_init__(self) -> None:
        if self.format not in ("png", "tiff"):
            raise OptionError(f"format must be png or tiff, not {self.format!r}")
        if self.bits not in (8, 16):
            raise OptionError(f"bits must be 8 or 16, not {self.bits}")


def restoration(options: RestoreOptions) -> Iterator[RestoreResult]:
    """Restore the files one after the other, and yield the result for each file.

    Raises OptionError, WeightsError, and DiskFull.
    """
    check_output_directory("out", options.out)
    targets = _picture_paths(options)
    _refuse_overwriting_sources(options.raw, targets)
    device = open_device(options.device)
    network = load_restorer(options.weights, device, model=options.model)
    if network.target != "srgb":
        result = "RAW planes" if network.target == "raw" else "linear camera RGB"
        raise OptionError(
            f"{options.weights}: restores {result}, but restore writes sRGB pictures; choose weights that were trained with --target srgb, or score these with darkprep evaluate"
        )
    decoder = options.decoding.decoder(options.root, cameras_from_text(network.cameras))
    jobs = [
        RestoreJob(source=str(path), load=_loader(path, decoder), target=target)
        for path, target in zip(options.raw, targets, strict=True)
    ]
    yield from restore_all(network, jobs, bits=options.bits, device=device)


def _picture_paths(options: RestoreOptions) -> list[Path]:
    """Return a path for each picture; files of the same name from different directories get numbers."""
    taken: dict[str, None] = {}
    for path in options.raw:
        name, count = path.stem, 1
        while name in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken[name] = None
    return [options.out / f"{name}.{options.format}" for name in taken]


def _refuse_overwriting_sources(raw: tuple[Path, ...], targets: list[Path]) -> None:
    """Raise OptionError if a picture (such as a TIFF) would overwrite one of the RAW files."""
    sources = {_file_id(path) for path in raw} - {None}
    for target in targets:
        if _file_id(target) in sources:
            raise OptionError(
                f"{target}: is one of the files to restore and would be overwritten; choose another --out"
            )


def _file_id(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which are equal for all links to a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _loader(path: Path, decoder: FrameDecoder) -> Callable[[], UnpairedFrame]:
    def load() -> UnpairedFrame:
        frame = decoder.file(path)
        sample, header = frame.sample, frame.decoded.header
        text = {
            "Camera": f"{header.make} {header.model}".strip(),
            "Exposure": f"{header.exposure_s:g} s, ISO {header.iso:g}",
            "Amplification": f"{sample.meta.amplification:g} ({sample.meta.amplification_source})",
            "Software": "darkprep",
        }
        return UnpairedFrame(sample=sample, orientation=header.orientation, text=text)

    return load
