"""One module for each `make bench-...`."""
