"""One deterministic world of the real cores: a seed decides delays, losses, restarts and stops, and invariants judge each run."""
