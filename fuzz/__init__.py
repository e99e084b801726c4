"""Inputs that nobody would make on purpose, for every parser of what lies on a disk.

Each module has `try_input(data)`: it makes a file out of any bytes, opens it as darkprep would, and raises
only when a promise is broken. `fuzz.run` drives them by coverage (atheris), the tests by a few hundred
fixed inputs. The trade-off: most inputs are edits of a good file, as random bytes fail at the first check.
"""
