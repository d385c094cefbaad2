"""Prefix blocks on disk: bounded, checked when they are read, and still there after a restart."""
