"""Studies make their tables, pictures and page from one command, and go on where they were."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkprep.jobs.developed_results import developed_result
from darkprep.model import build_model, save_weights
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.groups import report_groups
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.shards import DatasetError, OptionError, Target
from darkprep.studies.catalogue import STUDIES, run_study, study_named
from darkprep.studies.levels import with_published_levels
from darkprep.studies.noise import _PUBLISHED
from darkprep.studies.options import SmallRun, StudyOptions
from darkprep.studies.panel import (
    Comparison,
    LabelledPicture,
    common_median_pair,
    encode_panel,
    median_pair,
    panel,
    read_picture_row,
)
from darkprep.studies.result import Table
from darkprep.studies.targets import _PUBLISHED as PUBLISHED_TARGETS
from darkprep.studies.task_kinds import ExecutionOptions, TrainingScale, TrainingTask
from darkprep.studies.task_results import PairScore
from darkprep.studies.tasks import StudyContext
from darkprep.synth.dataset import synthesise
from darkprep.trainer.evaluation import truth_of
from darkprep.trainer.stream import network_input
from darkprep.view.live import Progress

pytestmark = pytest.mark.usefixtures("quick_networks")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene from four cameras, in ELD's layout."""
    root = tmp_path_factory.mktemp("eld")
    for camera in ("sonya7s2", "canon70d", "canon700d", "nikond850"):
        synthesise(root, camera, scenes=1, shorts=1, size=(96, 128), seed=3)
    return root


@pytest.fixture
def weights(tmp_path: Path, quick_networks: None) -> Path:
    torch.manual_seed(0)
    save_weights(build_model("redirt"), tmp_path / "given.safetensors")
    return tmp_path / "given.safetensors"


def context_of(options: StudyOptions) -> StudyContext:
    return StudyContext(
        out=options.out,
        root=options.data_root(),
        progress=Progress(quiet=True),
        stop=threading.Event(),
    )


def test_the_published_levels_turn_canon_white_and_nikon_black(photographs):
    """Before any network: at ratio 100 a Canon's pedestal is ten times white, a Nikon's signal is gone."""
    inputs = {}
    for camera in ("sonya7s2", "canon70d", "canon700d", "nikond850"):
        found = find_pairs(photographs, camera_named(camera))
        pair = next(pair for pair in found.pairs if "x100" in report_groups(pair))
        sample = whole_frame(found.root, pair)
        published = with_published_levels(sample)
        inputs[camera] = [
            network_input(torch.from_numpy(one.low)[None], (one.meta,)).numpy()
            for one in (published, sample)
        ]

    for camera in ("canon70d", "canon700d"):
        wrong, right = inputs[camera]
        assert wrong.min() > 5, "every pixel is far beyond white"
        assert 0 < right.mean() < 1
    wrong, right = inputs["nikond850"]
    assert (wrong == 0).mean() > 0.9, "nearly every pixel is cut off at black"
    assert 0.05 < right.mean() < 1
    wrong, right = inputs["sonya7s2"]
    np.testing.assert_allclose(np.maximum(right, 0), wrong, atol=1e-4)


def test_the_study_levels_runs_with_given_weights(photographs, weights, tmp_path):
    options = StudyOptions(out=tmp_path / "out", root=photographs, weights=weights)

    page = run_study("levels", options, context_of(options))

    folder = tmp_path / "out" / "levels"
    assert page == folder / "index.html"
    record = json.loads((folder / "results.json").read_text())
    table = record["tables"][0]
    assert [row[:2] for row in table["rows"][:4]] == [
        ["Sony A7S II (ELD)", "published"],
        ["Sony A7S II (ELD)", "the file's"],
        ["Canon 70D", "published"],
        ["Canon 70D", "the file's"],
    ]
    assert [row[2] for row in table["rows"][2:4]] == ["512, 16383", "2047, 15303"]
    assert table["rows"][2][3:5] == ["100.0%", "0.0%"], "a Canon's input is white everywhere"
    assert "| Nikon D850 | the file's | 400, 15520 |" in (folder / "table.md").read_text()
    with Image.open(folder / "panel.jpg") as shown:
        assert shown.height > 4 * 96
    assert page.read_text().count("data:image/jpeg") == 4 * 4


def test_a_study_of_photographs_names_the_missing_directory(photographs, weights, tmp_path):
    options = StudyOptions(out=tmp_path / "out", root=photographs)

    with pytest.raises(DatasetError, match=r"holds no Sony/short"):
        study_named("section-7")(options)
    with pytest.raises(DatasetError, match=r"holds no Sony/short"):
        study_named("levels")(options)
    assert (
        len(
            study_named("levels")(
                StudyOptions(out=tmp_path, root=photographs, weights=weights)
            ).tasks
        )
        == 8
    )


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"fuji_xtrans": "native"}, "xtrans must be plain or rggb here"),
        ({"weights": Path("absent")}, "absent: does not exist; choose another --weights"),
        ({"execution": ExecutionOptions(jobs=0)}, "jobs must be 1 to 1024, not 0"),
        ({"execution": ExecutionOptions(device="nope")}, "device must be auto, cpu, cuda"),
        (
            {"execution": ExecutionOptions(precision="fp99")},
            "precision must be one of fp32, fp16, bf16",
        ),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63, "small": SmallRun()}, "seed must be below"),
    ],
)
def test_invalid_options_are_refused(tmp_path, wrong, why):
    with pytest.raises(OptionError, match=why):
        StudyOptions(out=tmp_path, root=tmp_path, **wrong)


@pytest.mark.parametrize(
    "words",
    [("--device", "nope"), ("--precision", "fp99"), ("--jobs", "0"), ("--seed", "-1")],
)
def test_a_study_with_invalid_options_is_not_started(complaint, words):
    status = 1 if words[0] == "--device" else 2
    line = complaint("study", "section-7", "--small", *words, status=status)
    assert words[0].removeprefix("--") in line
    assert not list(Path().iterdir())


def test_only_studies_of_one_camera_take_a_table(photographs, tmp_path):
    table = tmp_path / "mine.csv"
    found = find_pairs(photographs, camera_named("canon70d"))
    rows = [f"{found.root / pair.short},{found.root / pair.long}" for pair in found.pairs]
    table.write_text("\n".join(["short,long", *rows]))
    options = StudyOptions(out=tmp_path / "out", root=photographs, pairs=table)

    tasks = study_named("section-7")(options).tasks

    assert {(task.camera, task.pairs) for task in tasks if isinstance(task, TrainingTask)} == {
        ("mine", table)
    }
    assert len(study_named("targets")(options).tasks) == 3 + 6 + 6
    with pytest.raises(OptionError, match=r"the study noise is about cameras .* targets can"):
        run_study("noise", options, context_of(options))
    with pytest.raises(OptionError, match="leave out --small"):
        replace(options, small=SmallRun())


def test_a_target_and_a_table_are_part_of_a_trainings_name_or_settings(tmp_path):
    """Records of earlier versions stay valid: nothing is added for sRGB and a camera's own pairs."""
    options = StudyOptions(out=tmp_path, root=tmp_path, small=SmallRun())
    plain = options.training_task("a", "sony")
    raw, own = replace(plain, target="raw"), replace(plain, pairs=Path("mine.csv"))

    assert plain.name == "train-sony-100-redirt"
    assert set(plain.spec()) == {"camera", "fraction", "model", "noise", "form", "scale"}
    assert raw.name == "train-sony-100-redirt-raw"
    assert raw.spec() == plain.spec() | {"target": "raw"}
    assert own.spec() == plain.spec() | {"pairs": "mine.csv"}


@pytest.mark.parametrize("target", ["raw", "linear"])
def test_the_truth_of_every_target_develops_to_the_srgb_truth(photographs, target: Target):
    found = find_pairs(photographs, camera_named("canon70d"))
    long = found.root / found.pairs[0].long
    sample = whole_frame(found.root, found.pairs[0], target=target)

    picture = developed_result(long, sample.meta, truth_of(sample))

    np.testing.assert_array_equal(picture, open_source(long).develop())


def test_an_unknown_study_is_refused_with_the_names_of_all():
    with pytest.raises(
        OptionError, match="no study 'section-6'; the studies are section-5, section-7"
    ):
        study_named("section-6")


@pytest.mark.parametrize("name", STUDIES)
def test_a_small_study_plans_its_data_before_its_trainings_before_its_scores(tmp_path, name):
    options = StudyOptions(out=tmp_path, root=tmp_path, small=SmallRun())

    tasks = study_named(name)(options).tasks

    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    for k, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:k])
        json.dumps(task.spec())


def test_a_training_in_another_precision_is_another_training(tmp_path):
    def trainings(**execution: Any) -> list[Any]:
        options = StudyOptions(
            out=tmp_path, root=tmp_path, small=SmallRun(), execution=ExecutionOptions(**execution)
        )
        tasks = study_named("section-7")(options).tasks
        return [task.spec() for task in tasks if task.name.startswith("train-")]

    assert trainings(jobs=2, device="cpu") == trainings()
    assert all(a != b for a, b in zip(trainings(precision="bf16"), trainings(), strict=True))


def test_a_full_study_trains_as_published(tmp_path):
    options = StudyOptions(out=tmp_path, root=tmp_path)

    assert options.scale() == TrainingScale()
    assert (options.scale().iterations, options.scale().learning_rate) == (1_000_000, 1e-4)


def smallest(out: Path) -> StudyOptions:
    """As small as X-Trans files may be."""
    scale = TrainingScale(
        iterations=3, batch_size=2, crop=192, samples_per_shard=4, crops_per_visit=2, validations=1
    )
    small = SmallRun(size=(516, 516), sid_scenes=4, eld_scenes=1, shorts=1, scale=scale)
    return StudyOptions(out=out, root=out, small=small, iterations=scale.iterations)


@pytest.fixture(scope="module")
def all_studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All studies in one folder."""
    out = tmp_path_factory.mktemp("studies")
    options = smallest(out)
    for name in STUDIES:
        run_study(name, options, context_of(options))
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tables", "pictures"),
    [
        ("section-5", {"PSNR / SSIM": 5, "Published figures": 3}, 3 * 7),
        ("section-7", {"Sony A7S II": 5, "Published figures": 3}, 6),
        ("levels", {"Restored frames": 8}, 4 * 4),
        ("x-trans", {"Trained on Fuji": 4}, 5),
        ("noise", {"PSNR / SSIM of sRGB, by exposure ratio": 6}, 7),
        ("targets", {"What samples cost to produce": 3, PUBLISHED_TARGETS.caption: 4}, 8),
    ],
)
def test_a_study_writes_tables_pictures_and_a_page(all_studies, name, tables, pictures):
    record = json.loads((all_studies / name / "results.json").read_text())

    rows = {table["caption"]: table["rows"] for table in record["tables"]}
    assert tables == {caption: len(rows[caption]) for caption in tables}
    for table in record["tables"]:
        assert all(len(row) == len(table["heads"]) for row in table["rows"])
        assert f"**{table['caption']}**" in (all_studies / name / "table.md").read_text()
    assert record["seconds"] > 0
    assert all(cell["result"] for cell in record["cells"].values())
    page = (all_studies / name / "index.html").read_text()
    assert page.count("data:image/jpeg") == pictures
    assert not re.search(r"(?:src|href)=\"?https?:", page), "it opens offline"
    assert "A small run: 4 synthetic scenes of 516x516" in page
    with Image.open(all_studies / name / "panel.jpg") as shown:
        assert 1200 < shown.width <= 1280


@pytest.mark.slow
def test_studies_share_trainings_and_a_second_run_does_nothing(all_studies):
    assert len(list(all_studies.glob("trainings/*/run/weights.safetensors"))) == 20
    assert not list(all_studies.glob("trainings/*/spool")), "spools are removed"
    options = smallest(all_studies)
    stamps = {path: path.stat().st_mtime_ns for path in all_studies.glob("cells/*.json")}

    for name in STUDIES:
        run_study(name, options, context_of(options))

    assert stamps == {path: path.stat().st_mtime_ns for path in all_studies.glob("cells/*.json")}


def test_tables_are_markdown():
    table = Table(caption="PSNR", heads=("a", "b"), rows=(("x", "1"), ("y", "2")), note="Said.")

    assert table.markdown() == (
        "**PSNR**\n\n| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n\nSaid."
    )


def test_the_noise_study_states_which_published_figures_are_of_whole_frames():
    """PMN's authors score all of SID's frames, ELD's authors and we the middle: the table and its page say so."""
    assert "those of SID (x100, x250, x300) of whole frames" in _PUBLISHED.caption
    page = Path(__file__).parents[2] / "docs/studies/noise.md"
    assert _PUBLISHED.markdown() in page.read_text(encoding="utf-8")


def test_a_row_of_pictures_is_split(tmp_path):
    parts = [np.full((5, 7, 3), level, np.uint8) for level in (10, 20, 30)]
    gap = np.full((5, 8, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)).save(
        tmp_path / "row.png"
    )

    for found, part in zip(read_picture_row(tmp_path / "row.png", 3), parts, strict=True):
        np.testing.assert_array_equal(found, part)


def test_a_panel_shows_small_and_large_pictures_in_rows():
    small, large = (np.full((height, 2 * height, 3), 99, np.uint8) for height in (100, 1000))
    rows = [
        Comparison(
            name=name, pictures=tuple(LabelledPicture(label=str(k), pixels=p) for k in range(3))
        )
        for name, p in (("small", small), ("large", large))
    ]

    shown = panel(rows)

    assert shown.ndim == 3 and shown.shape[1] > 3 * shown.shape[0] / 2
    assert (shown == 99).mean() > 0.4


@pytest.mark.parametrize("pictures", [0, 1])
def test_a_file_without_the_pictures_of_a_study_is_named(tmp_path: Path, pictures: int):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    if pictures:
        Image.new("RGB", (2, 2)).save(path)

    with pytest.raises(OptionError, match=r"'a\.png' does not hold 3 pictures"):
        read_picture_row(path, 3)


def scores(**psnr: float | None) -> list[PairScore]:
    return [PairScore(pair=name, psnr=value) for name, value in psnr.items()]


def test_the_median_pair_counts_infinite_psnr_as_largest():
    assert median_pair(scores(a=9.0, b=None, c=8.0)) == "a"


def test_the_common_median_pair_is_one_that_all_cameras_have():
    first, second = scores(a=9.0, b=5.0, c=7.0), scores(a=3.0, b=4.0, d=1.0)

    assert common_median_pair([first, first]) == "c"
    assert common_median_pair([first, second]) == "a"
    assert common_median_pair([first, scores(d=1.0)]) == "c"


def test_a_panel_of_noise_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (516, 768, 3), np.uint8)
    rows = [
        Comparison(name=str(k), pictures=(LabelledPicture(label="noise", pixels=noise),) * 3)
        for k in range(2)
    ]

    assert len(encode_panel(panel(rows))) < 400_000
