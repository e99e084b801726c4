"""Fuzz targets for every parser that reads from a disk.

Each target module has `PARTS` and `try_input(data)`: it turns any bytes into a file, opens that file as
darkprep does, and returns which part was tried and whether the input was accepted as valid. It raises only
when a promise is broken. `fuzz.run` drives the targets by coverage (atheris), the tests by a few hundred
fixed inputs. A part that accepts nothing is a failure too, since then the code behind its first check is
not tested. The trade-off: most inputs are edits of a good file, as random bytes fail at the first check.
"""
