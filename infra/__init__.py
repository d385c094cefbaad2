"""Surroundings of the services: NATS servers and their configuration, WAN emulation, the local stack. Run from a checkout."""
