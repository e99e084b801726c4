"""Make synthetic SID and ELD data sets: real DNG files of rendered scenes.

Each scene is rendered once and converted to the camera's colours and filters. Long exposures have hardly
any noise; short exposures have the camera's noise in the dark. The trade-off: scenes look artificial, but
every file is a function of the arguments; the number of jobs does not change a byte.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import joblib

from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.shards.errors import DarkprepError, DiskFull, OptionError
from darkprep.shards.files import write_bytes
from darkprep.synth.capture import capture_scene
from darkprep.synth.layouts import SID_ISOS, SPLITS, ScenePlan, plan_eld_scene, plan_sid_scene
from darkprep.synth.sensors import Sensor, sensor_of

SMALLEST = {2: 96, 6: 516}
"""Smallest height and width in pixels by the CFA's period; LibRaw's X-Trans tiles have 512."""
_FILE_OVERHEAD_BYTES = 4096


def synthesise(
    out: Path,
    camera: str,
    *,
    scenes: int,
    shorts: int,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    jobs: int = 1,
    isos: Sequence[int] | None = None,
    progress: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Path, ...]:
    """Write a synthetic data set below the data root `out`; return the paths of its files.

    For SID's cameras, each scene has `shorts` short exposures and a long one; the scenes are divided into
    splits, and SID's list files are written. For ELD's cameras, each scene has sixteen images, and `shorts`
    is ignored. `size` is the visible height and width in pixels; None stands for the whole sensor. `isos`
    are the ISO values to draw from for SID's cameras; None stands for the low ISO values of SID. `progress`
    is called with a line of text after each scene. `check` is called between scenes and may raise an error
    to stop the work. Existing synthetic files are replaced.

    Raises OptionError for invalid values and for a directory with other photographs; DiskFull when the
    files do not fit, before the first file is written if the size is known by then; DarkprepError when a
    worker was killed.
    """
    sensor = sensor_of(camera)
    size = _checked_size(sensor, size)
    _check_counts(scenes=scenes, shorts=shorts, seed=seed, jobs=jobs)
    is_sid = sensor.layout.dataset == "SID"
    if is_sid:
        isos = _checked_isos(isos or SID_ISOS[sensor.camera])
        plans = [
            plan_sid_scene(
                sensor, number, scenes=scenes, shorts=shorts, seed=seed, size=size, isos=isos
            )
            for number in range(scenes)
        ]
    else:
        plans = [plan_eld_scene(sensor, number, seed=seed, size=size) for number in range(scenes)]
    _check_only_synthetic(out, sensor)
    _make_directories(out, plans)
    _check_disk_space(out, sensor, plans)
    written: list[Path] = []
    with contextlib.closing(_capture_scenes(out, plans, jobs, check)) as captured:
        for plan in captured:
            written += [out / exposure.path for exposure in plan.exposures]
            if progress is not None:
                directory = Path(plan.exposures[-1].path).parent
                progress(
                    f"scene {plan.number + 1} of {scenes}: {directory}, {len(plan.exposures)} files"
                )
            check()
    if is_sid:
        written += _write_lists(out, sensor, plans)
    return tuple(written)


# -- arguments ------------------------------------------------------------------------------------


def _check_counts(*, scenes: int, shorts: int, seed: int, jobs: int) -> None:
    if not 1 <= scenes <= 9999:
        raise OptionError(f"scenes must be 1 to 9999, not {scenes}")
    if not 1 <= shorts <= 100:
        raise OptionError(f"shorts must be 1 to 100 per scene, not {shorts}")
    if not 0 <= seed < 2**63:
        raise OptionError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed}")
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")


def _checked_size(sensor: Sensor, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return sensor.height, sensor.width
    height, width = size
    if height % sensor.period or width % sensor.period:
        raise OptionError(
            f"size {height}x{width} is invalid for {sensor.camera}: both sides must be multiples of {sensor.period}"
        )
    smallest = SMALLEST[sensor.period]
    if min(size) < smallest:
        raise OptionError(
            f"size {height}x{width} is too small for {sensor.camera}: both sides need at least {smallest} pixels"
        )
    if height > sensor.height or width > sensor.width:
        raise OptionError(
            f"size {height}x{width} is larger than {sensor.camera}'s sensor of {sensor.height}x{sensor.width}"
        )
    return size


def _checked_isos(isos: Sequence[int]) -> Sequence[int]:
    if not all(50 <= iso <= 25600 for iso in isos):
        raise OptionError(f"isos must be within SID's range, 50 to 25600, not {list(isos)}")
    return isos


# -- worker processes -----------------------------------------------------------------------------


def _capture_scenes(
    out: Path, plans: list[ScenePlan], jobs: int, check: Callable[[], None]
) -> Generator[ScenePlan]:
    """Yield each plan, in order, after its files are written. Raises DarkprepError when a worker died."""
    if jobs == 1 or len(plans) == 1:
        for plan in plans:
            yield capture_scene(out, plan)
        return
    workers = joblib.Parallel(
        n_jobs=min(jobs, len(plans)), return_as="generator", initializer=_ignore_interrupts
    )
    captured = workers(joblib.delayed(capture_scene)(out, plan) for plan in plans)
    try:
        for plan in captured:  # no `yield from`: close() below suppresses joblib's warning
            yield plan
    except WorkerDied as error:
        check()  # after Ctrl-C, which kills workers that are starting
        raise DarkprepError(
            f"{out}: a worker process was killed before its photographs were complete; run the command again, with fewer --jobs if memory is short"
        ) from error
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tasks that are cancelled
            captured.close()


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker: a terminal sends it to all processes, and the main process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# -- files ----------------------------------------------------------------------------------------


def _check_only_synthetic(out: Path, sensor: Sensor) -> None:
    """Raise OptionError if the directory holds real photographs: their list files would be overwritten."""
    for path in (out / sensor.layout.folder).rglob("*.*"):
        if path.suffix != ".dng" and not path.name.startswith("."):
            raise OptionError(
                f"{path}: is not a synthetic photograph; synthetic files would be mixed with it, so choose a directory other than {out}"
            )
    for split in SPLITS:
        path = _list_file(out, sensor, split)
        listed = path.read_bytes() if path.is_file() else b""
        if listed.strip() and b".dng" not in listed:
            raise OptionError(
                f"{path}: lists photographs that are not synthetic and would be overwritten; choose a directory other than {out}"
            )


def _list_file(out: Path, sensor: Sensor, split: str) -> Path:
    return out / f"{sensor.layout.folder}_{split}_list.txt"


def _make_directories(out: Path, plans: list[ScenePlan]) -> None:
    paths = (out / exposure.path for plan in plans for exposure in plan.exposures)
    for directory in sorted({path.parent for path in paths}):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"{directory}: cannot be created ({error.strerror}); choose another directory"
            ) from error


def _check_disk_space(out: Path, sensor: Sensor, plans: list[ScenePlan]) -> None:
    """Raise DiskFull, before hours of work, when the files cannot fit on the disk."""
    top, left = sensor.margins
    height, width = plans[0].size
    count = sum(len(plan.exposures) for plan in plans)
    needed = count * (2 * (height + top) * (width + left) + _FILE_OVERHEAD_BYTES)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DiskFull(
            f"{out}: {count} files need {-(-needed // 100_000) / 10:,.1f} MB and {free // 100_000 / 10:,.1f} MB are free; "
            "choose fewer scenes, a smaller size or another disk"
        )


def _write_lists(out: Path, sensor: Sensor, plans: list[ScenePlan]) -> list[Path]:
    """Write SID's three list files and return their paths; a split without scenes has an empty file."""
    paths = []
    for split in SPLITS:
        path = _list_file(out, sensor, split)
        text = "".join(plan.list_lines for plan in plans if plan.split == split)
        write_bytes(path, text.encode("ascii"), sync=False)
        paths.append(path)
    return paths
