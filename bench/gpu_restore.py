"""`darkprep restore` of one 45 MP RAW file, and the network alone on a frame of that size.

The trade-off: a synthetic uncompressed DNG; cameras that compress take longer to unpack.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial

import numpy as np
import torch
from gpu_section import Row, Section, interleaved, peak_memory
from gpu_spool import darkprep
from photographs import write_photographs
from samples import META

from darkprep.model import build_model, ready_for_inference
from darkprep.model.weights import save_weights
from darkprep.shards.format import Sample
from darkprep.trainer.restoration import restored_pixels

SIZE, TINY_SIZE = (5520, 8288), (256, 256)


def main() -> None:
    """Measure the command, then the network at each precision."""
    section = Section(__doc__)
    size = TINY_SIZE if section.cpu else SIZE
    with section.guarded("restore"):
        section.show("darkprep restore, one file", command(section, size))
    rows: list[Row] = []
    frame = torch.rand(1, 4, size[0] // 2, size[1] // 2)
    codes = (frame[0] * 16383).to(torch.uint16).numpy()
    sample = Sample(meta=META, low=codes, gt=np.empty((3, 0, 0), np.uint16))
    model = build_model("redirt").eval()
    for precision in ("fp32",) if section.cpu else ("fp32", "bf16", "fp16"):
        with section.guarded(f"network in {precision}"):
            with peak_memory(section.device) as peak:
                ready = ready_for_inference(
                    model,
                    precision=precision,  # type: ignore[arg-type]
                    device=section.device,
                )
                planes = frame.to(section.device)
                ready(planes)
            calls = {"planes on the device": partial(ready, planes)}
            calls["as restore does: codes on the host, 8 bits back"] = partial(
                restored_pixels, ready, sample, 8, section.device
            )
            for name, ms in interleaved(calls, section.device).items():
                rows.append({"call": name, "precision": precision, "ms": ms} | peak)
            del ready, calls
    with section.guarded("start"):
        section.show("The start of a command, s", start_times(section))
    section.show(f"The network alone, {size[0]}x{size[1]}", rows)
    section.finish()


def command(section: Section, size: tuple[int, int]) -> list[Row]:
    """Return the wall time of the whole command for one file, and on a GPU for two, which share the start."""
    root, weights = section.directory / "restore", section.directory / "restore.safetensors"
    write_photographs(root, "sony", 1, size)
    save_weights(build_model("redirt"), weights)
    (short,) = root.glob("*/short/*.dng")
    files = [short] + [short.with_name(f"{number}.dng") for number in range(1)]
    for path in files[1:]:
        shutil.copyfile(short, path)
    rows: list[Row] = []
    for count in (1,) if section.cpu else (1, len(files)):
        out = section.directory / f"restored-{count}"
        began = time.perf_counter()
        arguments = ["--weights", str(weights), "--device", section.device.type, "--out", str(out)]
        darkprep("restore", *arguments, "--amplify", "100", *map(str, files[:count]))
        rows.append({"files": count, "seconds": time.perf_counter() - began})
    if len(rows) > 1:
        each = (rows[1]["seconds"] - rows[0]["seconds"]) / (len(files) - 1)
        rows.append({"files": "the second one", "seconds": each})
    return rows


def start_times(section: Section) -> list[Row]:
    """Return the seconds of starting Python, torch, the GPU, and what `restore` imports, each with the ones before it."""
    steps = {
        "python": "pass",
        "torch": "import torch",
        "the GPU": f"import torch; torch.zeros(1, device='{section.device.type}')",
        "darkprep restore": "import darkprep.commands.main, darkprep.jobs.restore",
    }
    rows: list[Row] = []
    for name, program in steps.items():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        rows.append({"with": name, "seconds": time.perf_counter() - began})
    return rows


if __name__ == "__main__":
    main()
