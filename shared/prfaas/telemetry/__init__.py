"""Traces, metrics, logs, and the names they use."""
