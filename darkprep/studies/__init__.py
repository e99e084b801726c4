"""Studies: tables of several trainings and evaluations, each made by one command: `darkprep study NAME`."""
