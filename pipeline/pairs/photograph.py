"""Exposure and camera of a photograph, for finding pairs: from its directories, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.pairs.sources import open_source


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """What pairs are made by; 0 if unknown."""

    exposure_s: float
    iso: float
    camera: str
    """Maker and model as the file states them, `unknown` if it does not."""

    @property
    def light(self) -> float:
        """Exposure time, times ISO where that is known: proportional to a photograph's brightness."""
        return self.exposure_s * (self.iso or 1.0)

    def text(self) -> str:
        """Return the exposure as a message states it: `0.1 s, ISO 800`."""
        iso = f", ISO {self.iso:g}" if self.iso else ""
        return f"{self.exposure_s:.4g} s{iso}"


def read_photograph(path: Path) -> Photograph:
    """Return exposure and camera of the photograph at `path`. Raises RawError if it cannot be used."""
    header = open_source(path).header()
    make, model = header.make.strip(), header.model.strip()
    is_named = not make or model.split(" ")[0].lower() == make.split(" ")[0].lower()
    return Photograph(
        exposure_s=header.exposure_s,
        iso=header.iso,
        camera=(model if is_named else f"{make} {model}".strip()) or "unknown",
    )
