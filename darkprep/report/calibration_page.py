"""The page of a camera calibration: parameters over ISO, and for each ISO the plots from which they come.

The trade-off: the dark shading is drawn from means of 64 x 64 pixels, so that columns and single pixels are
given as numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from darkprep.pipeline.noise.calibrate import CalibrationResult, IsoEvidence
from darkprep.pipeline.noise.calibrations import CALIBRATIONS, calibration_of
from darkprep.pipeline.noise.camera_calibration import CameraCalibration, IsoCalibration
from darkprep.pipeline.noise.dark_shading import F32
from darkprep.pipeline.noise.tukey_lambda import quantile, standard_deviation
from darkprep.report.charts import Chart, ChartLayout, Curve
from darkprep.report.page import render_page, write_page
from darkprep.report.pictures import small_jpeg

_COMPARED = ("sonya7s2", "canon70d")
"""Published cameras that are drawn for comparison: the least and nearly the most read noise."""
_MIN_PICTURE = 480
_SPECTRUM_POINTS = 200
_PLOT_POINTS = 80
"""Of a probability plot; more would look like a line, and hide the one of the perfect fit."""


def write_calibration_page(path: Path, result: CalibrationResult) -> None:
    """Write the page of a calibration. Raises DiskFull or SpoolError."""
    write_page(path, calibration_page(result))


def calibration_page(result: CalibrationResult) -> str:
    """Return the HTML page."""
    made = result.calibration
    isos = [one.iso for one in made.isos]
    pairs = sum(one.gain.pairs for one in made.isos if one.gain)
    figures = [
        ("ISO", f"{isos[0]:g} to {isos[-1]:g}" if len(isos) > 1 else f"{isos[0]:g}", f"{len(isos)} measured"),
        ("dark frames", str(sum(one.darks for one in made.isos)), f"{pairs} pairs of flat fields"),
        ("gain modes", str(len(made.modes)), _modes_text(made)),
        ("levels", f"{made.black:g} to {made.white}", "black and white, in codes"),
        ("warnings", str(len(made.warnings)), ""),
    ]  # fmt: skip
    return render_page(
        "calibration.html",
        title=f"Noise of the {made.camera}",
        lead=f"Measured by darkprep calibrate, {made.height} x {made.width} pixels, {made.cfa}. All values are in codes above black unless another unit is given.",
        figures=figures,
        warnings=made.warnings,
        heads=_HEADS,
        rows=[_row(one) for one in made.isos],
        joint_heads=("gain mode", "read: slope", "intercept", "spread", "row: slope", "intercept", "spread"),
        joint_rows=_joint_rows(made),
        charts=_laid_out(_over_iso(made)),
        evidence=[_section(one, known) for one, known in zip(result.evidence, made.isos, strict=True)],
    )  # fmt: skip


_HEADS = (
    *("ISO", "darks", "K, codes per electron", "read noise, sd", "electrons", "lambda", "scale"),
    *("row noise", "columns", "fixed columns", "fixed pixels", "bias R, G, B, G", "code step"),
)


def _row(one: IsoCalibration) -> tuple[str, ...]:
    gain = f"{one.gain.value:.4g} ± {one.gain.error:.1g}" if one.gain else "unknown"
    return (
        f"{one.iso:g}",
        str(one.darks),
        gain,
        f"{one.read.std:.2f}",
        f"{one.read.std / one.gain.value:.2f}" if one.gain else "unknown",
        f"{one.read.shape:+.3f}",
        f"{one.read.scale:.3f}",
        f"{one.row_sigma:.3f} ± {one.row_error:.1g}",
        f"{one.column_sigma:.3f}",
        f"{one.fixed_column_sigma:.3f}",
        f"{one.fixed_pixel_sigma:.3f}",
        ", ".join(f"{value:+.2f}" for value in one.colour_bias),
        str(one.step),
    )


def _joint_rows(made: CameraCalibration) -> list[tuple[str, ...]]:
    rows = []
    for mode in made.modes:
        if mode.read and mode.row:
            fits = [
                f"{value:.3f}"
                for fit in (mode.read, mode.row)
                for value in (fit.slope, fit.intercept, fit.spread)
            ]
            rows.append((f"ISO {mode.lowest:g} to {mode.highest:g}", *fits))
    return rows


def _modes_text(made: CameraCalibration) -> str:
    if len(made.modes) == 1:
        return "no switch was found"
    return f"a new one at ISO {', '.join(f'{mode.lowest:g}' for mode in made.modes[1:])}"


# -- over ISO -----------------------------------------------------------------------------------------


def _over_iso(made: CameraCalibration) -> list[Chart]:
    stops = [math.log2(one.iso / 100) for one in made.isos]
    scale = made.white - made.black
    compared = [
        (number, name, calibration_of(name))
        for number, name in enumerate(_COMPARED, start=2)
        if name in CALIBRATIONS
    ]

    def published(gain: bool) -> tuple[Curve, ...]:
        curves = []
        for number, name, table in compared:
            factor = scale / (table.white - table.black)
            points = []
            for stop in np.linspace(stops[0], stops[-1], 25).tolist():
                found = table.parameters(100 * 2**stop)
                sigma = found.read_scale * standard_deviation(found.read_shape)
                points.append((stop, factor * (found.gain if gain else sigma)))
            label = f"{name} (published, scaled to these levels)"
            curves.append(Curve(name=label, points=points, colour=number))
        return tuple(curves)

    gains = [(stop, one.gain.value) for stop, one in zip(stops, made.isos, strict=True) if one.gain]
    reads = [(stop, one.read.std) for stop, one in zip(stops, made.isos, strict=True)]
    rows = [(stop, one.row_sigma) for stop, one in zip(stops, made.isos, strict=True)]
    return [
        _iso_chart("Gain over ISO", "K in codes per electron; in proportion to ISO unless the camera scales digitally.", (*published(True), Curve(name="K, this camera", points=gains, style="points"))),
        _iso_chart("Read noise over ISO", "Standard deviation in codes; a fall with rising ISO is a change of the gain mode.", (*published(False), Curve(name="read noise, this camera", points=reads, style="points"))),
        _iso_chart("Row noise over ISO", "Standard deviation in codes of what a row has in common.", (Curve(name="row noise", points=rows, style="points"),)),
    ]  # fmt: skip


def _iso_chart(title: str, description: str, curves: tuple[Curve, ...]) -> Chart:
    return Chart(
        title=title,
        description=description,
        curves=curves if len(curves[-1].points) > 1 else (),
        x_label="ISO",
        x_resolution=1.0,
        format_x=lambda stop: f"{100 * 2**stop:.0f}",
        format_y=lambda value: f"{value:.3g}",
        log_scale=True,
    )


# -- of one ISO ---------------------------------------------------------------------------------------


def _section(one: IsoEvidence, known: IsoCalibration) -> dict[str, object]:
    low, high = np.percentile(one.shading, (1, 99)).tolist()
    return {
        "title": f"ISO {one.iso:g}",
        "charts": _laid_out([_transfer(one), _probability_plot(one, known), _spectrum(one)]),
        "jpeg": small_jpeg(_shading_picture(one.shading)),
        "shading_note": f"Dark shading: means of 64 x 64 pixels without the colour bias, from {low:+.2f} (black) to {high:+.2f} codes (white); {one.darks.hot_pixels} hot pixels are left out.",
    }


def _transfer(one: IsoEvidence) -> Chart | None:
    found = one.transfer
    if found is None:
        return None
    means, variances = found.means.tolist(), found.variances.tolist()
    line = [(mean, found.gain * mean + found.intercept) for mean in (means[0], means[-1])]
    return Chart(
        title="Photon transfer",
        description=f"Variance of pairs of flat fields over their mean; the slope is K = {found.gain:.4g} codes per electron.",
        curves=(
            Curve(name="straight line", points=line, colour=2),
            Curve(name="variance", points=list(zip(means, variances, strict=True)), style="points"),
        ),
        x_label="codes above black",
        format_y=lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.4g}",
    )


def _probability_plot(one: IsoEvidence, known: IsoCalibration) -> Chart | None:
    read = one.darks.read
    if read is None:
        return None
    fitted = read.scale * quantile(read.shares, read.shape) + read.location
    points = sorted(zip(fitted.tolist(), read.quantiles.tolist(), strict=True))
    ends = [(points[0][0], points[0][0]), (points[-1][0], points[-1][0])]
    better = (
        "a normal distribution fits better"
        if read.r2_normal > read.r2
        else "better than a normal distribution"
    )
    return Chart(
        title="Probability plot of the read noise",
        description=f"Measured quantiles over those of Tukey's lambda distribution with lambda {known.read.shape:+.3f}; r² {read.r2:.5f}, {better} ({read.r2_normal:.5f}).",
        curves=(
            Curve(name="perfect fit", points=ends, colour=2),
            Curve(name="measured quantile", points=points[:: max(1, len(points) // _PLOT_POINTS)], style="points"),
        ),
        x_label="codes, fitted",
        format_x=lambda value: f"{value:.3g}",
        x_resolution=0.0,
        format_y=lambda value: f"{value:.3g}",
    )  # fmt: skip


def _spectrum(one: IsoEvidence) -> Chart:
    power = one.darks.row_spectrum
    groups = np.array_split(np.arange(len(power)), min(_SPECTRUM_POINTS, len(power)))
    points = [(float(group.mean() + 1) / (2 * len(power)), float(power[group].mean())) for group in groups]  # fmt: skip
    return Chart(
        title="Spectrum of the row means",
        description="Power by frequency, mean 1; flat for independent rows, a peak for periodic bands.",
        curves=(Curve(name="power", points=points),),
        x_label="cycles per row",
        x_resolution=0.0,
        format_x=lambda value: f"{value:.2f}",
        format_y=lambda value: f"{value:.2g}",
        starts_at_zero=True,
    )


def _shading_picture(shading: F32) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    low, high = np.percentile(shading, (1, 99))
    grey = (shading - low) / max(float(high - low), 1e-6) * 255
    picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    factor = max(1, math.ceil(_MIN_PICTURE / picture.width))
    large = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)  # fmt: skip
    return np.asarray(large.convert("RGB"))


def _laid_out(charts: Sequence[Chart | None]) -> list[ChartLayout]:
    return [layout for chart in charts if chart and (layout := chart.layout())]
