"""Terminal output: live screen, status, and the format of numbers."""
