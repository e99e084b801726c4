"""Options that cannot work are refused by name."""

from __future__ import annotations

import pytest

from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.shards import OptionError

SMALL = {"camera": "sony", "crop": 32, "margin": 4, "samples_per_shard": 8, "crops_per_visit": 4}


def options(**changes: object) -> PlanOptions:
    return PlanOptions(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"camera": ""}, "camera must have 1 to 100 characters"),
        ({"camera": "a\nb"}, "camera must be printable"),
        ({"crop": 33}, "crop must be a positive multiple of 2"),
        ({"margin": 3}, "margin"),
        ({"crops_per_visit": 3}, "samples-per-shard 8 must be a multiple of crops-per-visit 3"),
        ({"samples_per_shard": 0}, "samples-per-shard"),
        ({"epochs": 0}, "epochs"),
        ({"amplify": "lots"}, "amplify"),
        ({"amplify": "-3"}, "amplify"),
        ({"amplify": "nan"}, "amplify"),
        ({"amplify": "estimate", "multiplier": 0.0}, "multiplier"),
        ({"multiplier": 2.0}, "amplify estimate"),
        ({"seed": -1}, "seed"),
        ({"window": 0}, "window"),
        ({"frames": "some"}, "frames must be first or all, not 'some'"),
        ({"samples_per_shard": 10_000}, "samples-per-shard must be at most 9999"),
        ({"noise_edition": 3}, "noise_edition must be 1 or 2, not 3; a newer darkprep made this"),
    ],
)
def test_an_option_that_cannot_work_is_refused_by_name(changes: dict[str, object], field: str):
    with pytest.raises(OptionError, match=field):
        options(**changes).stored_size("bayer")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"xtrans": "bayer"}, "xtrans must be one of native, plain, rggb, not 'bayer'"),
        ({"noise": "iphone"}, "noise must be one of sony, fuji"),
        ({"noise": "measured"}, "the plan.s noise is measured, but its parameters are missing"),
        ({"dark_shading": "../../x"}, "dark_shading must be the 16 hex digits"),
        ({"dark_shading": "0" * 16, "noise": "sony"}, "dark-shading can be used only with"),
        ({"noise": "sony", "amplify": "estimate"}, "noise can be used only with --amplify ratio"),
    ],
)
def test_sources_that_cannot_work_are_refused(wrong, why):
    with pytest.raises(OptionError, match=why):
        options(**wrong)


def test_only_a_plan_with_noise_has_a_table_of_it():
    published = calibration_of("sony")
    assert isinstance(published, IsoTable)
    measured = published.without_bias()

    assert options(noise="measured", measured_noise=measured).noise_table() == measured
    assert options(noise="fuji").noise_table() == calibration_of("fuji")
    with pytest.raises(OptionError, match="was made without --noise; build a spool with --noise"):
        options().noise_table()


def test_an_option_under_a_name_that_no_plan_has_is_refused():
    with pytest.raises(ValueError, match="unknown options amplify"):
        PlanOptions.from_record({"camera": "sony", "amplify": "ratio"})


def test_crop_and_margin_have_a_default_for_each_cfa():
    default = PlanOptions(camera="fuji")

    assert (default.crop_size("bayer"), default.stored_size("bayer")) == (512, 528)
    assert (default.crop_size("xtrans"), default.stored_size("xtrans")) == (480, 504)
