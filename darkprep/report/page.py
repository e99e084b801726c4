"""One self-contained page: tiles, charts, pictures with a divider, tables. The style of every report.

All of it is in one file, no library, no request. The trade-off: curves are thinned to a few hundred
points and pictures are JPEG, so that a report weighs megabytes and opens on a phone.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from darkprep import __version__
from darkprep.shards.files import write_bytes

_SHOWN_WHOLE = 12
"""Rows of a table; one of more scrolls."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One picture of a scene."""

    name: str
    """What a reader chooses it by: `dark`, `amplified`, `restored`, `truth`."""
    label: str
    """What stands on it."""
    jpeg: bytes
    step: int | None = None
    """The iteration that it was made after, where there are several."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pictures of one place, all of one size, to be compared."""

    name: str
    caption: str
    size: tuple[int, int]
    """Width and height in pixels."""
    layers: tuple[Layer, ...]


def page(*, title: str, lead: str, sections: Sequence[str]) -> str:
    """The whole page; `sections` are HTML already, title and lead are not."""
    folder = files("darkprep.report") / "html"
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        lead=html.escape(lead),
        body="\n".join(sections),
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "script.js").read_text(encoding="utf-8"),
        version=html.escape(__version__),
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def write_page(path: Path, text: str) -> None:
    """Put a page on the disk, whole or not at all. Raises DiskFull or SpoolError."""
    # A run's name may be bytes that are no text, its files may hold half a character: shown escaped, as on
    # the command line.
    write_bytes(path, text.encode("utf-8", "backslashreplace"), sync=False)


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading and what follows it."""
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{said}{''.join(parts)}</section>"


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """The figures that matter, large: name, value, and a word below it."""
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}"
        f"<small>{html.escape(below)}</small></dd></div>"
        for name, value, below in facts
    )
    return f'<dl class="tiles">{cells}</dl>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """A table of text; all columns but the first are numbers."""
    shown = "".join(_row(row, "td") for row in rows)
    tall = " tall" if len(rows) > _SHOWN_WHOLE else ""
    return (
        f'<div class="card scroll{tall}" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f"<table><thead>{_row(heads, 'th')}</thead><tbody>{shown}</tbody></table></div>"
    )


def facts(title: str, entries: Mapping[str, object]) -> str:
    """Names and values of one kind, such as a configuration."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(str(name))}</th><td>{html.escape(_option_name(value))}</td></tr>'
        for name, value in entries.items()
    )
    return f'<div class="card"><h3>{html.escape(title)}</h3><table>{rows}</table></div>'


def gallery(scenes: Sequence[Scene]) -> str:
    """Pictures to compare by a divider that mouse, finger and arrow keys move."""
    if not scenes:
        return ""
    names = list(dict.fromkeys(layer.name for scene in scenes for layer in scene.layers))
    right = "truth" if "truth" in names else names[-1]
    left = "amplified" if "amplified" in names else names[0]
    steps = max(
        len([layer for layer in scene.layers if layer.step is not None]) for scene in scenes
    )
    picks = [_choice("scene", "Scene", {str(i): scene.name for i, scene in enumerate(scenes)}, "0")]
    # Restored against truth says little at first sight; against the input it says what was won.
    right = "restored" if "restored" in names else right
    labels = {name: name.capitalize() for name in names}
    picks += [_choice("left", "Left", labels, left), _choice("right", "Right", labels, right)]
    if steps > 1:
        picks.append(
            f'<label class=full>Restored <output></output><input type="range" name="step" min="0" '
            f'max="{steps - 1}" value="{steps - 1}" aria-label="Iteration of the restored picture"></label>'
        )
    stages = "".join(_stage(scene, first=index == 0) for index, scene in enumerate(scenes))
    return (
        f'<div class="card gallery"><div class="picks">{"".join(picks)}</div>{stages}'
        f'<p class="caption" aria-live="polite"></p></div>'
    )


def _stage(scene: Scene, *, first: bool) -> str:
    width, height = scene.size
    pictures = "".join(
        f'<img alt="{html.escape(f"{scene.name}: {layer.label}")}" data-layer="{layer.name}" '
        f'data-label="{html.escape(layer.label)}" '
        + (f'data-step="{layer.step}" ' if layer.step is not None else "")
        + f'width="{width}" height="{height}" draggable="false" aria-hidden="true" '
        f'src="data:image/jpeg;base64,{base64.b64encode(layer.jpeg).decode()}">'
        for layer in scene.layers
    )
    hidden = "" if first else " hidden"
    return (
        f'<div class="stage" data-caption="{html.escape(scene.caption)}" '
        f'style="--cut:50%;aspect-ratio:{width}/{height};max-width:calc(78vh*{width / height:.4f})"{hidden}>'
        f'{pictures}<span class="divider"></span><span class="tag l" aria-hidden="true"></span>'
        f'<span class="tag r" aria-hidden="true"></span>'
        f'<input type="range" min="0" max="100" step="0.5" value="50" '
        f'aria-label="Divider between the left and the right picture"></div>'
    )


def _choice(name: str, label: str, options: Mapping[str, str], chosen: str) -> str:
    entries = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>'
        f"{html.escape(text)}</option>"
        for value, text in options.items()
    )
    return f'<label{" class=full" if name == "scene" else ""}>{label}<select name="{name}" autocomplete="off">{entries}</select></label>'


def _row(cells: Sequence[str], tag: str) -> str:
    shown = "".join(
        f"<{tag}{' class=n' if index else ''}>{html.escape(cell)}</{tag}>"
        for index, cell in enumerate(cells)
    )
    return f"<tr>{shown}</tr>"


def _option_name(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
