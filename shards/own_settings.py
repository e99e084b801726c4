"""Which settings of plans this user chose on this machine: a record outside all spools.

The settings in plan.json name directories that producers read and write, and clusters with which they
exchange pickles. A spool may come from someone else, so they are obeyed only if this user chose them: each
time that a plan is saved with settings from the command line, a file is written in the user's state
directory. Its name is a hash of plan and settings, so a spool may be moved. The trade-off: a spool that is
copied to another machine needs the options once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from darkprep.shards.errors import DarkprepError, PlanError
from darkprep.shards.files import list_directory, read_json, write_json
from darkprep.shards.plan_record import PlanRecord, ProducerSettings

_chosen: set[str] = set()
"""Names of the records that this process wrote, for a machine without a writable state directory."""


def record_own_settings(plan: PlanRecord) -> None:
    """Record that this user chose the settings of `plan`; call it only with settings from the command line.

    If no state directory is writable, the record is valid for this process only.
    """
    name = _record_name(plan)
    _chosen.add(name)
    for directory in _state_directories():
        with contextlib.suppress(OSError, DarkprepError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(directory):
                write_json(directory / name, plan.settings.to_json(), sync=False)
                return


def are_own_settings(plan: PlanRecord) -> bool:
    """Return whether this user chose the settings of `plan` on this machine."""
    name = _record_name(plan)
    return name in _chosen or any((directory / name).is_file() for directory in _existing())


def check_own_settings(plan: PlanRecord, where: str) -> None:
    """Raise PlanError, which names what the settings from `where` would use, unless this user chose them."""
    if are_own_settings(plan):
        return
    settings = plan.settings
    cluster = None if settings.backend == "loky" else f"{settings.backend} {settings.address or ''}"
    named = {"root": settings.root, "frames-dir": settings.frames_dir, "backend": cluster}
    named |= {"dark frames": settings.darks, "dark shading": settings.dark_shading}
    names = ", ".join(f"{name} {value}".strip() for name, value in named.items() if value)
    what = (
        f"its settings ({names}) come from another user or machine"
        if names
        else "comes from another user or machine and does not name the directory of the photographs"
    )
    raise PlanError(
        f"{where}: {what}, so for safety no producer is started; "
        "name the directory of the photographs with `stream-train --root DIR`, or run `darkprep build` again with your options"
    )


def last_own_settings(digest: str) -> ProducerSettings | None:
    """Return the settings that this user chose last for the plan with this digest; None if there are none."""
    times: dict[Path, float] = {}
    for directory in _existing():
        for entry in list_directory(directory):
            if entry.name.startswith(f"{digest}-"):
                with contextlib.suppress(OSError):
                    times[Path(entry.path)] = entry.stat().st_mtime
    for path in sorted(times, key=times.__getitem__, reverse=True):
        with contextlib.suppress(PlanError):
            return ProducerSettings.from_json(read_json(path) or {}, str(path))
    return None


def _record_name(plan: PlanRecord) -> str:
    content = [plan.stream.to_json(), plan.recipe, plan.settings.to_json()]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{plan.digest}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _existing() -> list[Path]:
    return [directory for directory in _state_directories() if _is_private(directory)]


def _state_directories() -> Iterator[Path]:
    """Yield where records may be: in the user's state directory, else in a directory for temporary files."""
    chosen = Path(os.environ.get("XDG_STATE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # a user without a home
        state = chosen if chosen.is_absolute() else Path.home() / ".local" / "state"
        if state.is_absolute():
            yield state / "darkprep" / "settings"
    yield Path(tempfile.gettempdir()) / f"darkprep-{os.geteuid()}"


def _is_private(directory: Path) -> bool:
    """Return whether a directory is this user's and no other user can write into it."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
