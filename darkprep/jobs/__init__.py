"""The work of the commands, for callers without a command line: build, train, evaluate, restore, advise, demo."""
