import socket

import pytest

from prfaas_bandwidth_probe.retransmits import RetransmitShare, Segments, segments_to


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_tells_of_connections_that_belong_to_whomever(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert segments_to([(host, port)]) == {}
        with socket.create_connection((host, port)) as near, listener.accept()[0] as far:
            near.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(far.recv(left))
            found = segments_to([(host, port), (host, 1)])
            assert list(found) == [(host, port, near.getsockname()[1])], "not the other end, which has this port as its own"
            (segments,) = found.values()
            assert segments.sent >= 1 and segments.retransmitted >= 0


KEY, OTHER = ("10.0.0.1", 7422, 5000), ("10.0.0.1", 7422, 5001)


def test_the_share_is_of_what_was_sent_meanwhile_over_all_connections() -> None:
    share = RetransmitShare()
    assert share.share is None
    share.observe({KEY: Segments(1_000_000, 500_000)})
    assert share.share is None, "what was before says nothing about now"
    share.observe({KEY: Segments(1_000_900, 500_009), OTHER: Segments(100, 1)})
    assert share.share == pytest.approx(0.01)
    share.observe({KEY: Segments(1_000_900, 500_009), OTHER: Segments(100, 1)})
    assert share.share == pytest.approx(0.01), "silence changes nothing"


def test_a_connection_that_came_back_on_the_same_port_begins_anew() -> None:
    share = RetransmitShare()
    share.observe({KEY: Segments(1000, 100)})
    share.observe({KEY: Segments(200, 2)})
    assert share.share == pytest.approx(0.01)
    share.observe({})
    share.observe({KEY: Segments(300, 300)})
    assert share.share == pytest.approx(0.01), "after a silence it is not known since when"
