"""Makes synthetic SID and ELD data sets: real DNG files of scenes that never existed.

A scene is rendered once, seen through the camera's colours and filters, and exposed: long enough to
be the truth, and short with the noise of the dark. The trade-off: whole frames are made in memory,
8 bytes per pixel, and files are uncompressed, so that making them is bound by the noise, not by us.

The same arguments give the same bytes, whatever the number of jobs.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.shards.errors import DarkprepError, DiskFull, OptionError
from darkprep.shards.files import write_bytes
from darkprep.synth.renderer.render import render_tiles
from darkprep.synth.renderer.scene import Scene
from darkprep.synth.scenes.generate import make_scene
from darkprep.synth.sensors import SENSORS, Sensor, sensor_of

F32 = npt.NDArray[np.float32]
Rng = np.random.Generator

SMALLEST = {2: 96, 6: 516}
"""Least height and width in pixels by the CFA's period; LibRaw's X-Trans tiles have 512."""
SPLITS = ("train", "test", "val")
"""In the order of the first digit of a SID scene's name."""

_SHORT_S = {"0.1": 0.1, "0.04": 0.04, "0.033": 1 / 30}
"""SID's short exposures as names spell them, in seconds."""
_SID_ISOS = {"sony": (100, 160, 200, 250, 320, 400, 500, 640), "fuji": (100, 125, 160, 200, 250)}
"""Of SID's range, 50 to 25600, the low end, where a long exposure is cleanest."""
_SID_STOPS = (3.2, 4.0, 5.6, 8.0, 9.0, 11.0)
_ELD_ISOS = (800, 1600, 3200)
_ELD_RATIOS = (1, 10, 100, 200)
_ELD_REFERENCE_ISO = 100
_ELD_REFERENCE_S = (10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One photograph to take of a scene."""

    path: str
    """Below the data root."""
    exposure_s: float
    iso: int
    dimming: float
    """The scene's exposure for full scale divided by this one's."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """All photographs of one scene with one camera."""

    camera: str
    number: int
    """The scene's number, from 0."""
    seed: int
    size: tuple[int, int]
    f_number: float
    shots: tuple[Shot, ...]
    line: str = ""
    """What the split's list file says of it, for SID."""
    split: str = ""


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
    """Writes a synthetic data set below the data root `out` and returns its files.

    For SID's cameras: `shorts` short exposures per scene and its long one, scenes spread over the
    splits, and the list files. For ELD's: its sixteen images per scene, whatever `shorts` says.
    `size` is the visible height and width, the whole sensor's when None. `isos` are what scenes of SID's
    cameras are drawn from, by default SID's low ones. `progress` gets a line for each finished scene.
    `check` is called between scenes; what it raises ends the work there. Synthetic files that exist are
    replaced. Raises OptionError for values that cannot work and for a place with photographs that were
    not made here, DiskFull when there is no room (before the first file, where it can be known),
    DarkprepError when a worker was killed.
    """
    sensor = sensor_of(camera)
    size = _checked_size(sensor, size)
    _check(scenes=scenes, shorts=shorts, seed=seed, jobs=jobs)
    if sensor.layout.dataset == "SID":
        drawn = _checked_isos(isos or _SID_ISOS[sensor.camera])
        sessions = [_plan_sid(sensor, k, scenes, shorts, seed, size, drawn) for k in range(scenes)]
    else:
        sessions = [_plan_eld(sensor, k, seed, size) for k in range(scenes)]
    _refuse_photographs(out, sensor)
    _make_folders(out, sessions)
    _check_room(out, sensor, sessions)
    written: list[Path] = []
    with contextlib.closing(_performed(out, sessions, jobs, check)) as finished:
        for session in finished:
            written += [out / shot.path for shot in session.shots]
            if progress is not None:
                where = Path(session.shots[-1].path)
                progress(
                    f"scene {session.number + 1} of {scenes}: {where.parent}, {len(session.shots)} files"
                )
            check()
    if sensor.layout.dataset == "SID":
        written += _write_lists(out, sensor, sessions)
    return tuple(written)


# --- what to take --------------------------------------------------------------------------------


def _check(*, scenes: int, shorts: int, seed: int, jobs: int) -> None:
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
            f"size {height}x{width} does not fit {sensor.camera}: both sides must be multiples of {sensor.period}"
        )
    least = SMALLEST[sensor.period]
    if min(size) < least:
        raise OptionError(
            f"size {height}x{width} is too small for {sensor.camera}: both sides need at least {least} pixels"
        )
    if height > sensor.height or width > sensor.width:
        raise OptionError(
            f"size {height}x{width} is larger than {sensor.camera}'s sensor of {sensor.height}x{sensor.width}"
        )
    return size


def _checked_isos(isos: Sequence[int]) -> Sequence[int]:
    if not all(50 <= iso <= 25600 for iso in isos):
        raise OptionError(f"isos must lie within SID's 50 to 25600, not {list(isos)}")
    return isos


def _split_of(number: int, scenes: int) -> int:
    """Returns a scene's split (an index of SPLITS): about SID's 70, 21 and 9 %, train first."""
    test = max(1, round(0.21 * scenes)) if scenes > 1 else 0
    val = round(0.09 * scenes)
    train = scenes - test - val
    return 0 if number < train else 1 if number < train + test else 2


def _plan_sid(
    sensor: Sensor,
    number: int,
    scenes: int,
    shorts: int,
    seed: int,
    size: tuple[int, int],
    isos: Sequence[int],
) -> Session:
    """Returns a scene's long exposure and its short ones.

    As in SID, long exposures of 30 s have short ones of 0.1 s alone (ratio 300), and Fuji's last
    10 s.
    """
    rng = _rng(seed, number, sensor, stream=0)
    iso, f_number = int(rng.choice(isos)), float(rng.choice(_SID_STOPS))
    long_s = 30.0 if sensor.camera == "sony" and number % 2 else 10.0
    split = _split_of(number, scenes)
    name = f"{split}{number + 1:04d}"
    long = Shot(
        path=f"{sensor.layout.folder}/long/{name}_00_{long_s:g}s.dng",
        exposure_s=long_s,
        iso=iso,
        dimming=1.0,
    )
    spelled = ["0.1"] if long_s == 30.0 else list(_SHORT_S)
    taken = [
        Shot(
            path=f"{sensor.layout.folder}/short/{name}_{k // len(spelled):02d}_{spelled[k % len(spelled)]}s.dng",
            exposure_s=_SHORT_S[spelled[k % len(spelled)]],
            iso=iso,
            dimming=long_s / _SHORT_S[spelled[k % len(spelled)]],
        )
        for k in range(shorts)
    ]
    lines = (f"./{shot.path} ./{long.path} ISO{iso} F{f_number:g}\n" for shot in taken)
    return Session(
        camera=sensor.camera,
        number=number,
        seed=seed,
        size=size,
        f_number=f_number,
        shots=(*taken, long),
        line="".join(lines),
        split=SPLITS[split],
    )


def _plan_eld(sensor: Sensor, number: int, seed: int, size: tuple[int, int]) -> Session:
    """Returns ELD's sixteen images: a reference, then ISO 800 at ratios 1, 10, 100, 200, and so on."""
    rng = _rng(seed, number, sensor, stream=0)
    reference_s, f_number = float(rng.choice(_ELD_REFERENCE_S)), float(rng.choice(_SID_STOPS))
    settings = [(_ELD_REFERENCE_ISO, 1)]
    for iso in _ELD_ISOS:
        settings += [(iso, ratio) for ratio in _ELD_RATIOS] + [(_ELD_REFERENCE_ISO, 1)]
    shots = tuple(
        Shot(
            path=f"{sensor.layout.folder}/scene-{number + 1}/IMG_{k + 1:04d}.dng",
            exposure_s=reference_s * _ELD_REFERENCE_ISO / iso / ratio,
            iso=iso,
            dimming=float(ratio),
        )
        for k, (iso, ratio) in enumerate(settings)
    )
    return Session(
        camera=sensor.camera, number=number, seed=seed, size=size, f_number=f_number, shots=shots
    )


def _rng(seed: int, number: int, sensor: Sensor, *, stream: int) -> Rng:
    """Returns the random numbers of one use: stream 0 plans a scene, stream k its k-th photograph."""
    camera = list(SENSORS).index(sensor.camera) + 1
    return np.random.Generator(
        np.random.Philox(key=[seed, (number + 1) << 32 | camera << 16 | stream])
    )


# --- taking it -----------------------------------------------------------------------------------


def _performed(
    out: Path, sessions: list[Session], jobs: int, check: Callable[[], None]
) -> Generator[Session]:
    """Yields the sessions in order, each when its files are written; raises DarkprepError when a worker dies."""
    if jobs == 1 or len(sessions) == 1:
        for session in sessions:
            yield _perform(out, session)
        return
    workers = joblib.Parallel(
        n_jobs=min(jobs, len(sessions)), return_as="generator", initializer=_leave_interrupts
    )
    finished = workers(joblib.delayed(_perform)(out, session) for session in sessions)
    try:
        for session in finished:  # closed below, without joblib's words
            yield session
    except WorkerDied as error:
        check()  # of Ctrl-C too, while it starts
        raise DarkprepError(
            f"{out}: a worker was killed before its photographs were whole; is memory short? try fewer --jobs"
        ) from error
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tasks that nobody wants any more
            finished.close()


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; a worker leaves it to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _perform(out: Path, session: Session) -> Session:
    """Takes and writes all photographs of a session."""
    sensor = sensor_of(session.camera)
    scene = make_scene(session.seed, session.number)
    clean = expose(scene, sensor, session.size)
    for stream, shot in enumerate(session.shots, start=1):
        rng = _rng(session.seed, session.number, sensor, stream=stream)
        codes = record(clean, sensor, shot, rng)
        write_dng(out / shot.path, codes, _tags(sensor, scene, session, stream))
    return session


def _tags(sensor: Sensor, scene: Scene, session: Session, stream: int) -> DngTags:
    """Returns what the file of a session's photograph says; they are taken a minute apart."""
    shot = session.shots[stream - 1]
    top, left = sensor.margins
    day, minute = divmod(20 * session.number + stream, 24 * 60)
    return DngTags(
        cfa=sensor.cfa,
        black=(float(sensor.black),),
        white=sensor.white,
        as_shot_neutral=sensor.neutral(scene.kelvin),
        color_matrix=tuple(sensor.matrix.ravel().tolist()),
        make=sensor.make,
        model=sensor.model,
        exposure_s=shot.exposure_s,
        f_number=session.f_number,
        iso=shot.iso,
        margins=(top, left, 0, 0),
        date_time=f"2024:05:{1 + day % 28:02d} {minute // 60:02d}:{minute % 60:02d}:00",
    )


def expose(scene: Scene, sensor: Sensor, size: tuple[int, int]) -> F32:
    """Returns the noiseless mosaic `(H, W)` float32 in shares of full scale, without margins.

    sRGB radiance goes to the camera's colours by the inverse of what a developer of its files
    applies: row-normalised matrix, then white balance. Each pixel keeps the colour of its filter.
    """
    weights = _filter_weights(sensor, scene.kelvin)
    clean = np.empty(size, np.float32)
    for rows, columns, picture in render_tiles(scene, size):
        y = np.arange(rows.start, rows.stop) % sensor.period
        x = np.arange(columns.start, columns.stop) % sensor.period
        clean[rows, columns] = (picture * weights[np.ix_(y, x)]).sum(axis=2)
    return clean


def _filter_weights(sensor: Sensor, kelvin: float) -> F32:
    """Returns `(period, period, 3)`: what a pixel of each position collects of linear sRGB."""
    neutral = np.array(sensor.neutral(kelvin))
    camera = sensor.balanced_from_srgb() * neutral[:, None]
    channels = [["RGB".index(letter) for letter in row] for row in sensor.cfa]
    return np.asarray(camera[np.array(channels)], np.float32)


def record(clean: F32, sensor: Sensor, shot: Shot, rng: Rng) -> npt.NDArray[np.uint16]:
    """Returns what the sensor records of a noiseless mosaic, `(H, W)` uint16 with the margins.

    Masked margins get no light but all the other noise. Values below the black level stay; those
    above the white level are the white level, for there the sensor is full.
    """
    scale = (sensor.white - sensor.black) / shot.dimming
    lit = np.pad(clean * np.float32(scale), [(margin, 0) for margin in sensor.margins])
    noisy = add_noise(lit, noise_parameters(sensor.camera, shot.iso, rng), rng, sensor.cfa)
    noisy += np.float32(sensor.black)
    return np.clip(noisy, 0, sensor.white, out=noisy).astype(np.uint16)


# --- files ---------------------------------------------------------------------------------------


def _refuse_photographs(out: Path, sensor: Sensor) -> None:
    """Raises OptionError where real photographs lie: their lists would be replaced, and both sets mixed."""
    for path in (out / sensor.layout.folder).rglob("*.*"):
        if path.suffix != ".dng" and not path.name.startswith("."):
            raise OptionError(
                f"{path}: is no synthetic photograph; choose another place than {out}, so that real ones stay as they are"
            )
    for split in SPLITS:
        path = _list_file(out, sensor, split)
        listed = path.read_bytes() if path.is_file() else b""
        if listed.strip() and b".dng" not in listed:
            raise OptionError(
                f"{path}: lists real ones; choose another place than {out}, so that it stays as it is"
            )


def _list_file(out: Path, sensor: Sensor, split: str) -> Path:
    return out / f"{sensor.layout.folder}_{split}_list.txt"


def _make_folders(out: Path, sessions: list[Session]) -> None:
    for folder in sorted(
        {(out / shot.path).parent for session in sessions for shot in session.shots}
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"{folder}: cannot be made a folder: {error.strerror}; choose another place"
            ) from error


def _check_room(out: Path, sensor: Sensor, sessions: list[Session]) -> None:
    """Raises DiskFull when the files cannot fit, before hours are spent on them."""
    top, left = sensor.margins
    height, width = sessions[0].size
    count = sum(len(session.shots) for session in sessions)
    needed = count * (2 * (height + top) * (width + left) + 4096)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DiskFull(
            f"{out}: {count} files need {-(-needed // 100_000) / 10:,.1f} MB and {free // 100_000 / 10:,.1f} MB are free; "
            "take fewer scenes, a smaller size or another disk"
        )


def _write_lists(out: Path, sensor: Sensor, sessions: list[Session]) -> list[Path]:
    """Writes SID's three list files, for a split without scenes an empty one."""
    paths = []
    for split in SPLITS:
        path = _list_file(out, sensor, split)
        text = "".join(session.line for session in sessions if session.split == split)
        write_bytes(path, text.encode("ascii"), sync=False)
        paths.append(path)
    return paths
