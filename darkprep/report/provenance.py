"""What a run was made with: versions, machine, plan. Written when it starts, for nobody remembers later.

The trade-off: names of hosts and users are left out, so that a report can be shown to others.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from darkprep import __version__
from darkprep.shards import Spool

FILE = "about.json"
_PACKAGES = ("torch", "numpy", "rawpy", "zarr", "webdataset", "scikit-image")


def run_provenance(spool: Spool, device: torch.device) -> dict[str, Any]:
    """Everything, as JSON takes it; raises PlanError."""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(["darkprep", *sys.argv[1:]]),
        "plan": plan_provenance(spool),
        "versions": versions(),
        "machine": machine(device),
    }


def plan_provenance(spool: Spool) -> dict[str, Any]:
    """The plan in a few facts, with the options that it was made with."""
    stream, recipe = spool.stream, spool.plan.recipe
    pairs = recipe.get("pairs", [])
    return {
        "digest": spool.digest,
        "pairs": len(pairs),
        "scenes": len({pair["pair"]["scene"] for pair in pairs}),
        "shards": "no end" if stream.shards is None else stream.shards,
        "shard_bytes": stream.layout().shard_bytes,
        "budget_bytes": spool.settings.budget_bytes,
        **recipe.get("options", {}),
    }


def versions() -> dict[str, str]:
    """Of Python, of ours, and of the packages that a result depends on."""
    found = {"darkprep": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, str]:
    """System, processor, memory, and the GPU where one is used."""
    facts = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": str(os.cpu_count() or 1),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "threads of torch": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        of_device = torch.cuda.get_device_properties(device)
        facts["GPU"] = (
            f"{of_device.name}, {of_device.total_memory / 1e9:.0f} GB, "
            f"sm_{of_device.major}{of_device.minor}"
        )
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
