"""One link as its sender sees it: turns, estimate, window, budget."""
