"""`darkprep restore` of one 45 MP RAW file, and the network alone on a frame of that size.

The trade-off: a synthetic uncompressed DNG; cameras that compress take longer to unpack.
"""

from __future__ import annotations

import shutil
import time
from functools import partial

import torch
from gpu_section import Row, Section, interleaved, peak_memory
from gpu_spool import darkprep
from photographs import write_photographs

from darkprep.model import build_model, ready_for_inference
from darkprep.model.weights import save_weights

SIZE, TINY_SIZE = (5520, 8288), (256, 256)


def main() -> None:
    """Measure the command, then the network at each precision."""
    section = Section(__doc__)
    size = TINY_SIZE if section.cpu else SIZE
    with section.guarded("restore"):
        section.show("darkprep restore, one file", command(section, size))
    rows: list[Row] = []
    frame = torch.rand(1, 4, size[0] // 2, size[1] // 2)
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
            calls["planes on the host, RGB back to it"] = lambda r=ready: r(frame).cpu()  # type: ignore[misc]
            for name, ms in interleaved(calls, section.device).items():
                rows.append({"call": name, "precision": precision, "ms": ms} | peak)
            del ready, calls
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


if __name__ == "__main__":
    main()
