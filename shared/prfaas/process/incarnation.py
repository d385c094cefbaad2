"""Identities of processes. A process that is started again under its old name is another one, and knows nothing of its work."""

import secrets


def new_incarnation() -> str:
    """Returns a name that no other process has had."""
    return secrets.token_hex(8)
