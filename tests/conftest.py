from hypothesis import HealthCheck, settings

# Nothing here fails for being slow: a busy machine is not a defect.
settings.register_profile("prfaas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prfaas")
