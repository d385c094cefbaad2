"""Pictures for the documentation, of a running stack."""
