"""Importing the package and its loop loads no producer, no command line and no optional library."""

from __future__ import annotations

import subprocess
import sys


def test_importing_loads_no_producer_no_click_and_no_tensorboard():
    code = (
        "import sys, darkprep.trainer.loop; print([m for m in sys.modules if m.split('.')[0] in "
        "('rawpy', 'joblib', 'click', 'tensorboard', 'pynvml') or m.startswith('darkprep.pipeline')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
