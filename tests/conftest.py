"""What all tests share: OpenMP threads that sleep while they wait.

torch reads the variable when it is first imported. Without it a test that trains takes many times as
long beside any other busy process.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
