#!/usr/bin/env bash
# All checks and benchmarks that need a GPU, in at most eight minutes, without a network: see gpu_run.py.
#
#     bash bench/gpu.sh DIR [--cpu] [--seconds N] [--only SECTION,...]
#
# It needs torch with CUDA and darkprep's other requirements; docs/benchmarks.md describes how to bring those
# to a machine without a network. darkprep itself need not be installed: this tree is used.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" "$root/bench/gpu_run.py" "$@"
