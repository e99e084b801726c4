"""The command line: each command turns its options into one call and prints the result. Only this package uses click."""
