"""Decode RAW files to the network's input for `evaluate` and `restore`: the options, and the decoder made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.pairs.reference_colours import reference_colours
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER, Amplification, parse_amplification
from darkprep.pipeline.raw.colour import Colours
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.shards import OptionError, Sample, Target


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """The options with which a user decodes whole frames. Raises OptionError, which names the invalid field."""

    amplify: str = "ratio"
    """`ratio`, `estimate` or a number: how the amplification is found."""
    multiplier: float | None = None
    """The paper's m, for `estimate` only; None for DEFAULT_MULTIPLIER."""
    xtrans: str = "native"
    """How an X-Trans camera is fed to the network: `native`, `plain` or `rggb`."""
    has_ratio: bool = True
    """Whether there are long exposures, so that `ratio` is possible."""
    match_colour: str | None = None
    """A camera or a RAW file to whose colours the frames are converted."""

    def __post_init__(self) -> None:
        parse_amplification(self.amplify, has_ratio=self.has_ratio)
        parse_xtrans_mode(self.xtrans)
        if self.multiplier is not None and self.amplify != "estimate":
            raise OptionError("multiplier can be used only with --amplify estimate; leave it out")

    def effective_multiplier(self) -> float:
        """Return m of the paper's estimate; 1 if nothing is estimated."""
        if self.amplify != "estimate":
            return 1.0
        return DEFAULT_MULTIPLIER if self.multiplier is None else self.multiplier

    def decoder(self, root: Path) -> FrameDecoder:
        """Return a decoder of RAW files; if `match_colour` names a camera, its photographs must be below `root`.

        Raises OptionError, DatasetError or RawError when the colours to match cannot be read.
        """
        return FrameDecoder(
            amplification=parse_amplification(self.amplify),
            multiplier=self.effective_multiplier(),
            xtrans=parse_xtrans_mode(self.xtrans),
            match=reference_colours(self.match_colour, root) if self.match_colour else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDecoder:
    """Decodes whole frames, all with the same options."""

    amplification: Amplification
    multiplier: float
    xtrans: XtransMode
    match: Colours | None

    def pair(self, root: Path, pair: Pair, target: Target = "srgb") -> Sample:
        """Decode both exposures of a pair below `root` to one sample. Raises RawError."""
        return whole_frame(
            root,
            pair,
            amplification=self.amplification,
            multiplier=self.multiplier,
            xtrans=self.xtrans,
            match=self.match,
            target=target,
        )

    def file(self, path: Path) -> tuple[Sample, RawHeader]:
        """Decode a file without a long exposure; return the sample and the file's header. Raises RawError.

        The amplification must not be `ratio`.
        """
        assert self.amplification != "ratio", (
            "amplification `ratio` is not possible for a single file"
        )
        return lone_frame(
            path,
            amplification=self.amplification,
            multiplier=self.multiplier,
            xtrans=self.xtrans,
            match=self.match,
        )
