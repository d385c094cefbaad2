"""Secrets: files that only their owner may read, API keys and the tenants that have them."""
