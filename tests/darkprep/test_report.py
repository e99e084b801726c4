"""The page of a run: it holds what it shows, works by mouse and by keys, and asks the network for nothing."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from darkprep.jobs.validation import ValidationFrames, most_detailed, write_jpeg
from darkprep.model import build_model, save_weights
from darkprep.report.charts import Chart, Curve, downsample, nice_ticks, smooth
from darkprep.report.evaluation_page import evaluation_page, spread_by_psnr
from darkprep.report.page import write_page
from darkprep.report.pictures import Picture, PictureSet
from darkprep.report.run_page import run_page, write_run_report
from darkprep.report.validations import read_validations
from darkprep.shards import Cursor, Spool
from darkprep.shards.files import read_json
from darkprep.trainer.records import read_metrics
from darkprep.view.history import SpoolHistory, read_history
from tests.support.statuses import status_of
from tests.support.webdriver import Browser, why_missing

WIDTHS = (390, 820, 1300)
RIGHT, END = "\ue014", "\ue010"


def picture(level: int, size: tuple[int, int] = (64, 96)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((*size, 3), level, np.uint8)


def write_run(run: Path) -> Path:
    """A run of 400 iterations as the trainer and the command line leave it."""
    run.mkdir(parents=True)
    config = {"model": "redirt", "camera": "sony", "iterations": 400, "note": "<b>&\"'</b>"}
    (run / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "iteration": done, "loss": math.exp(-done / 200), "samples_per_s": 8.0 + done / 100,
            "learning_rate": 1e-4 if done <= 200 else 1e-5, "data_wait_fraction": 0.01,
            "seconds": done / 2, "gpu_busy_percent": None, "iterations_per_s": 2.0,
            "shards_deleted": done // 8, "damaged": 0, "disk_bytes": 10**7, "shards_ready": 3,
        }
        for done in range(10, 401, 10)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = []
    for done in (100, 200, 300, 400):
        images = [{"pair": name, "psnr": 15 + done / 50, "ssim": done / 500} for name in ("a", "b")]
        judged.append(
            {"iteration": done, "psnr": 15 + done / 50, "ssim": done / 500, "images": images}
        )
        for name in ("a", "b"):
            write_jpeg(run / "heldout" / name / f"{done:08d}.jpg", picture(done // 4 + 50))
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in judged))
    for name in ("a", "b"):
        for kind, level in (("dark", 5), ("amplified", 90), ("truth", 250)):
            write_jpeg(run / "heldout" / name / f"{kind}.jpg", picture(level))
    history = [
        {
            "seconds": float(at), "disk_bytes": 10**7 * (1 + at % 5),
            "least_disk_bytes": 10**7, "shards_ready": 3, "budget_bytes": 6 * 10**7,
        }
        for at in range(200)
    ]  # fmt: skip
    (run / "spool.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    summary = {
        "iterations": 400, "samples": 1600, "first_loss": 1.0, "last_loss": 0.13,
        "data_wait_fraction": 0.01, "samples_per_second": 8.0, "seconds": 200.0,
        "shards_deleted": 50, "peak_disk_bytes": 5 * 10**7, "ended": "finished",
        "limiting_side": "the cpu limits", "first_batch_seconds": 1.0, "damaged_shards": 0,
        "parameters": 784_768,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    about = {"started": "2026-01-01", "command": "darkprep stream-train", "plan": {"pairs": 6},
             "versions": {"torch": "2"}, "machine": {"cores": "2"}}  # fmt: skip
    (run / "about.json").write_text(json.dumps(about))
    return run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_report(write_run(tmp_path_factory.mktemp("runs") / "r"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = why_missing()
    if missing:
        pytest.skip(f"the page is not looked at: {missing}")
    with Browser() as one:
        yield one


# -- in a browser -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_error_or_request_and_fits_the_window(browser, report, width, dark):
    browser.log("browser")
    browser.open(report, width=width, dark=dark)

    assert browser.log("browser") == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [report.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 19, 22)" if dark else "rgb(251, 251, 250)")


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


def test_arrow_keys_move_the_divider_and_say_so(browser, report):
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


def test_a_chart_reads_out_its_values_by_keys(browser, report):
    browser.open(report)
    browser.run("document.querySelector('.plot').focus()")
    browser.press(END)
    told = browser.run("return document.querySelector('.plot .readout').textContent")

    assert told.startswith("400 iterations: 0.13")


def test_everything_that_can_be_reached_has_a_name(browser, report):
    browser.open(report)
    nameless = browser.run(
        "return [...document.querySelectorAll('input, select, button, [tabindex], img')].filter((e) =>"
        "!(e.getAttribute('aria-label') || e.closest('label') || e.alt)).map((e) => e.outerHTML)"
    )

    assert nameless == []


def test_labels_of_axes_do_not_run_into_each_other(browser, report):
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


# -- as text ------------------------------------------------------------------------------------------


def test_the_page_tells_configuration_plan_versions_and_machine(report):
    text = report.read_text()

    for words in ("Configuration", "Plan", "Versions", "Machine", "Summary", "redirt on sony"):
        assert words in text
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_page_forbids_itself_every_request(report):
    text = report.read_text()

    assert "default-src 'none'; img-src data:" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_run_at_work_has_a_page_too(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "summary.json").unlink()
    (run / "evaluations.jsonl").write_text('{"iteration": 1')
    text = write_run_report(run).read_text()

    assert "Still running, or killed: 400 of 400 iterations" in text


def test_a_run_killed_before_its_first_line_has_a_page_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    assert "Still running, or killed" in write_run_report(tmp_path).read_text()


def test_a_directory_without_a_run_is_refused(complaint, tmp_path):
    assert "holds no run" in complaint("report", tmp_path)


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.html")

    write_page(path, run_page(tmp_path, {"model": path.name}))

    assert r"caf\udce9.html" in path.read_text(encoding="utf-8")


def test_the_command_names_the_page(call, tmp_path):
    run = write_run(tmp_path / "r")

    assert call("report", run).stdout.strip() == str(run / "report.html")


def test_an_evaluation_has_its_page_in_the_same_style():
    image = {"pair": "10003_00_0.1s", "ratio": 100, "amplification": 100.0, "psnr": None,
             "ssim": 1.0, "baseline_psnr": 12.5, "baseline_ssim": 0.1}  # fmt: skip
    record = {"camera": "sony", "pairs": 1, "protocol": "redirt", "protocol_says": "sRGB",
              "psnr": 30.0, "ssim": 0.9, "baseline_psnr": 12.5, "baseline_ssim": 0.1,
              "images": [image]}  # fmt: skip
    scene = PictureSet(
        name="s",
        caption="c",
        size=(4, 3),
        pictures=(
            Picture(kind="restored", label="r", jpeg=b"x"),
            Picture(kind="truth", label="t", jpeg=b"y"),
        ),
    )
    text = evaluation_page(record, [scene], lead="1 pair")

    for words in ("Evaluation on sony", "30.00 dB", "infinite", "12.50 dB", "sRGB"):
        assert words in text


def test_pictures_of_an_evaluation_run_from_spread_by_psnr():
    images = [{"pair": str(psnr), "psnr": psnr} for psnr in (5.0, 1.0, None, 3.0, 2.0, 4.0, 6.0)]
    chosen = [image["psnr"] for image in spread_by_psnr(images)]

    assert chosen[0] == 1.0
    assert chosen[-1] is None
    assert len(chosen) == 6


# -- parts --------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low, reach):
    ticks = nice_ticks(low, low + reach)

    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * reach <= tick <= low + reach * (1 + 1e-6) for tick in ticks)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=500), st.integers(2, 50))
def test_thinning_keeps_the_extremes_where_asked(values, most):
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


def test_a_chart_of_one_point_is_left_out():
    chart = Chart(
        title="t",
        description="s",
        curves=(Curve(name="n", points=[(1, 1)]),),
        x_label="i",
        format_y=str,
    )

    assert chart.layout() is None


def test_text_is_never_markup(tmp_path):
    hostile = "<i>'\">"
    run = write_run(tmp_path / hostile)
    for name in ("config.json", "about.json", "summary.json"):
        record = read_json(run / name) or {}
        texts = {key: hostile for key, value in record.items() if isinstance(value, str)}
        (run / name).write_text(json.dumps(record | texts | {hostile: hostile}))
    (run / "heldout" / "a").rename(run / "heldout" / hostile)
    picture = Picture(kind=hostile, label=hostile, jpeg=b"x")
    pictures = PictureSet(name=hostile, caption=hostile, size=(4, 3), pictures=(picture,))
    image = {"pair": hostile, "ratio": 1, "amplification": 1.0, "psnr": 1.0, "ssim": 1.0}
    record = {"camera": hostile, "pairs": 1, "protocol": hostile, "protocol_says": hostile,
              "psnr": 1.0, "ssim": 1.0, "images": [image]}  # fmt: skip

    for text in (
        write_run_report(run).read_text(),
        evaluation_page(record, [pictures], lead=hostile),
    ):
        assert hostile not in text
        assert "<i>" not in text.replace('"><i></i><span>', "")  # the keys of legends
        assert "&lt;i&gt;" in text


def test_the_most_detailed_piece_is_found():
    truth = np.full((3, 256, 256), 9000, np.uint16)
    truth[:, 160:224, 32:96] = np.random.default_rng(0).integers(0, 65535, (3, 64, 64))

    y, x = most_detailed(truth, 96, 96, align=2)

    assert 128 <= y <= 160
    assert 0 <= x <= 32
    assert y % 2 == x % 2 == 0


def test_old_pictures_are_thinned_out_but_not_the_first_and_the_last(tmp_path):
    for done in range(100, 2000, 100):
        (tmp_path / f"{done:08d}.jpg").touch()
        ValidationFrames._delete_pictures(tmp_path)
    kept = sorted(int(path.stem) for path in tmp_path.iterdir())

    assert len(kept) == 10
    assert (kept[0], kept[-1]) == (100, 1900)


def damage(path: Path, line: str) -> None:
    """One more line, or, of a file with one object, another object."""
    text = path.read_text() + line + "\n" if path.suffix == ".jsonl" else line
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("metrics.jsonl", "{}"),
        ("metrics.jsonl", '{"loss": 0.5}'),
        ("metrics.jsonl", '{"iteration": 401, "loss": "x"}'),
        ("metrics.jsonl", '{"iteration": [1], "loss": 0.5}'),
        ("metrics.jsonl", '{"iteration": 401, "loss": NaN}'),
        ("metrics.jsonl", f'{{"iteration": 401, "loss": 1{"0" * 400}}}'),
        ("metrics.jsonl", '{"iteration": 401, "loss": 0.1, "seconds": "x", "samples_per_s": []}'),
        ("metrics.jsonl", '{"iteration": 401, "loss": 0.1, "learning_rate": {}}'),
        ("metrics.jsonl", "[1]"),
        ("summary.json", '{"ended": "done"}'),
        (
            "summary.json",
            '{"ended": "finished", "limiting_side": "", "iterations": "8", "seconds": 1}',
        ),
        (
            "summary.json",
            '{"ended": "finished", "limiting_side": "", "iterations": 8, "seconds": 1, "first_loss": "x",'
            ' "samples_per_second": "x", "peak_disk_bytes": {}, "shards_deleted": []}',
        ),
        ("about.json", '{"plan": [1], "versions": 3, "machine": null}'),
        ("about.json", f'{{"plan": {{"shard_bytes": 1{"0" * 400}, "budget_bytes": "x"}}}}'),
        ("config.json", '{"model": "\\ud800", "camera": [], "iterations": "many"}'),
        ("spool.jsonl", '{"seconds": 1}'),
        ("spool.jsonl", '{"seconds": 900, "disk_bytes": null, "least_disk_bytes": 1}'),
        (
            "spool.jsonl",
            '{"seconds": 900, "disk_bytes": 1, "least_disk_bytes": 1, "budget_bytes": "x"}',
        ),
        ("evaluations.jsonl", '{"iteration": 401, "psnr": 20, "ssim": 0.5, "images": 5}'),
        ("evaluations.jsonl", '{"iteration": 401, "psnr": 20, "ssim": 0.5, "images": [5, {}]}'),
        ("evaluations.jsonl", '{"iteration": 401, "psnr": 20, "ssim": 0.5, "images": [{"pair": []}]}'),
        ("evaluations.jsonl", '{"iteration": 401, "psnr": 20}'),
    ],
)  # fmt: skip
def test_what_makes_no_sense_in_a_file_of_a_run_is_left_out_of_its_page(file, line, tmp_path):
    run = write_run(tmp_path / "r")
    damage(run / file, line)

    assert "NaN" not in write_run_report(run).read_text()


def test_without_a_summary_a_page_tells_what_is_known(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "summary.json").unlink()
    damage(run / "config.json", '{"iterations": "many"}')

    assert (
        "Still running, or killed: 400 iterations are logged." in write_run_report(run).read_text()
    )


def test_pictures_that_cannot_be_opened_are_not_shown(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "heldout" / "a" / "dark.jpg").write_bytes(b"no picture")
    (run / "heldout" / "b" / "00000200.jpg").write_bytes(b"")
    (run / "heldout" / "b" / "1x.jpg").write_bytes(
        (run / "heldout" / "b" / "dark.jpg").read_bytes()
    )
    (run / "heldout" / "b" / "9.jpg").mkdir()

    assert write_run_report(run).read_text().count("data:image/jpeg") == 3 + 3


def test_a_line_without_a_time_does_not_keep_a_run_from_going_on(tmp_path):
    whole = '{"seconds": 5, "disk_bytes": 1, "least_disk_bytes": 1}'
    (tmp_path / "spool.jsonl").write_text(whole + '\n{"seconds": "x"}\n{}\n')
    history = SpoolHistory(tmp_path)
    history.start()
    history.add(status_of())

    assert read_history(tmp_path)[-1].seconds == pytest.approx(5, abs=1)


def test_the_course_of_the_spool_is_written_and_goes_on_after_a_resumption(tmp_path):
    status = status_of(disk_bytes=5)
    first, again = SpoolHistory(tmp_path), SpoolHistory(tmp_path)
    first.add(status)  # not started yet
    first.start()
    first.add(status)
    again.start()
    again.add(replace(status, disk_bytes=7))
    again.add(status)  # too soon for a line of its own
    lines = read_history(tmp_path)

    assert [line.disk_bytes for line in lines] == [5, 7]
    assert lines[1].seconds >= lines[0].seconds


def test_a_training_leaves_its_page_with_held_out_pictures(call, large_spool, large_data):
    result = call(
        *("stream-train", "--spool", large_spool, "--run", "run", "--iterations", "2"),
        *("--batch-size", "2", "--device", "cpu", "--producers", "0", "--log-every", "1"),
        *("--model", "redirt-2rdb", "--evaluate-every", "1"),
    )

    assert "report: run/report.html" in result.stderr
    assert [line.iteration for line in read_validations(Path("run"))] == [1, 2]
    assert Path("run/report.html").read_text().count("data:image/jpeg") == 5
    assert "disk_bytes" in read_metrics(Path("run"))[-1].extra
    assert read_history(Path("run"))


def test_a_training_whose_page_cannot_be_made_has_ended_well(call, large_spool, tmp_path):
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    result = call(
        *("stream-train", "--spool", large_spool, "--run", "run", "--iterations", "1"),
        *("--batch-size", "2", "--device", "cpu", "--producers", "0"),
        *("--model", "redirt-2rdb", "--evaluate-every", "0"),
    )

    assert "finished after 1 iteration," in result.stdout
    assert "no report was written" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": 401, "loss": "x", "iterations_per_s": "x", "gpu_busy_percent": "x"}',
        '{"iteration": 401, "loss": [], "samples_per_s": {}, "data_wait_fraction": "x"}',
        "[" * 10_000,
    ],
)
def test_a_status_leaves_out_what_makes_no_sense_in_a_run(line, call, small_spool, tmp_path):
    run = write_run(tmp_path / "r")
    damage(run / "metrics.jsonl", line)
    damage(run / "config.json", '{"iterations": "many"}')
    spool = Spool(small_spool)
    with spool.trainer_lock():
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0, run=str(run)))
        result = call("status", "--spool", small_spool)

    assert result.exit_code == 0
    assert "trainer    running" in result.stdout


def test_an_evaluation_leaves_its_page_beside_its_figures(call, large_data, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_weights(build_model("redirt-2rdb"), weights)
    call(
        *("evaluate", "--weights", weights, "--camera", "sony", "--root", large_data),
        *("--device", "cpu", "--out", "results"),
    )
    text = Path("results/report.html").read_text()

    assert text.count("data:image/jpeg") == 4
    assert "Evaluation on sony" in text
