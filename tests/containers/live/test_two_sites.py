"""Two sites in containers: their work, walls and faults. Tests share the containers and leave them as they found them."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from infra.containers.podman import ContainersError, Podman
from infra.containers.running import status_of, wait_for
from tests.containers.live.running_sites import CONTAINER_USER_ID, READY_DEADLINE_S, Sites, running_sites
from tests.source_tree import ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]

LINK = "far-home"
"""Network in which the two servers meet."""
STREAMED_TOKENS = 40
RESUME_DEADLINE_S = 30.0
"""Bound of the time in which offloading resumes. A half-open leaf connection is noticed within 15 s, dialled again within one
more; then heartbeats and the first estimate take about 4 s. With nats-server's own settings it would take minutes."""
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"


@pytest.fixture(scope="module")
def sites(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with running_sites(podman, ROOT / "examples/containers.toml", tmp_path_factory.mktemp("sites")) as running:
        yield running


def test_a_long_prompt_is_prefilled_in_the_far_site_and_answered_at_home(sites: Sites) -> None:
    (answer,) = sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S)[-1:]
    assert (answer.status, answer.prefill_site) == (200, "far")


def test_the_far_worker_reaches_its_own_server_and_nothing_else(sites: Sites) -> None:
    worker = "far-prefill-worker"
    sites.containers.execute(worker, "python", "-c", _CONNECT, "nats", "4222")
    home = sites.containers.addresses("home-place")
    unreachable = [
        *((name, port) for name in ("gateway", "home-gateway", "decode-worker") for port in ("8000",)),
        *((name, port) for name in ("home-nats", "home-place") for port in ("4222", "7422", "8222")),
        (sites.containers.addresses("home-gateway")["home"], "8000"),
        *((address, port) for address in home.values() for port in ("4222", "7422")),
    ]
    for host, port in unreachable:
        with pytest.raises(ContainersError, match=r"gaierror|TimeoutError|OSError|unreachable"):
            sites.containers.execute(worker, "python", "-c", _CONNECT, host, port)


def test_of_a_site_nothing_but_the_leaf_port_is_open_to_the_other_one(sites: Sites) -> None:
    ports = (4222, 6222, 7422, 8000, 8222)
    home, far = (sites.containers.addresses(f"{site}-place")[LINK] for site in ("home", "far"))
    assert sites.containers.open_ports("far-place", home, ports) == [7422]
    assert sites.containers.open_ports("home-place", far, ports) == []


def test_no_container_may_do_more_than_it_needs(sites: Sites) -> None:
    names = sites.containers.names()
    assert len(names) == 12
    for name in names:
        for pid in sites.containers.programs(name):
            status = status_of(pid)
            assert status["Uid"].split() == [str(CONTAINER_USER_ID)] * 4, name
            assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0), name
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), name
        pid = sites.containers.pid(name)
        root = next(line for line in Path(f"/proc/{pid}/mounts").read_text().splitlines() if line.split()[1] == "/")
        assert "ro" in root.split()[3].split(","), f"{name}: {root}"
        limits = sites.containers.limits(name)
        assert 0 < limits["memory_bytes"] <= 4 << 30, name
        assert 0 < limits["pids"] <= 256, name


def test_images_hold_no_torch_where_none_is_needed(sites: Sites) -> None:
    told = sites.containers.execute(
        "home-gateway",
        "python",
        "-c",
        "import importlib.util as u; print([n for n in ('torch', 'transformers', 'pip') if u.find_spec(n)])",
    )
    assert told.strip() == "[]"


def test_health_checks_turn_when_a_server_hangs_and_when_it_goes_on(sites: Sites) -> None:
    containers = sites.containers
    watched = ("home-nats", "home-gateway", "home-bandwidth-probe", "home-prefill-worker", "home-decode-worker")
    for name in watched:
        wait_for(f"{name} is healthy", partial(containers.check_health, name), READY_DEADLINE_S)
    containers.pause("home-nats")
    try:
        assert not containers.check_health("home-nats")
        wait_for("the gateway is not healthy", lambda: not containers.check_health("home-gateway"), READY_DEADLINE_S)
    finally:
        containers.unpause("home-nats")
    for name in watched:
        wait_for(f"{name} is healthy again", partial(containers.check_health, name), READY_DEADLINE_S)
    sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S, always_answered=False)


def test_answers_stay_right_while_the_link_is_down_and_offloading_resumes(sites: Sites) -> None:
    sites.containers.cut("far-place", LINK)
    try:
        answers = sites.ask_until("local_no_remote", "local_link_scarce", timeout_s=READY_DEADLINE_S)
    finally:
        sites.containers.heal("far-place", LINK)
    assert "offloaded" not in [answer.outcome for answer in answers]
    sites.ask_until("offloaded", timeout_s=RESUME_DEADLINE_S)


def test_offloading_resumes_when_the_far_server_has_another_address(sites: Sites) -> None:
    before, after = sites.containers.change_address("far-place", LINK)
    assert before != after
    sites.ask_until("offloaded", timeout_s=RESUME_DEADLINE_S)


def test_a_gateway_that_is_told_to_stop_finishes_its_stream(sites: Sites) -> None:
    prompt = sites.prompt()
    body = sites.body(prompt, STREAMED_TOKENS) | {"stream": True}
    pieces: list[str] = []
    with (
        httpx.Client(timeout=120.0) as client,
        client.stream("POST", f"{sites.gateway_url()}/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200
        stopping: threading.Thread | None = None
        done = False
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                pieces += [choice["text"] for choice in httpx.Response(200, text=line[6:]).json()["choices"]]
                if stopping is None:
                    stopping = threading.Thread(target=sites.containers.stop, args=("home-gateway",))
                    stopping.start()
    assert done and stopping is not None
    assert "".join(pieces) == sites.right_answer(prompt, STREAMED_TOKENS)
    stopping.join()
    assert sites.containers.inspect("home-gateway")["State"]["ExitCode"] == 0
    sites.containers.start("home-gateway")
    sites.wait_offloading("home")


def test_a_far_worker_that_is_killed_costs_no_answer_and_comes_back(sites: Sites) -> None:
    before = sites.containers.started_at("far-prefill-worker")
    sites.containers.kill("far-prefill-worker")
    answers = [sites.ask() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    wait_for_restart(sites, "far-prefill-worker", before)
    sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S)


@pytest.mark.parametrize("site", ["far", "home"])
def test_a_killed_server_comes_back_and_the_site_s_processes_make_its_streams_again(sites: Sites, site: str) -> None:
    server, containers = f"{site}-nats", sites.containers
    # A home server that is away may cost requests, which then say so; a far one may not.
    answered = site == "far"
    sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S)
    streams, before = containers.streams(site), containers.started_at(server)
    restarts = {name: containers.started_at(name) for name in containers.names() if name != server}
    assert "DISPATCHED_" + site in {name for _, name in streams}
    containers.kill(server)
    during = sites.ask()
    assert during.status in ((200,) if answered else (200, 502, 503)), during
    wait_for_restart(sites, server, before)
    sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S, always_answered=answered)
    # All of them are in the server's memory, and it came back without one.
    made = wait_for(f"the streams of {site} are there again", lambda: containers.streams(site) >= streams, READY_DEADLINE_S)
    print(f"streams of {site} were complete {made:.1f} s after the first offloaded answer")
    assert {name: containers.started_at(name) for name in restarts} == restarts, "another process died with it"


def wait_for_restart(sites: Sites, name: str, started_at: str) -> None:
    wait_for(f"{name} is started again", lambda: sites.containers.started_at(name) != started_at, READY_DEADLINE_S)


# Last: the estimate of an idle link takes up to a minute to rise again, for which others would wait.
def test_a_slow_link_is_seen_by_the_probe_and_by_decisions(sites: Sites) -> None:
    def estimate_mbit() -> float:
        return 8e-6 * (sites.metric("far-bandwidth-probe", "prfaas_link_goodput_bytes_per_second") or 0.0)

    sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S)
    before = estimate_mbit()
    sites.containers.shape("far-place", LINK, rate_mbit=2)
    try:
        wait_for("an estimate below 3 Mbit/s", lambda: 0 < estimate_mbit() < 3, READY_DEADLINE_S, estimate_mbit)
        assert before > 3
        answers = sites.ask_until("local_link_scarce", timeout_s=READY_DEADLINE_S)
        print(f"estimate {before:.0f} Mbit/s before, {estimate_mbit():.2f} behind 2 Mbit/s; {answers[-1].reason}")
    finally:
        sites.containers.unshape("far-place", LINK)
