"""The provenance of a run: versions, machine and plan, written to about.json when the run starts.

The trade-off: names of hosts and users are left out, and so are directories above the working directory, so
that a report can be shown to others.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprep import __version__
from darkprep.shards import Spool
from darkprep.shards.file_names import published_path

if TYPE_CHECKING:
    import torch

FILE = "about.json"
_PACKAGES = ("torch", "numpy", "rawpy", "zarr", "webdataset", "scikit-image")


def run_provenance(spool: Spool, device: torch.device) -> dict[str, Any]:
    """Return the provenance as JSON values. Raises PlanError."""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(["darkprep", *map(_published_word, sys.argv[1:])]),
        "plan": plan_facts(spool),
        "versions": _versions(),
        "machine": _machine(device),
    }


def _published_word(word: str) -> str:
    """Return a word of the command line without directories of this machine."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{published_path(value)}" if value.startswith("/") else word


def plan_facts(spool: Spool) -> dict[str, Any]:
    """Return the size and the options of a spool's plan as JSON values. Raises PlanError."""
    stream, pairs, options = spool.stream, *_pairs_and_options(spool.plan.recipe)
    return {
        "digest": spool.digest,
        "pairs": len(pairs),
        "scenes": len({str(pair.get("scene")) for pair in pairs}),
        "shards": "without end" if stream.shards is None else stream.shards,
        "shard_bytes": stream.layout().shard_bytes,
        "budget_bytes": spool.settings.budget_bytes,
        # Without tables of noise and lists of dark frames, which are too long to be read.
        **{name: value for name, value in options.items() if not isinstance(value, dict)},
    }


def _pairs_and_options(recipe: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the pairs and the options of a recipe, without those that are invalid: only producers check a recipe."""
    entries, options = recipe.get("pairs"), recipe.get("options")
    pairs = (
        [one.get("pair") for one in entries if isinstance(one, dict)]
        if isinstance(entries, list)
        else []
    )
    return [one for one in pairs if isinstance(one, dict)], options if isinstance(
        options, dict
    ) else {}


def _versions() -> dict[str, str]:
    """Return the versions of Python, darkprep, and the packages on which a result depends."""
    found = {"darkprep": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine(device: torch.device) -> dict[str, str]:
    """Return system, processor, memory, and the GPU if `device` is a GPU."""
    import torch  # not at the top: `darkprep report` reads what is written here, and needs no torch

    facts = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "threads of torch": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["GPU"] = (
            f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, "
            f"sm_{properties.major}{properties.minor}"
        )
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def _processor() -> str:
    """Return the processor's name from /proc/cpuinfo; if this fails, its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
