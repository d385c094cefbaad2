"""The rules of the tree: imports run downwards, never in a circle, and services share only shared/prfaas."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.source_tree import ROOT, import_graph, imported, modules, parsed

FLOORS: tuple[tuple[str, ...], ...] = (
    ("prfaas",),
    ("prfaas.contracts",),
    ("prfaas.kvcache", "prfaas.capacity", "prfaas.traces"),
    ("prfaas.telemetry", "prfaas.secrets"),
    ("prfaas.console", "prfaas.engine", "prfaas.link", "prfaas.planner", "prfaas.replay", "prfaas.sealing"),
    ("prfaas.bus",),
    ("prfaas.transfer", "prfaas.process"),
    ("prfaas.worker", "prfaas.site"),
    ("prfaas.wan",),
    ("prfaas.stack",),
    ("prfaas.cli",),
    ("prfaas_gateway", "prfaas_scheduler", "prfaas_prefill_worker", "prfaas_decode_worker", "prfaas_bandwidth_probe"),
    ("infra",),
    ("load", "load.traces"),
    ("load.simulate", "load.worlds"),
    ("load.chaos",),
    ("load.bench", "load.ecosystem", "load.paper", "load.screenshots"),
)
"""Rooms from the ground up. A room may import rooms of lower floors only, none of its own floor. docs/structure.md draws them."""
ROOMS = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    """The most deeply nested room that `module` lies in; KeyError for a module without one."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ROOMS and (name != "prfaas" or len(parts) == 1):
            return name
    raise KeyError(f"{module} lies in no room of FLOORS")


def circle_in(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle of imports, or an empty list."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def not_downward(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports between two rooms of which the imported one is not on a lower floor."""
    wrong = []
    for module, others in graph.items():
        for other in others:
            own, its = room_of(module), room_of(other)
            if own != its and ROOMS[own] <= ROOMS[its]:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return import_graph()


def test_every_module_lies_in_a_room_and_no_room_is_empty(graph: dict[str, set[str]]) -> None:
    assert {room_of(module) for module in graph} == set(ROOMS)


def test_no_file_imports_another_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 200
    assert circle_in(graph) == []


def test_no_room_imports_another_in_a_circle(graph: dict[str, set[str]]) -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        own = room_of(module)
        rooms.setdefault(own, set()).update({room_of(other) for other in others} - {own})
    assert circle_in(rooms) == []


def test_every_import_runs_downwards_and_so_services_never_import_one_another(graph: dict[str, set[str]]) -> None:
    assert not_downward(graph) == []


def test_a_circle_and_an_upward_import_would_be_found() -> None:
    assert set(circle_in({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})) == {"a", "b", "c"}
    for module, other in (
        ("prfaas.bus.jobs", "prfaas.transfer.frame"),
        ("prfaas.engine.factory", "prfaas.link.link"),
        ("prfaas_gateway.service", "prfaas_scheduler.config"),
        ("prfaas.worker.role_change", "prfaas_decode_worker.batch"),
        ("prfaas.process.runner", "prfaas.stack.launch"),
    ):
        assert not_downward({module: [other]}) == [f"{module} imports {other}"]
    assert not_downward({"prfaas.transfer.sender": ["prfaas.bus.jobs", "prfaas.transfer.frame"]}) == []


def test_no_module_imports_another_ones_private_name() -> None:
    known = modules()
    wrong = []
    for module, path in known.items():
        for other, name in imported(parsed((ROOT / path).read_text()), known):
            if name.startswith("_") and not name.startswith("__"):
                wrong.append(f"{module} imports {other}.{name}")
    assert wrong == []
