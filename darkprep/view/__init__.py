"""What a terminal shows: the live screen, status, and how numbers are written."""
