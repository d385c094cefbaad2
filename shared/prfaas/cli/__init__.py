"""The `prfaas` command: one module per sub-command."""


class UsageError(Exception):
    """Raised for what cannot be done as asked; the message is a sentence, and the exit status 2."""
