"""The Engine protocol and its implementations: they prefill and decode."""
