"""Other ways to feed the same training run: a lazy DataLoader, one preprocessed file, darkprep, darkprep --reuse 4.

All train the same network in bf16 (on a CPU in fp32) by the same step, on the same RAW files. The trade-off:
the one file holds few samples, which come again and again; all of darkprep's are fresh crops.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench_pace import LazyPairs, save_list
from gpu_monitor import monitored
from gpu_section import Row, Section
from gpu_spool import TINY_CROP, built_spool, photographs_in
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from darkprep.shards import Spool, SpoolReader
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import synchronize
from darkprep.trainer.prefetch import pinned_memory
from darkprep.trainer.recipe import Recipe
from darkprep.trainer.step import TrainStep
from darkprep.trainer.stream import DeviceBatch, DeviceStream

SECONDS = {"lazy DataLoader": 12.0}
"""Longer where batches come in bursts, as each worker prepares a whole one."""
_SECONDS = 4.0
_CASE_S = 18.0
_FILE_SAMPLES, _TINY_FILE_SAMPLES = 256, 8

Batches = Iterator[DeviceBatch]
Opener = Callable[[], contextlib.AbstractContextManager[Batches]]


def main() -> None:
    """Train in each way for a few seconds."""
    section = Section(__doc__)
    root = photographs_in(section)
    precision = "fp32" if section.cpu else "bf16"
    alone = section.earlier("steps", "A training step alone", step="darkprep", precision=precision)
    rows: list[Row] = []
    cases: dict[str, Opener] = {
        "darkprep": lambda: streamed(section, reuse=1),
        "darkprep --reuse 4": lambda: streamed(section, reuse=4),
        "one file (torch.save list)": lambda: one_file(section, root),
        "lazy DataLoader": lambda: lazy(section, root),
    }
    for name, opened in cases.items():
        if section.has_time(name, SECONDS.get(name, _SECONDS) + _CASE_S):
            with section.guarded(name):
                found = measure(section, opened, precision, SECONDS.get(name, _SECONDS))
                share = 100 * found["samples/s"] / alone["samples/s"] if alone else None
                rows.append({"loader": name} | found | {"of the step alone %": share})
            section.save(f"Loaders, training in {precision}", rows)
    section.finish()


def measure(section: Section, opened: Opener, precision: str, seconds: float) -> Row:
    """Return the time to the first batch and the pace of the training after a second of it."""
    config = TrainConfig(precision=precision, device=section.device.type)  # type: ignore[arg-type]
    recipe = Recipe()
    step = TrainStep(
        config,
        recipe.new_state(config, section.device),
        SingleProcess(),
        section.device,
        recipe,
    )
    seconds = 0.3 if section.cpu else seconds
    counting = threading.Event()
    began = time.perf_counter()
    with opened() as batches, monitored(section.device, counting.is_set) as means:
        step(next(batches), 0)
        synchronize(section.device)
        first = time.perf_counter() - began
        run_for(section, batches, step, min(1.0, seconds))
        counting.set()
        samples, elapsed = run_for(section, batches, step, seconds)
        counting.clear()
    return {"samples/s": samples / elapsed, "first batch s": first} | means


def run_for(
    section: Section, batches: Batches, step: TrainStep, seconds: float
) -> tuple[int, float]:
    """Train for some seconds; return how many samples that were, and how long it took."""
    samples, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        batch = next(batches)
        step(batch, 0)
        samples += batch.gt.shape[0]
    synchronize(section.device)
    return samples, time.perf_counter() - began


@contextlib.contextmanager
def streamed(section: Section, *, reuse: int) -> Iterator[Batches]:
    """Yield darkprep's batches; the spool is built from the RAW files first, in the background."""
    with (
        built_spool(section, f"spool-reuse-{reuse}") as spool,
        device_stream(section, spool, reuse) as stream,
    ):
        yield stream


@contextlib.contextmanager
def device_stream(section: Section, spool: Spool, reuse: int) -> Iterator[DeviceStream]:
    """Yield the batches of a spool on the device, from its first one."""
    reader = SpoolReader(
        spool,
        batch_size=batch_size(section),
        reuse=reuse,
        allocate=pinned_memory(section.device),
    )
    with contextlib.closing(reader):
        yield DeviceStream(reader, section.device, cfa="bayer", crop=spool.stream.crop)


@contextlib.contextmanager
def lazy(section: Section, root: Path) -> Iterator[Batches]:
    """Yield batches of a DataLoader that decodes both exposures for each sample."""
    yield loaded(section, LazyPairs(root, TINY_CROP if section.cpu else None), "spawn")


@contextlib.contextmanager
def one_file(section: Section, root: Path) -> Iterator[Batches]:
    """Yield batches of a list of samples that is first preprocessed into a file and read into memory."""
    import torch

    path = section.directory / "data.pt"
    count = _TINY_FILE_SAMPLES if section.cpu else _FILE_SAMPLES
    save_list(path, root, TINY_CROP if section.cpu else None, count)
    try:
        yield loaded(section, torch.load(path, weights_only=True), "fork")
    finally:
        path.unlink()


def loaded(section: Section, data: Dataset[tuple[Tensor, Tensor]], start: str) -> Batches:
    """Yield a DataLoader's batches on the device, from pinned memory where there is a GPU."""
    loader = DataLoader(
        data,
        batch_size(section),
        num_workers=section.cores,
        multiprocessing_context=start,
        pin_memory=section.device.type == "cuda",
        persistent_workers=True,
        drop_last=True,
        shuffle=start == "fork",
    )
    while True:
        for low, gt in loader:
            yield DeviceBatch(
                index=0,
                low=low.to(section.device, non_blocking=True),
                gt=gt.to(section.device, non_blocking=True),
                metas=(),
                uses=(),
            )


def batch_size(section: Section) -> int:
    """Return the published batch size; a small one on a CPU."""
    return 2 if section.cpu else 8


if __name__ == "__main__":
    main()
