"""All studies by name, and the running of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from darkprep.jobs.output_directory import check_output_directory
from darkprep.shards import OptionError
from darkprep.studies.cross_camera import section_5
from darkprep.studies.levels import levels
from darkprep.studies.noise import noise
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.outcome import write_outcome
from darkprep.studies.variants import section_7
from darkprep.studies.work import Work, carry_out
from darkprep.studies.x_trans import x_trans

STUDIES: dict[str, Callable[[StudyOptions], Study]] = {
    "section-5": section_5,
    "section-7": section_7,
    "levels": levels,
    "x-trans": x_trans,
    "noise": noise,
}
"""By the names that the command line takes. What two of them have in common is trained once in a folder."""


def run_study(name: str, options: StudyOptions, work: Work) -> Path:
    """Carry out a study, or go on with it, and write its files; its page. Raises as `carry_out`."""
    study = study_named(name)(options)
    check_output_directory("out", work.out)
    carry_out(study.cells, work)
    return write_outcome(study.outcome(work), study.cells, work)


def study_named(name: str) -> Callable[[StudyOptions], Study]:
    """The study of that name; raises OptionError, which lists them all."""
    if name not in STUDIES:
        raise OptionError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]
