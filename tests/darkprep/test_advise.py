"""`darkprep advise`: its prediction follows from its measurements, and is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from darkprep.jobs.advise import AdviseOptions, advice_lines, assumed_plan, predict
from darkprep.jobs.feeding_ways import Way, advise_for_machine
from darkprep.jobs.gpus import missing_kernels
from darkprep.jobs.machines import MACHINES, Machine
from darkprep.jobs.measure import Measured
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import divide_budget
from darkprep.shards import BudgetTooSmall, OptionError
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.records import read_summary

GB = 10**9
FAST_GPU = Measured(
    decode_s=0.1, develop_s=1.0, sample_s=0.004, sample_cpu_s=0.004, sample_bytes=2_230_000,
    read_samples_per_s=1500.0, train_samples_per_s=200.0, train_cpu_s=0.002, device="cuda",
    cores=16, frames="photographs",
)  # fmt: skip


def options(
    *, jobs: int | None = 16, disk_budget: int | None = 60 * GB, **training: int
) -> AdviseOptions:
    return AdviseOptions(
        plan=PlanOptions(camera="sony", epochs=None),
        config=TrainConfig(**training),
        root=Path("data"),
        spool=Path("spool"),
        jobs=jobs,
        disk_budget=disk_budget,
    )


def advised(measured: Measured = FAST_GPU, **changed: int):
    chosen = options(**changed)
    return predict(chosen, measured, assumed_plan(chosen.plan))


def test_with_enough_workers_and_disk_space_the_gpu_is_the_limit():
    found = advised()

    assert found.wait_fraction == 0
    assert found.samples_per_s == 200
    assert found.hours == pytest.approx(8_000_000 / 200 / 3600)
    assert found.suggestions == ("--jobs 1",)


def test_frames_that_do_not_fit_the_budget_are_decoded_again_and_the_gpu_waits():
    starved = advised(disk_budget=2 * GB)

    assert starved.frames_kept < 0.2
    assert starved.samples_per_s < 200
    assert starved.wait_fraction == pytest.approx(1 - starved.samples_per_s / 200)
    assert any(text.startswith("--disk-budget") for text in starved.suggestions)


def test_the_suggested_budget_keeps_every_frame():
    found = advised(disk_budget=2 * GB)
    plan = assumed_plan(options().plan)

    assert len(divide_budget(plan, found.all_frames_bytes, jobs=16).frames) == 280 + 161
    assert len(divide_budget(plan, int(found.all_frames_bytes * 0.97), jobs=16).frames) < 280 + 161


def test_reuse_compensates_for_few_cores_and_writes_less():
    few = replace(FAST_GPU, cores=2, sample_s=0.1, sample_cpu_s=0.1)
    once, four_times = advised(few, jobs=2), advised(few, jobs=2, reuse=4)

    assert once.wait_fraction == pytest.approx(0.9, abs=0.01)
    assert four_times.samples_per_s == pytest.approx(4 * once.samples_per_s, rel=0.1)
    assert four_times.bytes_written == once.bytes_written // 4
    assert any(text.startswith("--reuse 10") for text in once.suggestions)


def test_on_a_cpu_both_sides_share_the_cores():
    cpu = replace(
        FAST_GPU, device="cpu", cores=2, train_samples_per_s=10.0, train_cpu_s=0.2, sample_cpu_s=0.2
    )
    found = advised(cpu, jobs=2)

    assert found.samples_per_s == pytest.approx(2 / 0.4)
    assert found.wait_fraction == 0


def test_a_budget_that_is_too_small_is_refused():
    with pytest.raises(BudgetTooSmall):
        advised(disk_budget=1000)


@pytest.mark.parametrize("field", ["jobs", "reuse", "iterations", "batch_size"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(OptionError, match=field):
        options(**{field: 0})


def test_the_text_contains_the_figures():
    told = "\n".join(advice_lines(advised()))

    for words in ("1000 ms", "200.0 samples per second", "will not wait", "11.1 h", "17.84 TB"):
        assert words in told


def test_a_long_training_is_given_in_plain_hours():
    """They were given as 1.9e+03 h."""
    text = "\n".join(advice_lines(replace(advised(), hours=1903.4, samples_per_s=1500.0, jobs=1)))

    assert "in 1,903 h" in text
    assert "1,500 samples per second" in text
    assert "1 worker: " in text


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_120"], False),
        ((7, 0), ["sm_70", "sm_80"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a"], False),
        ((7, 0), [], True),
    ],
)
def test_a_gpu_without_kernels_in_this_torch_is_reported(capability, built_for, runs):
    said = missing_kernels("Tesla V100", capability, built_for)

    assert (said is None) == runs
    if said:
        assert f"Tesla V100 is sm_{capability[0]}{capability[1]}" in said
        assert "install a build" in said


# -- a machine that is described ----------------------------------------------------------------------

CLOUD = ("advise", "--camera", "sony")


def ways_on(machine: Machine, **changed: int) -> tuple[Way, Way, Way]:
    _, found = advise_for_machine(options(jobs=None, disk_budget=None, **changed), machine)
    streamed, written, lazy = found
    return streamed, written, lazy


def test_a_described_machine_compares_three_ways():
    """The published recipe: a million steps of eight crops on the authors' V100, less than a day."""
    streamed, written, lazy = ways_on(MACHINES["v100"])

    assert streamed.hours == pytest.approx(24, abs=0.1)
    assert streamed.busy > 0.99
    assert streamed.peak_bytes == 20 * GB
    assert streamed.fits
    assert written.peak_bytes == written.bytes_written > 17_000 * GB
    assert not written.fits
    assert written.before_h == pytest.approx((8_000_000 * 0.00115 + 172) / 8 / 3600, rel=0.01)
    assert lazy.bytes_written == 0
    assert lazy.hours == pytest.approx(8_000_000 * (1.024 + 0.0864 / 8) / 8 / 3600, rel=0.01)
    assert lazy.busy < 0.1


def test_reuse_writes_less_in_every_way():
    once, four_times = ways_on(MACHINES["h200"]), ways_on(MACHINES["h200"], reuse=4)

    for before, after in zip(once[:2], four_times[:2], strict=True):
        assert after.bytes_written == before.bytes_written // 4
    assert four_times[1].before_h < once[1].before_h


def test_a_machine_with_a_disk_for_everything_has_room_for_it():
    _, written, _ = ways_on(Machine(cores=4, gpu="250/s", disk_bytes=20_000 * GB))

    assert written.fits


def test_the_price_of_each_way_is_shown_where_a_price_is_given(call, empty_directory):
    words = (*CLOUD, "--machine", "8,v100,100GB", "--price-per-hour", "2")
    lines = call(*words).stdout.splitlines()[-5:]

    assert lines[0].startswith("three ways to feed this training run, with 100 GB of disk")
    assert lines[1].split()[-1] == "price"
    assert [line.split()[-1] for line in lines[2:]] == ["48", "48.7", "575"]
    assert "17.87 TB (too much)" in lines[3]
    assert "price" not in call(*CLOUD, "--machine", "v100").stdout


def test_the_comparison_as_json_has_the_assumptions(call, empty_directory):
    found = json.loads(call(*CLOUD, "--machine", "16,250/s,2TB", "--json").stdout)

    assert found["measured"]["frames"] == "described"
    assert found["jobs"] == found["measured"]["cores"] == 16
    assert [way["name"] for way in found["ways"]] == [
        "darkprep", "everything written first", "lazy DataLoader",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine", "nope"], "machine 'nope' is neither v100 nor h200 nor a description"),
        (["--machine", "0,v100,1TB"], "machine: 0 cores are too few; write cores,GPU,disk"),
        (["--machine", "4,abacus,1TB"], "'abacus' is neither v100 nor h200 nor a pace"),
        (["--machine", "4,0/s,1TB"], "'0/s' is neither v100 nor h200 nor a pace"),
        (["--machine", "v100", "--model", "unet"], "no pace of a v100 is known for unet in fp32"),
        (["--machine", "v100", "--precision", "bf16"], "--machine 8,250/s,100GB"),
        (["--machine", "4,v100,100MB"], "is too small"),
        (
            ["--price-per-hour", "2"],
            "--price-per-hour can be used only with --machine; add --machine",
        ),
    ],
)
def test_invalid_machines_are_refused(words, said, complaint, empty_directory):
    assert said in complaint(*CLOUD, *words)


def test_a_price_that_is_no_number_is_refused(complaint, empty_directory):
    words = (*CLOUD, "--machine", "v100", "--price-per-hour", "nan")

    assert "'nan' is not a finite number" in complaint(*words, status=2)


TRAIN = ("--batch-size", "2", "--device", "cpu", "--model", "redirt-2rdb")
PLAN = ("--crop", "192", "--samples-per-shard", "4", "--crops-per-visit", "2", "--jobs", "1")


@pytest.mark.slow
def test_advise_measures_photographs_and_leaves_no_file(call, large_data, tmp_path):
    """The disk of the spool is measured though its parent directories do not exist yet."""
    result = call(
        *("advise", "--camera", "sony", "--root", large_data, "--json"), *TRAIN, *PLAN,
        *("--iterations", "100", "--disk-budget", "60MB", "--spool", "a/deep/spool"),
    )  # fmt: skip
    found = json.loads(result.stdout)

    assert found["measured"]["frames"] == "photographs"
    assert found["samples_per_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_advise_measures_the_pairs_of_a_table_towards_a_target(
    call, large_data, empty_directory, monkeypatch
):
    measured = []

    def measure(plan: Plan, directory: Path, config: TrainConfig, *rest: object) -> Measured:
        measured.append((plan, config))
        return FAST_GPU

    monkeypatch.setattr("darkprep.jobs.advise.measure", measure)
    call("pairs", "--camera", "sony", "--root", large_data, "--out", "mine.csv")

    result = call(
        *("advise", "--pairs", "mine.csv", "--root", large_data, "--target", "raw"),
        *("--model", "unet", "--json", "--device", "cpu", "--disk-budget", "60MB", *PLAN),
    )

    assert result.exit_code == 0, result.output
    [(plan, config)] = measured
    assert (plan.options.camera, plan.options.target, len(plan.pairs)) == ("mine", "raw", 2)
    assert (config.target, config.camera, config.model) == ("raw", "mine", "unet")


def test_a_table_without_pairs_is_not_replaced_by_synthetic_frames(complaint, empty_directory):
    Path("mine.csv").write_text("short,long\nabsent.dng,absent.dng\n")

    assert "mine.csv" in complaint("advise", "--pairs", "mine.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--spool", "s3://bucket/prefix"],
            "spool s3://bucket/prefix: only a local disk can be measured",
        ),
        (
            ["--spool", "ftp://bucket"],
            "is not a known kind of object storage; use s3://..., gs://... or az://...",
        ),
        (["--spool", "file/spool"], "/file is not a directory; choose another --spool"),
        (["--model", "nope"], "model must be one of redirt"),
        (["--device", "nope"], "device must be auto"),
        (["--crop", "30"], "crop must be a multiple of"),
        (["--disk-budget", "1MB"], "disk-budget 1.0 MB is too small"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_measured(
    words, said, complaint, large_data
):
    Path("file").touch()

    advise = ("advise", "--camera", "sony", "--root", large_data, *PLAN)
    assert said in complaint(*advise, *words)
    assert "'fp99' is not one of 'fp32'" in complaint(*advise, "--precision", "fp99", status=2)
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.slow
def test_the_prediction_is_right_within_a_quarter(call, start, large_data):
    """Predictions and trainings alternate, because other work on the machine slows both."""
    predicted, real = [], []
    build = start(
        *("build", "--camera", "sony", "--root", large_data, *PLAN, "--epochs", "inf"),
        *("--disk-budget", "60MB", "--background"),
    )
    build.communicate(timeout=120)
    for turn in range(3):
        advice = call("advise", "--camera", "sony", "--root", large_data, "--json", *TRAIN, *PLAN,
                      "--disk-budget", "60MB")  # fmt: skip
        predicted.append(json.loads(advice.stdout)["samples_per_s"])
        call("stream-train", *TRAIN, "--iterations", "30", "--run", f"r{turn}",
             "--evaluate-every", "0", "--quiet")  # fmt: skip
        summary = read_summary(Path(f"r{turn}"))
        assert summary is not None
        real.append(summary.samples_per_second)
    call("stop")

    assert sorted(predicted)[1] == pytest.approx(sorted(real)[1], rel=0.25), (predicted, real)


@pytest.mark.slow
def test_without_photographs_synthetic_ones_are_measured(call):
    result = call("advise", "--camera", "sony", "--json", *TRAIN, *PLAN, "--disk-budget", "60GB")
    found = json.loads(result.stdout)

    assert found["measured"]["frames"] == "synthetic"
    assert found["measured"]["develop_s"] > found["measured"]["decode_s"]
