"""Calls of functions in the text of an answer, one file per family of models."""
