"""Simulated time, processes that die and sleep, and messages between them."""

import random

import pytest

from load.worlds.clockwork import CancelledError, Clockwork, Future, Process
from load.worlds.network import Link, Network
from prfaas.bus.errors import BusTimeoutError, NoRespondersError


class Peer(Process):
    """A process that notes what it hears."""

    def __init__(self, clockwork: Clockwork, name: str, site: str) -> None:
        super().__init__(clockwork, name, site, monotonic_offset_s=7.0, wall_skew_s=0.0)
        self.heard: list[object] = []

    def hear(self, what: object) -> object:
        self.heard.append(what)
        return what


@pytest.fixture
def clockwork() -> Clockwork:
    def failed(process: Process, error: Exception) -> None:
        raise error

    return Clockwork(failed)


@pytest.fixture
def network(clockwork: Clockwork) -> Network:
    network = Network(clockwork, random.Random(1))
    network.links = {frozenset(("a", "b")): Link(0.02)}
    return network


def connected(network: Network, name: str, site: str) -> Peer:
    peer = Peer(network.clockwork, name, site)
    network.connect(peer, "i1")
    return peer


def test_what_is_due_runs_in_the_order_of_its_time(clockwork: Clockwork) -> None:
    ran: list[int] = []
    for at_s in (3, 1, 2):
        clockwork.call_at(at_s, None, ran.append, at_s)
    clockwork.run(2.5)
    assert ran == [1, 2] and clockwork.now_s == 2.5


def test_a_stopped_process_does_what_was_due_when_it_wakes_in_order(clockwork: Clockwork) -> None:
    peer = Peer(clockwork, "p", "a")
    peer.call_later(2.0, peer.hear, "second")
    peer.call_later(1.0, peer.hear, "first")
    peer.stop(3.0)
    clockwork.run(5.0)
    assert peer.heard == []
    peer.wake()
    clockwork.run(5.0)
    assert peer.heard == ["first", "second"]


def test_a_killed_process_does_nothing_any_more_and_its_coroutines_end(clockwork: Clockwork) -> None:
    peer = Peer(clockwork, "p", "a")
    ended: list[str] = []

    async def wait() -> None:
        try:
            await Future[None]()
        finally:
            ended.append("ended")

    peer.spawn(wait())
    clockwork.run(1.0)
    peer.call_later(1.0, peer.hear, "late")
    peer.kill()
    clockwork.run(5.0)
    assert peer.heard == [] and ended == ["ended"]


def test_a_cancelled_task_may_still_tidy_up(clockwork: Clockwork) -> None:
    peer = Peer(clockwork, "p", "a")

    async def wait() -> None:
        try:
            await peer.sleep(100.0)
        except CancelledError:
            await peer.sleep(1.0)
            peer.hear("tidied")
            raise

    task = peer.spawn(wait())
    clockwork.run(1.0)
    task.cancel()
    clockwork.run(1.5)
    assert (task.done, peer.heard) == (False, [])
    clockwork.run(3.0)
    assert (task.done, peer.heard) == (True, ["tidied"])


def test_messages_of_a_connection_keep_their_order(network: Network) -> None:
    source, target = connected(network, "s", "a"), connected(network, "t", "b")
    for number in range(200):
        network.tell(source, "t", "hear", number)
    network.clockwork.run(5.0)
    assert target.heard == list(range(200))


def test_what_a_broken_link_had_under_way_is_lost_and_what_is_sent_into_a_stalled_one_is_late(network: Network) -> None:
    source, target = connected(network, "s", "a"), connected(network, "t", "b")
    link = network.links[frozenset(("a", "b"))]
    network.tell(source, "t", "hear", "lost")
    link.connection += 1
    link.stalled_until_s = 3.0
    network.tell(source, "t", "hear", "late")
    network.clockwork.run(2.9)
    assert target.heard == []
    network.clockwork.run(4.0)
    assert target.heard == ["late"]


def test_a_process_without_its_connection_sends_when_it_has_one_again(network: Network) -> None:
    source, target = connected(network, "s", "a"), connected(network, "t", "a")
    source.connected, source.reconnects_at_s = False, 2.0
    network.tell(source, "t", "hear", "kept")
    network.clockwork.run(1.9)
    assert target.heard == []
    network.clockwork.run(3.0)
    assert target.heard == ["kept"]


def test_a_request_is_answered_or_ends_in_time(network: Network) -> None:
    source, target = connected(network, "s", "a"), connected(network, "t", "a")
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await network.ask(source, "t", "hear", 1, timeout_s=1.0))
        target.stop(60.0)
        with pytest.raises(BusTimeoutError):
            await network.ask(source, "t", "hear", 2, timeout_s=1.0)
        network.disconnect(target)
        with pytest.raises(NoRespondersError):
            await network.ask(source, "t", "hear", 3, timeout_s=1.0)
        answers.append("over")

    source.spawn(ask())
    network.clockwork.run(3.0)
    assert answers == [1, "over"]
