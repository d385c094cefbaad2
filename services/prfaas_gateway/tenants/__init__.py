"""Tenants: who asks, and what each may use."""
