from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Nothing here fails for being slow: a busy machine is not a defect.
_ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: what the suite says depends on the code alone. `make fuzz` looks for new ones.
settings.register_profile("same", _ANYWHERE, derandomize=True, database=None)
settings.register_profile("few", _ANYWHERE, derandomize=True, database=None, max_examples=20)
settings.register_profile("new", _ANYWHERE, print_blob=True)
settings.load_profile("same")

# The usual formatter shows all local variables of a traceback: seconds for each error that a test provokes.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])

_REAL_MODEL = "files"
"""The fixture that prepares real weights: tests of the engine that use it are slow, whatever they do with them."""
_MARKS = {
    "tests/e2e": pytest.mark.e2e,
    "tests/load/simulate": pytest.mark.slow,
    # They import transformers, which alone takes seconds.
    "tests/engine/test_attention.py": pytest.mark.slow,
    "tests/engine/test_contract_torch.py": pytest.mark.slow,
    "tests/engine/test_decode.py": pytest.mark.slow,
    "tests/engine/test_model_directory.py": pytest.mark.slow,
    "tests/engine/test_own_models.py": pytest.mark.slow,
    "tests/engine/test_prefill.py": pytest.mark.slow,
    "tests/engine/test_prefix.py": pytest.mark.slow,
    "tests/engine/test_refused_models.py": pytest.mark.slow,
    # A real browser, and links that take their time.
    "tests/gateway/console/test_browser.py": pytest.mark.slow,
    "tests/transfer/test_two_sites.py": pytest.mark.slow,
}
"""Folder or file -> mark of everything in it."""


_ONLY_ASKED = {"tests/containers/live": "containers"}
"""Folder -> mark. Its tests need a machine that was prepared for them: only a run that asks for the mark collects them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what a folder or a fixture decides; other slow files and tests carry the mark themselves."""
    for item in items:
        for path, mark in _MARKS.items():
            if item.path.is_relative_to(config.rootpath / path):
                item.add_marker(mark)
        if _REAL_MODEL in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves a folder or file unread whose mark the run leaves out: importing it may take longer than fast tests do."""
    for path, mark in _MARKS.items():
        if collection_path.is_relative_to(config.rootpath / path) and f"not {mark.name}" in config.getoption("markexpr"):
            return True
    asked = config.getoption("markexpr")
    for path, name in _ONLY_ASKED.items():
        if collection_path.is_relative_to(config.rootpath / path) and name not in asked:
            return True
    return None
