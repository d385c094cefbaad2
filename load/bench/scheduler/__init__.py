"""Bench of the scheduler: decisions per second and their latency."""
