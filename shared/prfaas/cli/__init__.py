"""The `prfaas` command: one module per sub-command."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class UsageError(Exception):
    """Raised for what cannot be done as asked; the message is a sentence, and the exit status 2."""
