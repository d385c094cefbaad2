"""Cached prefixes that prefill workers send one another instead of computing them again."""
