"""The command line: each command turns its options into one call and prints the result. The only package that uses click."""
