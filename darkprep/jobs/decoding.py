"""Decode RAW files to the network's input for `evaluate` and `restore`: the options, and the decoder made from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from darkprep.jobs.noise_map import noise_levels
from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.pairs.reference_colours import reference_colours
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import Correction, NoiseOfFrame, lone_sample, whole_frame
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER, Amplification, parse_amplification
from darkprep.pipeline.raw.camera_colours import CameraColours, camera_name, colours_for
from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.guard import guarded_call
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.pipeline.raw.source import PackedFrame
from darkprep.shards import OptionError, RawError, Sample, Target

AUTO, NONE = "auto", "none"
"""Values of `match_colour` that name no camera."""


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
    """A camera or a RAW file to whose colours the frames are converted; `auto` for the training camera that the
    weights state; None or `none` for no conversion."""
    dark_shading: Path | None = None
    """A calibration file whose dark shading is subtracted from the short exposures."""
    noise_map: str | None = None
    """A published camera or a calibration file whose noise the short exposures have, for a network that reads a
    noise-level map; None for that of each file's camera."""

    def __post_init__(self) -> None:
        parse_amplification(self.amplify, has_ratio=self.has_ratio)
        parse_xtrans_mode(self.xtrans)
        if self.multiplier is not None and self.amplify != "estimate":
            raise OptionError("multiplier can be used only with --amplify estimate; leave it out")

    @property
    def matches(self) -> bool:
        """Whether frames may be converted to another camera's colours."""
        return self.match_colour not in (None, NONE)

    def effective_multiplier(self) -> float:
        """Return m of the paper's estimate; 1 if nothing is estimated."""
        if self.amplify != "estimate":
            return 1.0
        return DEFAULT_MULTIPLIER if self.multiplier is None else self.multiplier

    def decoder(
        self,
        root: Path,
        trained_on: tuple[CameraColours, ...] = (),
        *,
        reads_noise_map: bool = False,
    ) -> FrameDecoder:
        """Return a decoder of RAW files; if `match_colour` names a camera, its photographs must be below `root`.

        `trained_on` are the cameras that the weights state; `reads_noise_map` is whether their network needs the
        noise level of each frame. Raises OptionError, DatasetError or RawError when the colours to match cannot be
        read, OptionError for a noise that is not known or not needed.
        """
        if self.noise_map is not None and not reads_noise_map:
            raise OptionError(
                "noise-map cannot be used with these weights, whose network reads no noise-level map; leave it out"
            )
        named = self.match_colour if self.matches and self.match_colour != AUTO else None
        return FrameDecoder(
            amplification=parse_amplification(self.amplify),
            multiplier=self.effective_multiplier(),
            xtrans=parse_xtrans_mode(self.xtrans),
            match=reference_colours(named, root) if named else None,
            trained_on=trained_on if self.match_colour == AUTO else (),
            correct=ShadingCorrection.at(self.dark_shading).corrected
            if self.dark_shading
            else None,
            noise=noise_levels(self.noise_map).of_frame if reads_noise_map else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LoneFrame:
    """A decoded file without a long exposure, ready to be restored."""

    sample: Sample
    decoded: PackedFrame
    """The file's own planes, levels and colours."""
    is_matched: bool
    """Whether the sample was converted to another camera's colours."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDecoder:
    """Decodes whole frames, all with the same options."""

    amplification: Amplification
    multiplier: float
    xtrans: XtransMode
    match: Colours | None
    """Colours to which every frame is converted."""
    trained_on: tuple[CameraColours, ...] = ()
    """Cameras of which a frame of any other camera is converted to the first; empty if `match` decides."""
    correct: Correction | None = None
    noise: NoiseOfFrame | None = None
    """Returns the noise level of a frame, for a network that reads it."""

    def pair(self, root: Path, pair: Pair, target: Target = "srgb") -> Sample:
        """Decode both exposures of a pair below `root` to one sample. Raises RawError, also if the decoder crashes."""
        return guarded_call(partial(self._pair, root, pair, target), root / pair.short)

    def _pair(self, root: Path, pair: Pair, target: Target) -> Sample:
        match = self.match
        if self.trained_on:
            match = self._match(open_source(root / pair.short).header())
        return whole_frame(
            root,
            pair,
            amplification=self.amplification,
            multiplier=self.multiplier,
            xtrans=self.xtrans,
            match=match,
            correct=self.correct,
            noise=self.noise,
            target=target,
        )

    def file(self, path: Path) -> LoneFrame:
        """Decode a file as `file_unguarded` does, in a process of its own. Raises RawError, also if the decoder crashes."""
        return guarded_call(partial(self.file_unguarded, path), path)

    def file_unguarded(self, path: Path) -> LoneFrame:
        """Decode a file without a long exposure in this process, which a damaged file may crash. Raises RawError.

        A file without usable colours is not converted to the colours of a training camera. The amplification must
        not be `ratio`.
        """
        assert self.amplification != "ratio", (
            "amplification `ratio` is not possible for a single file"
        )
        decoded = open_source(path).decode(xtrans=self.xtrans)
        if self.correct:
            decoded = self.correct(decoded)
        match = self._match(decoded.header)
        if match and self.trained_on and not _has_colours(decoded):
            match = None
        sample = lone_sample(
            decoded,
            amplification=self.amplification,
            multiplier=self.multiplier,
            match=match,
            noise=self.noise,
        )
        return LoneFrame(sample=sample, decoded=decoded, is_matched=match is not None)

    def _match(self, header: RawHeader) -> Colours | None:
        """Return the colours to which a file is converted; None for no conversion."""
        return colours_for(camera_name(header), self.trained_on) if self.trained_on else self.match


def _has_colours(frame: PackedFrame) -> bool:
    try:
        colours_of(frame, frame.header.path)
    except RawError:
        return False
    return True
