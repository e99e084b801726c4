"""What each command does: train, evaluate, restore, background producers, advise, demo."""
