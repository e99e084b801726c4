"""All studies by name, and the function that runs one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from darkprep.jobs.output_directory import check_output_directory
from darkprep.shards import OptionError
from darkprep.studies.levels import levels
from darkprep.studies.noise import noise
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.result import write_result
from darkprep.studies.section_5 import section_5
from darkprep.studies.section_7 import section_7
from darkprep.studies.targets import targets
from darkprep.studies.tasks import StudyContext, run_tasks
from darkprep.studies.x_trans import x_trans

STUDIES: dict[str, Callable[[StudyOptions], Study]] = {
    "section-5": section_5,
    "section-7": section_7,
    "levels": levels,
    "x-trans": x_trans,
    "noise": noise,
    "targets": targets,
}
"""All studies by their names on the command line. Studies in one output directory share their tasks."""
OF_ONE_CAMERA = ("section-7", "targets")
"""The studies that can use the pairs of a table or a layout instead."""


def run_study(name: str, options: StudyOptions, context: StudyContext) -> Path:
    """Run or continue a study, and write its files; return the path of its page. Raises the errors of `run_tasks`."""
    make = study_named(name)
    if options.has_own_pairs and name not in OF_ONE_CAMERA:
        raise OptionError(
            f"the study {name} is about cameras of SID and ELD, so it cannot use --pairs or --layout; {' and '.join(OF_ONE_CAMERA)} can"
        )
    study = make(options)
    check_output_directory("out", context.out)
    run_tasks(study.tasks, context)
    return write_result(study.result(context), study.tasks, context)


def study_named(name: str) -> Callable[[StudyOptions], Study]:
    """Return the study with this name. Raises OptionError, which lists all names."""
    if name not in STUDIES:
        raise OptionError(f"no study {name!r}; the studies are {', '.join(STUDIES)}")
    return STUDIES[name]
