"""Whether the installed torch can drive the GPU that is here, told before hours are spent.

The trade-off: judged by the architectures that the build names, not by trying; a build that names one
and was built without some kernel is not noticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from darkprep.shards import OptionError

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def why_undrivable(device: torch.device) -> str | None:
    """In words, why the device cannot run this torch's kernels; None when it can."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    capability = torch.cuda.get_device_capability(device)
    return undrivable(name, capability, torch.cuda.get_arch_list())


def refuse_undrivable(device: torch.device) -> None:
    """Raise OptionError for a device that this torch has no kernels for."""
    problem = why_undrivable(device)
    if problem:
        raise OptionError(problem)


def undrivable(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """The same for a GPU of a compute capability and a build for some architectures.

    Machine code for sm_XY runs on every X.Z with Z >= Y; PTX for compute_XY on every later chip;
    a letter behind the number binds it to that very chip (CUDA C++ Programming Guide, "Application
    compatibility").
    """
    if not built_for or any(_runs(one, capability) for one in built_for):
        return None
    own = f"sm_{capability[0]}{capability[1]}"
    return (
        f"{name} is {own}, and torch {torch.__version__} has kernels for {', '.join(built_for)} only; "
        f"install a build of torch that has {own} (for a V100, sm_70, one for CUDA 12.6), or use --device cpu"
    )


def idle_gpu() -> str | None:
    """A hint when there is an NVIDIA driver but torch was built without CUDA."""
    if torch.version.cuda is None and _NVIDIA_DRIVER.exists():
        return (
            f"this machine has an NVIDIA driver, but torch {torch.__version__} was built without CUDA; "
            f"install a CUDA build to use the GPU"
        )
    return None


def _runs(built: str, capability: tuple[int, int]) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", built)
    if not match:
        return False
    kind, major, minor, bound = match[1], int(match[2]), int(match[3]), match[4]
    if bound:
        return (major, minor) == capability
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]
