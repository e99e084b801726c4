"""Studies: tables of several training runs and evaluations, each made by one command: `darkprep study NAME`."""
