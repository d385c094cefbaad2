"""pyproject.toml names every package of the distribution, and each one publishes its types."""

import importlib
import tomllib

from tests.source_tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES = sorted(path.name for path in (ROOT / "services").glob("prfaas_*"))


def test_the_wheel_has_every_service_and_what_they_share_with_their_types() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted([f"services/{name}" for name in SERVICES] + ["shared/prfaas"])
    assert [package for package in packages if not (ROOT / package / "py.typed").is_file()] == []


def test_the_console_needs_no_build_step_its_files_lie_in_their_package() -> None:
    page = ROOT / "services" / "prfaas_gateway" / "console" / "page"
    assert {path.suffix for path in page.iterdir()} == {".html", ".css", ".js", ".svg"}


def test_every_service_has_a_console_script_that_exists() -> None:
    scripts = PROJECT["project"]["scripts"]
    assert set(scripts) == {"prfaas"} | {name.replace("_", "-") for name in SERVICES}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), target


def test_the_licence_that_is_named_lies_beside() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    (file,) = PROJECT["project"]["license-files"]
    text = (ROOT / file).read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_linters_know_every_package_as_our_own() -> None:
    known = set(PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"])
    assert known >= {*SERVICES, "prfaas", "infra", "load", "examples", "tests"}
