"""Surroundings of the services that only a checkout has: the demo, observability, network paths made by the kernel."""
