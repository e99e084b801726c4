"""Read exposure and camera of a photograph, to find pairs, from its metadata without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.raw.amplify import exposure_ratio


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """The metadata from which pairs are made; unknown numbers are 0."""

    exposure_s: float
    iso: float
    camera: str
    """Maker and model as the file states them, `unknown` if it does not."""

    def text(self) -> str:
        """Return the exposure as text for a message: `0.1 s, ISO 800`."""
        iso = f", ISO {self.iso:g}" if self.iso else ""
        return f"{self.exposure_s:.4g} s{iso}"


def read_photograph(path: Path) -> Photograph:
    """Read exposure and camera of the photograph at `path`. Raises RawError if it cannot be used."""
    header = open_source(path).header()
    make, model = header.make.strip(), header.model.strip()
    is_named = not make or model.split(" ")[0].lower() == make.split(" ")[0].lower()
    return Photograph(
        exposure_s=header.exposure_s,
        iso=header.iso,
        camera=(model if is_named else f"{make} {model}".strip()) or "unknown",
    )


def light_ratio(short: Photograph, long: Photograph, *, smallest: float = 1.0) -> float:
    """Return the exposure ratio: of ISO times exposure time, or of the times alone if an ISO is unknown.

    Raises ValueError with the reason if a time is unknown or the ratio is below `smallest`.
    """
    if not (short.exposure_s > 0 and long.exposure_s > 0):
        raise ValueError("its files state no exposure time")
    known_iso = short.iso > 0 and long.iso > 0
    ratio = exposure_ratio(
        short_s=short.exposure_s,
        long_s=long.exposure_s,
        short_iso=short.iso if known_iso else 1.0,
        long_iso=long.iso if known_iso else 1.0,
    )
    if ratio < smallest:
        raise ValueError(
            f"its long exposure has less light than its short one ({long.text()} and {short.text()})"
        )
    return ratio
