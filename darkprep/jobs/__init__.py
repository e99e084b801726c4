"""What the commands do, for callers without a command line: build, train, evaluate, restore, advise, demo."""
