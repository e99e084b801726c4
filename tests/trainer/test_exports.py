"""The package's public names exist; importing it loads nothing else."""

from __future__ import annotations

import subprocess
import sys

from darkprep import trainer


def test_all_listed_names_exist_once():
    assert all(hasattr(trainer, name) for name in trainer.__all__)
    assert len(set(trainer.__all__)) == len(trainer.__all__)


def test_importing_loads_no_producer_no_click_and_no_tensorboard():
    code = (
        "import sys, darkprep.trainer; print([m for m in sys.modules if m.split('.')[0] in "
        "('pipeline', 'rawpy', 'joblib', 'click', 'tensorboard', 'pynvml')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
