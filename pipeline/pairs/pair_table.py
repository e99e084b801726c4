"""The pair table: a CSV file that lists which short exposure belongs to which long one.

The trade-off: a row that cannot be used is reported with its line number and left out, instead of ending
the command, so that a data set of thousands of photographs can be used before every error in it is
corrected.

    short,long,scene,split,ratio,camera,weight
    a/short/0001.NEF,a/long/0001.NEF,0001,train,100,NIKON D1,1

Only `short` and `long` are required. `id` and `iso` are further columns; `table_text` writes them if they
do not follow from the others.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from darkprep.pipeline.pairs.naming import default_ids, default_scene, named_apart
from darkprep.pipeline.pairs.photograph import Photograph, light_ratio, read_photograph
from darkprep.pipeline.pairs.sources import is_patch
from darkprep.pipeline.pairs.table import (
    MAX_WEIGHT,
    SPLITS,
    Pair,
    Pairs,
    Skipped,
    Split,
    splits_by_scene,
)
from darkprep.pipeline.raw.exif import read_exposure
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.shards.errors import DatasetError, RawError
from darkprep.shards.files import read_regular_file

COLUMNS = ("short", "long", "scene", "split", "ratio", "camera", "weight")
"""Columns that are always written; the first two are required."""
_DERIVED_COLUMNS = ("id", "iso")
_MAX_BYTES = 64 << 20
_MAX_LINES, _MAX_LINE = 500_000, 1 << 16
"""Maximum number of lines, and of characters in a line."""
_MAX_NAME_BYTES = 300
"""Maximum length of id and camera together, in bytes of JSON: they are part of each sample's metadata of 1024 bytes."""
_MAX_RATIO = 1e9


class _RowError(ValueError):
    """A row that gives no pair; the message is the reason."""


def pairs_from_csv(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Pairs:
    """Return the pairs that a table lists, ordered by id.

    Paths in the table are relative to `root`, or to the table's own directory if none of its files is below
    `root`. Missing columns are derived: `scene` is the folder that holds both files, otherwise the common
    beginning of their names; `split` is drawn by scene (`splits_by_scene`); `ratio` is the ratio of ISO
    times exposure time, or of the times alone if the ISO values are equal or unknown; `camera` is the short
    exposure's camera; `weight` is 1.

    Rows that cannot be used are listed in `skipped` by line number. Raises DatasetError when the file
    cannot be read, is not a pair table, or has no usable row.
    """
    table = Path(path)
    rows = list(_read_rows(table))
    base = _base(table, Path(root) if root is not None else None, [row for _, row in rows])
    reader = _RowReader(base)
    skipped, drafts = [], []
    for line, row in rows:
        where = f"{table.name}:{line}"
        try:
            drafts.append((where, reader.draft(where, row)))
        except _RowError as error:
            skipped.append(Skipped(where, str(error)))
        except RawError as error:
            skipped.append(Skipped(where, f"{error.path} {error.reason}"))
    pairs, named = _finish(drafts, skipped)
    if not pairs:
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
        raise DatasetError(f"{table}: has no usable row ({reasons or 'it lists no pairs'})")
    return Pairs(
        root=base,
        label=table.stem,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.id)),
        skipped=tuple(skipped),
        rows=named,
        table=table,
    )


def without_absolute_paths(found: Pairs) -> Pairs:
    """Return pairs of which no path is absolute, for a plan that others may read.

    If any path is, all become relative to the directory above all photographs, which is the new root.
    """
    names = {name for pair in found.pairs for name in (pair.short, pair.long)}
    if not any(name.startswith("/") for name in names):
        return found
    paths = {name: os.path.normpath(found.root.absolute() / name) for name in names}
    files = (Path(path).parent if is_patch(path) else Path(path) for path in paths.values())
    root = os.path.commonpath([file.parent for file in files])
    return replace(
        found,
        root=Path(root),
        pairs=tuple(
            replace(
                pair,
                short=os.path.relpath(paths[pair.short], root),
                long=os.path.relpath(paths[pair.long], root),
            )
            for pair in found.pairs
        ),
    )


def table_text(pairs: Sequence[Pair]) -> str:
    """Return pairs as the text of a table from which `pairs_from_csv` reads the same pairs."""
    names = default_ids([(pair.scene, pair.short) for pair in pairs])
    columns = list(COLUMNS)
    if any(pair.id != name for pair, name in zip(pairs, names, strict=True)):
        columns.append("id")
    if any(pair.iso for pair in pairs):
        columns.append("iso")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for pair in pairs:
        values = {**vars(pair), "ratio": _number_text(pair.ratio), "iso": _number_text(pair.iso)}
        writer.writerow([values[column] for column in columns])
    return text.getvalue()


def _number_text(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _read_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and fields of each row. Raises DatasetError for a file that is not a pair table."""
    try:
        data = read_regular_file(table, _MAX_BYTES + 1)
    except OSError as error:
        raise DatasetError(
            f"{table}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    if len(data) > _MAX_BYTES:
        raise DatasetError(
            f"{table}: is larger than {_MAX_BYTES >> 20} MiB, the maximum size of a pair table; divide it"
        )
    text = data.decode("utf-8-sig", "surrogateescape")
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    reader = csv.reader(_lines(table, text), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        _check_columns(table, names)
        for fields in reader:
            values = [field.strip() for field in fields]
            if any(values):
                yield reader.line_num, dict(zip(names, values, strict=False))
    except csv.Error as error:
        raise DatasetError(
            f"{table}:{reader.line_num}: is not a line of a CSV file ({error})"
        ) from error


def _lines(table: Path, text: str) -> Iterator[str]:
    """Yield the lines of a table. Raises DatasetError if they are too many or too long."""
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if number > _MAX_LINES or len(line) > _MAX_LINE:
            raise DatasetError(
                f"{table}:{number}: a pair table has at most {_MAX_LINES:,} lines of {_MAX_LINE:,} characters; divide it"
            )
        yield line


def _check_columns(table: Path, names: list[str]) -> None:
    known = (*COLUMNS, *_DERIVED_COLUMNS)
    wanted = f"a table begins with the line {','.join(COLUMNS)}, of which short and long are needed"
    unknown = [name for name in names if name not in known]
    if "short" not in names or "long" not in names:
        raise DatasetError(f"{table}: has no columns short and long; {wanted}")
    if unknown or len(set(names)) < len(names):
        problem = f"unknown column {unknown[0]!r}" if unknown else "a column twice"
        raise DatasetError(f"{table}: has {problem[:80]}; {wanted}")


def _base(table: Path, root: Path | None, rows: Sequence[Mapping[str, str]]) -> Path:
    """Return the directory to which the table's paths are relative."""
    if root is None or not any(_exists(root / row.get("short", "")) for row in rows):
        return table.parent
    return root


def _exists(path: Path) -> bool:
    try:
        return path.parent.is_dir() if is_patch(path) else path.is_file()
    except OSError:  # such as a name that is too long
        return False


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """The pair of a row, before splits and ids are assigned to all pairs."""

    pair: Pair
    split: Split | None


class _RowReader:
    """Makes pairs from rows, one after the other; remembers which short exposures earlier rows listed."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._long_of: dict[str, tuple[str, str]] = {}
        self._read = GuardedReader(read_photograph, seconds=HEADER_S)

    def draft(self, where: str, row: Mapping[str, str]) -> _Draft:
        """Make a pair from one row; `where` is the row's `FILE:LINE`, for messages about later rows.

        Raises _RowError if the row cannot be used, RawError if a photograph of it cannot be read.
        """
        short, long = (self._file(row, column) for column in ("short", "long"))
        self._check_new(where, short, long)
        split = _one_of(row, "split", SPLITS)
        ratio, weight, iso = _ratio(row), _weight(row), _iso(row)
        camera = row.get("camera", "")
        if ratio is None or not camera:
            found = self._read(self._base / short)
            camera = camera or found.camera
            if ratio is None:
                ratio = _light_ratio(found, self._read(self._base / long))
                iso = found.iso if iso is None else iso
        if row.get("ratio"):
            self._check_times(short, long)
        pair = Pair(
            id=row.get("id", ""),
            scene=row.get("scene") or default_scene(short, long),
            camera=camera,
            split=split or "train",
            short=short,
            long=long,
            ratio=ratio,
            iso=iso or 0.0,
            weight=weight,
        )
        _check_names(pair)
        self._long_of[short] = (long, where)
        return _Draft(pair=pair, split=split)

    def _file(self, row: Mapping[str, str], column: str) -> str:
        """Return the file in a column of a row as a POSIX path. Raises _RowError if it does not exist."""
        name = row.get(column, "")
        if not name:
            raise _RowError(f"its column {column} is empty")
        if "\0" in name:
            raise _RowError(f"its column {column} is not a file name")
        name = PurePosixPath(os.path.normpath(name)).as_posix()
        if not _exists(self._base / name):
            raise _RowError(f"there is no file {self._base / name} ({column})")
        return name

    def _check_times(self, short: str, long: str) -> None:
        """Raise _RowError if both files state an exposure time and that of the long exposure is shorter."""
        if is_patch(short) or is_patch(long):
            return
        one, other = (read_exposure(self._base / name).exposure_s for name in (short, long))
        if 0 < other < one:
            raise _RowError(
                f"its long exposure of {other:.4g} s is shorter than its short one of {one:.4g} s; exchange them"
            )

    def _check_new(self, where: str, short: str, long: str) -> None:
        if short not in self._long_of:
            return
        before, line = self._long_of[short]
        if before == long:
            raise _RowError(f"lists the same pair as {line}; give it a weight instead")
        raise _RowError(
            f"lists a long exposure for {short} that is not the one in {line} ({before}); keep one of the two rows"
        )


def _one_of(row: Mapping[str, str], column: str, choices: tuple[Split, ...]) -> Split | None:
    value = row.get(column, "").lower()
    for choice in choices:
        if value == choice:
            return choice
    if value:
        raise _RowError(f"{column} must be one of {', '.join(choices)}, not {value[:40]!r}")
    return None


def _number(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise _RowError(f"{column} must be a number, not {text[:40]!r}") from None


def _ratio(row: Mapping[str, str]) -> float | None:
    value = _number(row, "ratio")
    if value is not None and not 0 < value < _MAX_RATIO:
        raise _RowError(f"ratio must be above 0 and below {_MAX_RATIO:g}, not {row['ratio'][:40]}")
    return value


def _iso(row: Mapping[str, str]) -> float | None:
    value = _number(row, "iso")
    if value is not None and not 0 <= value < _MAX_RATIO:
        raise _RowError(f"iso must be at least 0 and below {_MAX_RATIO:g}, not {row['iso'][:40]}")
    return value


def _weight(row: Mapping[str, str]) -> int:
    value = _number(row, "weight")
    if value is None:
        return 1
    if value not in range(1, MAX_WEIGHT + 1):
        raise _RowError(
            f"weight must be a whole number from 1 to {MAX_WEIGHT}, not {row['weight'][:40]}"
        )
    return int(value)


def _light_ratio(short: Photograph, long: Photograph) -> float:
    try:
        return light_ratio(short, long)
    except ValueError as error:
        raise _RowError(f"{error}; exchange them, or give a ratio") from error


def _check_names(pair: Pair) -> None:
    for column, value in (("scene", pair.scene), ("camera", pair.camera), ("id", pair.id)):
        if value and not value.isprintable():
            raise _RowError(f"its column {column} has characters that cannot be printed")
    if len(json.dumps([pair.id or f"{pair.scene}_{pair.short}", pair.camera])) > _MAX_NAME_BYTES:
        raise _RowError("its scene, file name and camera are too long; shorten them")


def _finish(
    drafts: Sequence[tuple[str, _Draft]], skipped: list[Skipped]
) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs with splits and ids, and the row of each id; further rows with the same id are skipped."""
    given = {draft.pair.scene: draft.split for _, draft in drafts if draft.split}
    drawn = splits_by_scene({draft.pair.scene for _, draft in drafts} - given.keys())
    pairs = named_apart(
        [
            replace(draft.pair, split=draft.split or (given | drawn)[draft.pair.scene])
            for _, draft in drafts
        ]
    )
    rows: dict[str, str] = {}
    kept = []
    for (where, _), pair in zip(drafts, pairs, strict=True):
        if pair.id in rows:
            skipped.append(
                Skipped(where, f"has the same id {pair.id} as {rows[pair.id]}; give it another id")
            )
        else:
            rows[pair.id] = where
            kept.append(pair)
    return kept, rows
