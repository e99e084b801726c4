"""Write trained weights as a file for other programs: ONNX, or a model package for editors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from darkprep.jobs.weights import load_network
from darkprep.model import ModelError
from darkprep.model.dtmodel import export_dtmodel
from darkprep.model.export import export_onnx, require_packages
from darkprep.shards import OptionError, SpoolError, WeightsError
from darkprep.shards.files import disk_errors

_LARGEST_AMPLIFICATION = 1e6


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of an export. Raises OptionError, which names the invalid field."""

    weights: Path
    out: Path
    """The file to write; `.onnx` or `.dtmodel`."""
    model: str | None = None
    """`package.module:Class` of the weights' network, if it is the user's own."""
    amplify: float | None = None
    """The amplification that a `.dtmodel` applies; None for `.onnx`."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".onnx", ".dtmodel"):
            raise OptionError(f"{self.out}: name a file that ends in .onnx or .dtmodel")
        if self.out.suffix == ".onnx" and self.amplify is not None:
            raise OptionError(
                "--amplify can be used only for a .dtmodel: the program that runs the .onnx file amplifies the input"
            )
        if self.out.suffix == ".dtmodel" and self.amplify is None:
            raise OptionError(
                "a .dtmodel needs --amplify FACTOR: photo editors do not pass the exposure to a model, so one fixed amplification is built into it"
            )
        if self.amplify is not None and not 1 <= self.amplify <= _LARGEST_AMPLIFICATION:
            raise OptionError(
                f"amplify must be 1 to {_LARGEST_AMPLIFICATION:g}, not {self.amplify:g}"
            )


def export(options: ExportOptions) -> str:
    """Write the file and return a message for the user.

    Raises OptionError, WeightsError, DiskFull and SpoolError; then nothing is written.
    """
    out = options.out
    if not out.parent.is_dir():
        raise OptionError(f"{out.parent}: is not a directory; name a file in an existing directory")
    with _translated(out):
        require_packages()
        network = load_network(options.weights, model=options.model)
        if out.exists() and out.samefile(options.weights):
            raise OptionError(f"{out}: is the weights file itself; name another file")
        if options.amplify is not None:
            package = export_dtmodel(network, out, amplification=options.amplify)
            note, onnx = (
                f"; tiles differ from the whole frame by {package.seam:.2g} steps of an 8-bit picture",
                package.onnx,
            )
        else:
            note, onnx = "", export_onnx(network, out)
    lines = [
        f"wrote {out}: ONNX opset {onnx.opset}, {onnx.size_bytes / 1e6:,.1f} MB; ONNX Runtime differs from torch by at most {onnx.largest_error:.1g}{note}",
        f"note of the weights: {network.note}" if network.note else "",
    ]
    return "\n".join(filter(None, lines))


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    """Translate the errors of a block that writes `out` into errors of darkprep."""
    try:
        with disk_errors(out):
            yield
    except ModelError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise SpoolError(
            f"{out}: cannot be written ({error.strerror}); choose another file name"
        ) from error
