from hypothesis import HealthCheck, settings

# Nothing here fails for being slow: a busy machine is not a defect.
_ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: what the suite says depends on the code alone. `make fuzz` looks for new ones.
settings.register_profile("same", _ANYWHERE, derandomize=True, database=None)
settings.register_profile("new", _ANYWHERE, print_blob=True)
settings.load_profile("same")
