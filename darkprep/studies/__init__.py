"""Tables of trainings and evaluations, made by one command each: `darkprep study NAME`."""
