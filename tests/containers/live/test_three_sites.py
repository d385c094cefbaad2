"""Two pd sites in containers that share a prefill site: both under load, and one that leaves and comes back."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from infra.containers.podman import Podman
from infra.containers.running import wait_for
from tests.containers.live.running_sites import READY_DEADLINE_S, Answer, Sites, running_sites
from tests.source_tree import ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]

EAST, WEST, FAR = "east", "west", "far"
LANES = 3
"""Requests of each pd site that are under way at any moment."""


@pytest.fixture(scope="module")
def sites(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with running_sites(podman, ROOT / "examples/three_sites.toml", tmp_path_factory.mktemp("sites")) as running:
        yield running


class Load:
    """Requests that are kept under way in the background, until `stop`."""

    def __init__(self, sites: Sites, pd_sites: Sequence[str]) -> None:
        self.answers: list[Answer] = []
        self._stopped = False
        self._pool = ThreadPoolExecutor(LANES * len(pd_sites))
        lanes = [(sites.gateway_url(site), site) for site in [*pd_sites] * LANES]
        self._lanes = [self._pool.submit(self._keep_asking, sites, *lane) for lane in lanes]

    def _keep_asking(self, sites: Sites, url: str, site: str) -> None:
        while not self._stopped:
            self.answers.append(sites.ask_at(url, site))

    def wait_for(self, more: int) -> None:
        """Returns when `more` answers have come from now on, or at once when a lane has failed: `stop` tells."""
        wanted = len(self.answers) + more
        wait_for(
            f"{more} more answers have come",
            lambda: len(self.answers) >= wanted or any(lane.done() for lane in self._lanes),
            READY_DEADLINE_S,
        )

    def stop(self) -> list[Answer]:
        """Returns all answers, in the order in which they came. Raises what a lane raised."""
        self._stopped = True
        self._pool.shutdown()
        for lane in self._lanes:
            lane.result()
        return self.answers


def test_two_pd_sites_under_the_same_load_share_the_far_site(sites: Sites) -> None:
    load = Load(sites, [EAST, WEST])
    load.wait_for(30)
    answers = load.stop()
    assert {(answer.status, answer.outcome, answer.prefill_site) for answer in answers} == {(200, "offloaded", FAR)}
    shares = Counter(answer.site for answer in answers)
    print(f"of {len(answers)} prompts {dict(shares)} were prefilled in the far site")
    assert min(shares[EAST], shares[WEST]) >= len(answers) / 4, shares


def test_one_pd_site_leaves_and_comes_back_and_the_others_do_not_notice(sites: Sites) -> None:
    containers, west_url = sites.containers, sites.gateway_url(WEST)
    others = {name: containers.started_at(name) for name in containers.names() if not name.startswith(f"{WEST}-")}
    load = Load(sites, [EAST])
    load.wait_for(LANES)
    with ThreadPoolExecutor(LANES) as pool:
        doomed = [pool.submit(sites.ask_at, west_url, WEST) for _ in range(LANES)]
        containers.take_down(WEST)
        ended = [each.exception() for each in doomed]
    # What was under way there ends in an error, unless it was answered before. No other exception is one of the network.
    assert all(error is None or isinstance(error, httpx.TransportError) for error in ended), ended
    load.wait_for(3 * LANES)
    containers.bring_back(WEST)
    sites.wait_offloading(WEST)
    load.wait_for(LANES)
    answers = load.stop()
    assert {(answer.status, answer.outcome, answer.prefill_site) for answer in answers} == {(200, "offloaded", FAR)}
    assert {name: containers.started_at(name) for name in others} == others
