"""Charts as values for a template: ticks, labels, and what downsampling and smoothing keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from darkprep.report.charts import Chart, Curve, downsample, nice_ticks, smooth


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside_the_range(low, reach):
    ticks = nice_ticks(low, low + reach)

    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * reach <= tick <= low + reach * (1 + 1e-6) for tick in ticks)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=500), st.integers(2, 50))
def test_downsampling_keeps_the_extremes_if_requested(values, most):
    points = list(enumerate(values))
    kept = downsample(points, most, keep_extremes=True)

    assert len(kept) <= max(most, len(points) if len(points) <= most else 0)
    assert max(y for _, y in kept) == max(values)
    assert min(y for _, y in kept) == min(values)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_smoothing_keeps_a_straight_line_and_its_ends():
    line = [(float(x), 2.0 * x) for x in range(100)]

    assert np.allclose(smooth(line), line)


@pytest.mark.parametrize("share", [0.0, 1e-9, 2e-5, 4e-4, 0.01, 0.0125, 0.33])
def test_labels_of_an_axis_differ_however_narrow_its_range(share):
    """Waits of 0.00 to 0.04 % were once five labels of 0.0 %, and a tick at 0.25 % was labelled 0.2 %."""
    chart = Chart(
        title="t",
        description="s",
        curves=(Curve(name="n", points=[(1, 0.0), (2, share), (3, share / 2)]),),
        x_label="i",
        format_y=lambda value: f"{value:.1%}",
        y_resolution=0.001,
        starts_at_zero=True,
    )
    layout = chart.layout()

    assert layout
    for ticks in (layout.x_ticks, layout.y_ticks):
        texts = [tick.text for tick in ticks]
        assert len(texts) == len(set(texts)) >= 2
    assert [tick.text for tick in layout.x_ticks] == ["1", "2", "3"]


def test_a_logarithmic_axis_of_a_narrow_range_has_round_labels():
    points = [(1.0, 0.29), (2.0, 0.65)]
    chart = Chart(
        title="t",
        description="s",
        curves=(Curve(name="n", points=points),),
        x_label="i",
        format_y=lambda value: f"{value:.3f}",
        y_resolution=0.001,
        log_scale=True,
    )
    layout = chart.layout()

    assert layout
    assert [tick.text for tick in layout.y_ticks] == ["0.300", "0.400", "0.500", "0.600"]


def test_a_chart_of_one_point_has_no_layout():
    chart = Chart(
        title="t",
        description="s",
        curves=(Curve(name="n", points=[(1, 1)]),),
        x_label="i",
        format_y=str,
    )

    assert chart.layout() is None
