"""darkprep: RAW low-light pairs streamed to a trainer under a disk budget. This package is the command line alone."""
