"""The command line: options to one call, and what came of it printed. The only importer of click."""
