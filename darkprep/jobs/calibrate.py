"""The job of `darkprep calibrate`: find the frames, measure the camera, write the file, its maps and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkprep.pipeline.noise.calibrate import (
    CalibrationResult,
    calibrate,
)
from darkprep.pipeline.noise.calibration_frames import check_same_camera
from darkprep.pipeline.noise.calibrations import CALIBRATIONS
from darkprep.pipeline.noise.camera_calibration import (
    CameraCalibration,
    read_calibration,
    write_calibration,
)
from darkprep.pipeline.noise.sampled_darks import MOST_DARKS, DarkFile, SampledDarks
from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.pairs.folders import raw_files_below
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.options import MEASURED, SAMPLED
from darkprep.pipeline.raw.camera_colours import camera_name
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.pipeline.raw.mosaic import canonical_shape
from darkprep.shards.errors import DatasetError, OptionError


def raw_files(directory: Path, option: str) -> list[Path]:
    """Return the RAW files in `directory` and below it, by path. Raises DatasetError, which names `option`."""
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise DatasetError(f"{directory}: {problem}; give a directory of RAW files to {option}")
    found = sorted(raw_files_below(directory))
    if not found:
        raise DatasetError(f"{directory}: holds no RAW files; give another directory to {option}")
    return found


def noise_options(
    noise: str | None, shot_noise: Path | None, dark_shading: Path | None = None
) -> dict[str, Any]:
    """Return the fields of PlanOptions for --noise: a camera, a calibration file, or a directory of dark frames.

    With `dark_shading`, a calibration file, the noise has no colour bias, because it is subtracted. Raises
    OptionError or DatasetError for another value of `noise`, or if dark frames do not belong together.
    """
    is_sampled = noise is not None and noise not in CALIBRATIONS and Path(noise).is_dir()
    if shot_noise is not None and not is_sampled:
        raise OptionError("shot-noise can be used only with a directory of dark frames as --noise")
    shading = {"dark_shading": ShadingCorrection.at(dark_shading).digest} if dark_shading else {}
    if noise is None or noise in CALIBRATIONS:
        return {"noise": noise, **shading}
    if is_sampled:
        gains = read_calibration(shot_noise) if shot_noise else None
        return {"noise": SAMPLED, "sampled_darks": sampled_darks(Path(noise), gains), **shading}
    path = Path(noise)
    if not path.exists():
        raise OptionError(
            f"noise must be one of {', '.join(CALIBRATIONS)}, a calibration file or a directory of dark frames, not {noise!r}"
        )
    table = read_calibration(path).noise_table(noise)
    return {
        "noise": MEASURED,
        "measured_noise": table.without_bias() if dark_shading else table,
        **shading,
    }


def sampled_darks(directory: Path, gains: CameraCalibration | None) -> SampledDarks:
    """Return the dark frames below a directory, with the gain K of a calibration for each.

    Raises DatasetError for frames of several cameras, RawError for one that cannot be read, OptionError for a
    calibration without K, or of another camera.
    """
    paths = raw_files(directory, "--noise")
    if len(paths) > MOST_DARKS:
        raise DatasetError(
            f"{directory}: holds {len(paths):,} RAW files, and noise is drawn from at most {MOST_DARKS:,}; give a directory of fewer to --noise"
        )
    with GuardedReader(lambda path: open_source(path).header(), seconds=HEADER_S) as read:
        headers = [read(path) for path in paths]
    check_same_camera(headers)
    table = gains.noise_table("--shot-noise") if gains else None
    if gains and gains.camera != camera_name(headers[0]):
        raise OptionError(
            f"the calibration of --shot-noise is of camera {gains.camera}, but the dark frames are of {camera_name(headers[0])}; give a calibration of the same camera, or leave --shot-noise out"
        )
    height, width = canonical_shape(headers[0])
    return SampledDarks(
        files=tuple(
            DarkFile(
                path=path.relative_to(directory).as_posix(),
                fingerprint=open_source(path).fingerprint(),
                iso=header.iso,
                gain=table.parameters(header.iso).gain if table else None,
            )
            for path, header in zip(paths, headers, strict=True)
        ),
        cfa=headers[0].cfa,
        height=height,
        width=width,
    )


def write_camera_calibration(
    darks: Path, flats: Path | None, out: Path, progress: Callable[[str], None]
) -> CalibrationResult:
    """Calibrate a camera from two directories; write `out`, the maps beside it, and a page with its plots.

    Raises OptionError for a name of `out` that does not end in .json, and the errors of `calibrate`.
    """
    if out.suffix.lower() != ".json":
        raise OptionError(f"--out must be a .json file, not {out}")
    if not out.parent.is_dir():
        raise OptionError(f"--out {out}: the directory {out.parent} does not exist; create it")
    result = calibrate(
        raw_files(darks, "--darks"),
        raw_files(flats, "--flats") if flats else (),
        maps_beside=out,
        progress=progress,
    )
    write_calibration(out, result.calibration)
    # Imported here because it loads jinja2, which `darkprep build` would wait for.
    from darkprep.report.calibration_page import write_calibration_page

    write_calibration_page(page_beside(out), result)
    return result


def page_beside(out: Path) -> Path:
    """Return the path of the page that is written beside the calibration `out`."""
    return out.with_suffix(".html")


def summary_lines(result: CalibrationResult) -> list[str]:
    """Return the calibration as text, one line for each ISO."""
    lines = []
    for one in result.calibration.isos:
        gain = "K unknown"
        if one.gain:
            source = "" if one.gain.pairs else " (in proportion to ISO)"
            gain = f"K {one.gain.value:.4g} ± {one.gain.error:.1g} codes per electron{source}"
        bias = ", ".join(f"{value:+.2f}" for value in one.colour_bias)
        lines.append(
            f"ISO {one.iso:g}: {gain}; read noise {one.read.std:.2f} codes (lambda {one.read.shape:+.3f}, scale {one.read.scale:.3f}), "
            f"row noise {one.row_sigma:.3f}; bias of R, G, B, G {bias}"
        )
    known = [one for one in result.calibration.isos if one.gain and one.gain.pairs]
    if known:
        electrons = [
            (result.calibration.white - result.calibration.black) / one.gain.value * one.iso / 100
            for one in known
            if one.gain
        ]
        lines.append(
            f"full scale at ISO 100: {sum(electrons) / len(electrons):,.0f} electrons, for stream-train --full-scale-electrons"
        )
    if not any(one.gain for one in result.calibration.isos):
        lines.append(
            "without flat fields K is unknown: build --noise can take the directory of the dark frames, but not this file; add --flats for this"
        )
    return lines
