import pytest
from hypothesis import HealthCheck, settings

# Nothing here fails for being slow: a busy machine is not a defect.
_ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: what the suite says depends on the code alone. `make fuzz` looks for new ones.
settings.register_profile("same", _ANYWHERE, derandomize=True, database=None)
settings.register_profile("new", _ANYWHERE, print_blob=True)
settings.load_profile("same")

_REAL_MODEL = "files"
"""The fixture that prepares real weights: tests of the engine that use it are slow, whatever they do with them."""
_MARKS = {"tests/e2e": pytest.mark.e2e, "tests/load/simulate": pytest.mark.slow}
"""Folder -> mark of everything in it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what a folder or a fixture decides; other slow files and tests carry the mark themselves."""
    for item in items:
        for folder, mark in _MARKS.items():
            if item.path.is_relative_to(config.rootpath / folder):
                item.add_marker(mark)
        if _REAL_MODEL in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
