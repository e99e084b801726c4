"""The page of a run in a browser: it opens without requests, and works with mouse and keys."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkprep.report.run_page import write_run_report
from tests.support.runs import write_run
from tests.support.webdriver import Browser, why_missing

WIDTHS = (390, 820, 1300)
RIGHT, END = "\ue014", "\ue010"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_report(write_run(tmp_path_factory.mktemp("runs") / "r"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = why_missing()
    if missing:
        pytest.skip(missing)
    with Browser() as one:
        yield one


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_error_or_request_and_fits_the_window(browser, report, width, dark):
    browser.log("browser")
    browser.open(report, width=width, dark=dark)

    assert browser.log("browser") == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [report.as_uri()]
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


def test_every_focusable_element_has_a_name(browser, report):
    browser.open(report)
    nameless = browser.run(
        "return [...document.querySelectorAll('input, select, button, [tabindex], img')].filter((e) =>"
        "!(e.getAttribute('aria-label') || e.closest('label') || e.alt)).map((e) => e.outerHTML)"
    )

    assert nameless == []


def test_labels_of_axes_do_not_overlap(browser, report):
    browser.open(report, width=390)
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
