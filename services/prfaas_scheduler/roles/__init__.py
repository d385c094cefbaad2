"""Roles: which workers of a pd site prefill and which decode."""
