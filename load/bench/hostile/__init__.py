"""Harm that hostile clients of a gateway do to others."""
