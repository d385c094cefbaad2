"""The `prfaas` command: one module per sub-command."""


class UsageError(Exception):
    """What the user asked for cannot be done; the message is a sentence, and the exit status 2."""
