"""`python -m darkprep` is `darkprep`; background producers start this way."""

from darkprep.cli import main

if __name__ == "__main__":
    main()
