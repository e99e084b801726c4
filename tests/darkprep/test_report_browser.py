"""The pages of a run and of a calibration in a browser: they open without requests, and work with mouse and keys."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkprep.pipeline.noise.calibrate import calibrate
from darkprep.report.calibration_page import write_calibration_page
from darkprep.report.run_page import write_run_report
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import sensor_of
from tests.support.runs import write_run
from tests.support.webdriver import Browser, why_missing

WIDTHS = (390, 820, 1300)
RIGHT, END = "\ue014", "\ue010"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_report(write_run(tmp_path_factory.mktemp("runs") / "r"))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a calibration with two gain modes, in which two ISO values have flat fields."""
    root = tmp_path_factory.mktemp("calibration")
    settings = FrameSettings(size=(192, 256), darks=2, levels=(0.05, 0.2, 0.5))
    write_calibration_frames(root, sensor_of("sony"), (800, 1600, 3200), settings=settings)
    darks, flats = (sorted((root / name).glob("*.dng")) for name in ("darks", "flats"))
    with_light = [path for path in flats if "iso800" not in path.name]
    write_calibration_page(root / "camera.html", calibrate(darks, with_light))
    return root / "camera.html"


@pytest.fixture(params=["report", "calibration"])
def page(request: pytest.FixtureRequest) -> Path:
    """Each kind of page."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = why_missing()
    if missing:
        pytest.skip(missing)
    with Browser() as one:
        yield one


@pytest.mark.parametrize(
    ("width", "dark"), [*((width, False) for width in WIDTHS), (WIDTHS[0], True)]
)
def test_the_page_opens_without_error_or_request_and_fits_the_window(browser, page, width, dark):
    browser.log("browser")
    browser.open(page, width=width, dark=dark)

    assert browser.log("browser") == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(16, 19, 22)" if dark else "rgb(251, 251, 250)")


def test_all_pictures_load(browser, report):
    browser.open(report)
    sizes = browser.run("return [...document.images].map((one) => one.naturalWidth)")

    assert sizes == [96] * 14  # two scenes: dark, amplified, truth and four restored


def level_at(browser: Browser, share: float) -> tuple[int, ...]:
    """The grey that the page shows at a share of the stage's width, read from a screenshot."""
    box = browser.run(
        "const b = document.querySelector('.stage:not([hidden])').getBoundingClientRect();"
        "return [b.x + scrollX, b.y + scrollY, b.width, b.height]"
    )
    clip = {"x": box[0] + share * box[2], "y": box[1] + box[3] / 4, "width": 4, "height": 4}
    shot = browser.cdp("Page.captureScreenshot", clip={**clip, "scale": 1})
    shown = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    return tuple(np.asarray(shown).reshape(-1, 3).mean(axis=0).round().astype(int).tolist())


def stage_box(browser: Browser) -> list[float]:
    box: list[float] = browser.run(
        "const s = document.querySelector('.stage:not([hidden])'); s.scrollIntoView();"
        "const b = s.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    return box


def test_dragging_the_divider_moves_the_picture(browser, report):
    browser.open(report)
    x, y, width, height = stage_box(browser)
    before = level_at(browser, 0.7)
    browser.drag((x + width / 2, y + height / 2), (x + 0.9 * width, y + height / 2))

    assert before == pytest.approx((150, 150, 150), abs=4)  # restored, on the right
    assert level_at(browser, 0.7) == pytest.approx((90, 90, 90), abs=4)  # amplified, on the left
    cut = browser.run("return document.querySelector('.stage').style.getPropertyValue('--cut')")
    assert float(cut.rstrip("%")) == pytest.approx(90, abs=1)


def test_arrow_keys_move_the_divider_and_update_its_text(browser, report):
    browser.open(report)
    browser.run("document.querySelector('.stage input').focus()")
    browser.press(RIGHT)
    browser.press(END)
    state = browser.run(
        "const i = document.querySelector('.stage input');"
        "return [i.value, i.getAttribute('aria-valuetext'), i.getAttribute('aria-label')]"
    )

    assert state[0] == "100"
    assert "amplified input on the left 100 %" in state[1]
    assert state[2]
    assert level_at(browser, 0.9) == pytest.approx((90, 90, 90), abs=4)


def test_the_reader_chooses_scene_sides_and_iteration(browser, report):
    browser.open(report)
    set_to = (
        "const e = document.querySelector(`[name=${arguments[0]}]`); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.run(set_to, "scene", "1")
    browser.run(set_to, "left", "dark")
    browser.run(set_to, "step", "0")
    stage_box(browser)

    assert level_at(browser, 0.2) == pytest.approx((5, 5, 5), abs=4)
    assert level_at(browser, 0.8) == pytest.approx((75, 75, 75), abs=4)
    assert "100 iterations" in browser.run("return document.querySelector('output').textContent")
    assert browser.run("return document.querySelector('.caption').textContent").startswith("b:")


def test_arrow_keys_read_out_the_values_of_a_chart(browser, report):
    browser.open(report)
    browser.run("document.querySelector('.plot').focus()")
    browser.press(END)
    readout = browser.run("return document.querySelector('.plot .readout').textContent")

    assert readout.startswith("400 iterations: 0.13")


def test_every_focusable_element_has_a_name(browser, page):
    browser.open(page)
    nameless = browser.run(
        "return [...document.querySelectorAll('input, select, button, [tabindex], img')].filter((e) =>"
        "!(e.getAttribute('aria-label') || e.closest('label') || e.alt)).map((e) => e.outerHTML)"
    )

    assert nameless == []


def test_labels_of_axes_do_not_overlap(browser, page):
    browser.open(page, width=390)
    overlaps = browser.run(
        """
        let found = 0;
        for (const plot of document.querySelectorAll('.plot')) {
          for (const kind of ['x', 'y']) {
            const boxes = [...plot.querySelectorAll(`.tick.${kind}`)].map((t) => t.getBoundingClientRect());
            boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
              if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) { found++; }
            }));
          }
        }
        return found;
        """
    )

    assert overlaps == 0


def test_the_page_of_a_calibration_shows_its_plots_maps_and_warnings(browser, calibration):
    browser.open(calibration)
    found = browser.run(
        "return {headings: [...document.querySelectorAll('h2')].map((e) => e.textContent),"
        "plots: document.querySelectorAll('.plot').length,"
        "maps: [...document.images].map((one) => one.naturalWidth),"
        "warnings: document.querySelectorAll('section li').length,"
        "rows: document.querySelector('table').rows.length}"
    )

    assert found["headings"] == [
        "Warnings",
        "Parameters",
        "Over ISO",
        "ISO 800",
        "ISO 1600",
        "ISO 3200",
    ]
    assert found["plots"] == 3 + 2 + 3 + 3, (
        "ISO 800 has no photon transfer, because it has no flat fields"
    )
    assert len(found["maps"]) == 3
    assert min(found["maps"]) >= 480
    assert found["warnings"] >= 3
    assert found["rows"] == 4
    browser.run("document.querySelectorAll('.plot')[1].focus()")
    browser.press(END)
    readout = browser.run(
        "return document.querySelectorAll('.plot')[1].querySelector('.readout').textContent"
    )
    assert readout.startswith("3200 ISO: ")


def test_the_points_of_a_calibration_are_not_joined_across_a_gain_mode(browser, calibration):
    browser.open(calibration)
    own = browser.run(
        "const p = [...document.querySelectorAll('.plot')[1].querySelectorAll('svg path')];"
        "return p.at(-1).getAttribute('d')"
    )

    assert own.count("M") == 3
    assert "L" not in own
