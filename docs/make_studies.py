"""Writes docs/studies/*.md and their pictures from the results of studies: `python docs/make_studies.py STUDIES`.

STUDIES is the output directory of `darkprep study NAME --small --out STUDIES`; pages of studies that it does
not hold stay as they are. The trade-off:
the pages hold measured results only, so that a new run replaces them whole; docs/cross-camera.md explains them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from darkprep.studies.catalogue import STUDIES
from darkprep.studies.result import Table
from darkprep.view.numbers import format_duration

DOCS = Path(__file__).parent
EXPLANATIONS = {"targets": "[Targets](../concepts.md#targets)"}
"""Links to the explanation of a study, where it is not the page of other cameras."""


def page(name: str, record: dict[str, Any]) -> str:
    """The page of one study; `record` is its results.json."""
    tables = [Table(**table).markdown() for table in record["tables"]]
    time = format_duration(record["seconds"])
    return "\n\n".join(
        [
            f"# {record['title']}",
            record["lead"],
            f"```bash\ndarkprep study {name} --small\n```",
            f"It took {time} for data, training runs and evaluations on {record['cores']} CPU cores without a GPU; "
            "studies in one output directory share tasks. The same command without `--small` runs at full "
            "size on your photographs.",
            f"![The same crop by each network](../images/study-{name}.jpg)",
            *tables,
            *record["notes"],
            "Generated from `results.json` of the study by `python docs/make_studies.py`. "
            f"For an explanation see {EXPLANATIONS.get(name, '[Other cameras](../cross-camera.md)')}.\n",
        ]
    )


def main(studies: Path) -> None:
    """Write the pages of the studies that are there."""
    (DOCS / "studies").mkdir(exist_ok=True)
    for name in STUDIES:
        if not (studies / name / "results.json").exists():
            continue
        record = json.loads((studies / name / "results.json").read_text(encoding="utf-8"))
        (DOCS / "studies" / f"{name}.md").write_text(page(name, record), encoding="utf-8")
        shutil.copyfile(studies / name / "panel.jpg", DOCS / "images" / f"study-{name}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
