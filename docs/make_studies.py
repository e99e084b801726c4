"""Writes docs/studies/*.md and their pictures from a folder of studies: `python docs/make_studies.py STUDIES`.

The folder is what `darkprep study NAME --small --out STUDIES` left, all studies in one. The trade-off:
pages hold what was measured and nothing by hand, so that a new run replaces them whole; what the figures
mean is said in docs/cross-camera.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from darkprep.studies.catalogue import STUDIES
from darkprep.studies.outcome import Table
from darkprep.view.numbers import format_duration

DOCS = Path(__file__).parent


def page(name: str, record: dict[str, Any]) -> str:
    """One study's page."""
    tables = [Table(**table).markdown() for table in record["tables"]]
    time = format_duration(record["seconds"])
    return "\n\n".join(
        [
            f"# {record['title']}",
            record["lead"],
            f"```bash\ndarkprep study {name} --small\n```",
            f"On {record['cores']} CPU cores without a GPU, {time} for data, trainings and scores; "
            "studies in one folder share what they have in common. The same command without `--small` "
            "does it at full size on your photographs.",
            f"![The same place by each network](../images/study-{name}.jpg)",
            *tables,
            *record["notes"],
            "Made from the study's `results.json` by `python docs/make_studies.py`. "
            "What it means: [Other cameras](../cross-camera.md).\n",
        ]
    )


def main(studies: Path) -> None:
    """Writes the pages of all studies that the folder holds."""
    (DOCS / "studies").mkdir(exist_ok=True)
    for name in STUDIES:
        record = json.loads((studies / name / "results.json").read_text(encoding="utf-8"))
        (DOCS / "studies" / f"{name}.md").write_text(page(name, record), encoding="utf-8")
        shutil.copyfile(studies / name / "panel.jpg", DOCS / "images" / f"study-{name}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
