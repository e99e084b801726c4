"""The pages of runs and evaluations, and the files that they are made from, also damaged and hostile ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkprep.jobs.validation import ValidationFrames, most_detailed
from darkprep.model import build_model, save_weights
from darkprep.report.evaluation_page import evaluation_page, spread_by_psnr
from darkprep.report.page import write_page
from darkprep.report.pictures import Picture, PictureSet
from darkprep.report.run_page import run_page, write_run_report
from darkprep.shards import Cursor, Spool
from darkprep.shards.files import read_json
from darkprep.trainer.records import read_metrics
from darkprep.trainer.validations import read_validations
from darkprep.view.history import SpoolHistory, read_history
from tests.support.runs import write_run
from tests.support.statuses import status_of

pytestmark = pytest.mark.usefixtures("quick_networks")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_report(write_run(tmp_path_factory.mktemp("runs") / "r"))


def test_the_page_lists_configuration_plan_versions_and_machine(report):
    text = report.read_text()

    for words in ("Configuration", "Plan", "Versions", "Machine", "Summary", "redirt on sony"):
        assert words in text
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_page_forbids_all_requests(report):
    text = report.read_text()

    assert "default-src 'none'; img-src data:" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_running_training_has_a_page(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "summary.json").unlink()
    (run / "evaluations.jsonl").write_text('{"iteration": 1')
    text = write_run_report(run).read_text()

    assert "Still running, or killed: 400 of 400 iterations" in text


def test_a_run_killed_before_its_first_line_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    assert "Still running, or killed" in write_run_report(tmp_path).read_text()


def test_the_best_validation_is_marked_on_its_curve(tmp_path):
    run = write_run(tmp_path / "r")
    scores = ((100, 20.0), (200, 26.0), (300, 24.0))
    (run / "evaluations.jsonl").write_text(
        "".join(
            json.dumps({"iteration": i, "psnr": psnr, "ssim": psnr / 100}) + "\n"
            for i, psnr in scores
        )
    )

    text = write_run_report(run).read_text()

    assert text.count('class="mark"') == 2
    assert "best 26.00 dB after 200 iterations" in text


def test_a_directory_without_a_run_is_refused(complaint, tmp_path):
    assert "holds no run" in complaint("report", tmp_path)


def test_an_undecodable_name_is_shown_escaped(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.html")

    write_page(path, run_page(tmp_path, {"model": path.name}))

    assert r"caf\udce9.html" in path.read_text(encoding="utf-8")


def test_the_command_prints_the_path_of_the_page(call, tmp_path):
    run = write_run(tmp_path / "r")

    assert call("report", run).stdout.strip() == str(run / "report.html")


def test_the_page_of_an_evaluation_lists_its_scores():
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


def test_pictures_of_an_evaluation_are_ordered_from_worst_to_best():
    images = [{"pair": str(psnr), "psnr": psnr} for psnr in (5.0, 1.0, None, 3.0, 2.0, 4.0, 6.0)]
    chosen = [image["psnr"] for image in spread_by_psnr(images)]

    assert chosen[0] == 1.0
    assert chosen[-1] is None
    assert len(chosen) == 6


def test_text_of_files_is_never_markup(tmp_path):
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


def test_the_most_detailed_crop_is_found():
    truth = np.full((3, 256, 256), 9000, np.uint16)
    truth[:, 160:224, 32:96] = np.random.default_rng(0).integers(0, 65535, (3, 64, 64))

    y, x = most_detailed(truth, 96, 96, align=2)

    assert 128 <= y <= 160
    assert 0 <= x <= 32
    assert y % 2 == x % 2 == 0


def test_old_pictures_are_removed_but_not_the_first_and_the_last(tmp_path):
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
def test_invalid_values_in_the_files_of_a_run_are_left_out_of_its_page(file, line, tmp_path):
    run = write_run(tmp_path / "r")
    damage(run / file, line)

    assert "NaN" not in write_run_report(run).read_text()


def test_without_a_summary_the_page_shows_what_is_logged(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "summary.json").unlink()
    damage(run / "config.json", '{"iterations": "many"}')

    assert (
        "Still running, or killed: 400 iterations are logged." in write_run_report(run).read_text()
    )


def test_invalid_pictures_are_not_shown(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "heldout" / "a" / "dark.jpg").write_bytes(b"no picture")
    (run / "heldout" / "b" / "00000200.jpg").write_bytes(b"")
    (run / "heldout" / "b" / "1x.jpg").write_bytes(
        (run / "heldout" / "b" / "dark.jpg").read_bytes()
    )
    (run / "heldout" / "b" / "9.jpg").mkdir()

    assert write_run_report(run).read_text().count("data:image/jpeg") == 3 + 3


def test_the_history_of_a_spool_continues_after_invalid_lines(tmp_path):
    whole = '{"seconds": 5, "disk_bytes": 1, "least_disk_bytes": 1}'
    (tmp_path / "spool.jsonl").write_text(whole + '\n{"seconds": "x"}\n{}\n')
    history = SpoolHistory(tmp_path)
    history.start()
    history.add(status_of())

    assert read_history(tmp_path)[-1].seconds == pytest.approx(5, abs=1)


def test_the_history_of_a_spool_continues_when_a_run_is_resumed(tmp_path):
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


def test_a_training_writes_its_page_with_validation_pictures(call, large_spool, large_data):
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


def test_a_training_succeeds_when_its_page_cannot_be_written(call, large_spool, tmp_path):
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    result = call(
        *("stream-train", "--spool", large_spool, "--run", "run", "--iterations", "1"),
        *("--batch-size", "2", "--device", "cpu", "--producers", "0"),
        *("--model", "redirt-2rdb", "--evaluate-every", "0"),
    )

    assert "finished after 1 iteration," in result.stdout
    assert "the report could not be written" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": 401, "loss": "x", "iterations_per_s": "x", "gpu_busy_percent": "x"}',
        '{"iteration": 401, "loss": [], "samples_per_s": {}, "data_wait_fraction": "x"}',
        "[" * 10_000,
    ],
)
def test_a_status_leaves_out_invalid_values_in_the_files_of_a_run(
    line, call, small_spool, tmp_path
):
    run = write_run(tmp_path / "r")
    damage(run / "metrics.jsonl", line)
    damage(run / "config.json", '{"iterations": "many"}')
    spool = Spool(small_spool)
    with spool.trainer_lock():
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0, run=str(run)))
        result = call("status", "--spool", small_spool)

    assert result.exit_code == 0
    assert "trainer    running" in result.stdout


def test_an_evaluation_writes_its_page_beside_its_scores(call, large_data, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_weights(build_model("redirt-2rdb"), weights)
    call(
        *("evaluate", "--weights", weights, "--camera", "sony", "--root", large_data),
        *("--device", "cpu", "--out", "results"),
    )
    text = Path("results/report.html").read_text()

    assert text.count("data:image/jpeg") == 4
    assert "Evaluation on sony" in text
