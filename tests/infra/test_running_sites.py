"""Two sites as the description makes them: what crosses the link, on which connection, and what may not."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NoStreamResponseError

from infra.nats_server import NatsServer
from infra.running_sites import RunningSites
from infra.sites import load_description
from infra.wan import LinkChange, LinkState
from prfaas.bus.endpoint import NatsEndpoint

DEADLINE_S = 10.0


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[RunningSites]:
    async with RunningSites(load_description(), tmp_path) as running:
        yield running


async def client(endpoint: NatsEndpoint) -> Client:
    seed = None if endpoint.nkey_seed_file is None else await asyncio.to_thread(Path(endpoint.nkey_seed_file).read_text)
    connection = Client()
    try:
        await connection.connect(endpoint.url, nkeys_seed_str=seed, allow_reconnect=False, error_cb=_ignore)
    except nats.errors.Error:
        await connection.close()
        raise
    return connection


async def _ignore(_error: Exception) -> None:
    pass


async def test_control_and_bulk_cross_on_leaf_connections_of_their_own(sites: RunningSites) -> None:
    leafs = (await sites.servers["local"].monitor("leafz"))["leafs"]
    assert sorted(leaf["account"] for leaf in leafs) == ["BULK", "CTL"]
    assert len({leaf["port"] for leaf in leafs}) == 2, "two TCP connections"
    assert {leaf["compression"] for leaf in leafs} == {"off"}
    assert sites.servers["remote"].ports.leaf == 0, "nobody dials in to a site that only prefills"


async def test_each_site_has_a_domain_of_its_own(sites: RunningSites) -> None:
    for name, other in (("local", "remote"), ("remote", "local")):
        connection = await client(sites.endpoint(name, "ctl"))
        stream = await connection.jetstream().add_stream(name="S", subjects=[f"prfaas.{name}.x"])
        assert stream.cluster is None
        with pytest.raises(NoStreamResponseError):
            await connection.jetstream().publish(f"prfaas.{other}.y", b"", timeout=0.5)
        await connection.close()


async def test_memory_storage_is_for_bulk_only(sites: RunningSites) -> None:
    for account, allowed in (("ctl", False), ("bulk", True)):
        connection = await client(sites.endpoint("local", account))
        made = connection.jetstream().add_stream(name="S", subjects=["prfaas.local.x"], storage="memory", max_bytes=1 << 20)
        if allowed:
            await made
        else:
            with pytest.raises(nats.js.errors.Error, match=r"insufficient|exceeded|storage"):
                await made
        await connection.close()


async def crossed(sites: RunningSites, account: str, sender: str, receiver: str, subject: str, marker: str) -> bool:
    """Does a message cross? Markers, which may, follow it: when they arrived and it did not, it never will."""
    there, here = await client(sites.endpoint(receiver, account)), await client(sites.endpoint(sender, account))
    got = asyncio.Event()
    marker = f"prfaas.{receiver}.marker.{marker}"

    async def note(_message: Msg) -> None:
        got.set()

    async def echo(message: Msg) -> None:
        await message.respond(b"")

    await there.subscribe(subject, cb=note)
    await there.subscribe(marker, cb=echo)
    await there.flush()
    markers = 0
    async with asyncio.timeout(DEADLINE_S):
        while markers < 10 and not got.is_set():  # interest takes half an RTT to cross, and more when the server is busy
            await here.publish(subject)
            try:
                await here.request(marker, timeout=1.0)
                markers += 1
            except nats.errors.NoRespondersError:
                continue
    await there.close()
    await here.close()
    return got.is_set()


async def test_only_subjects_of_the_receiving_site_cross(sites: RunningSites) -> None:
    cases = [
        ("ctl", "remote", "local", "prfaas.local.decode.d1.prefill", True),
        ("ctl", "local", "remote", "jobs.remote.prefill.m", True),
        ("bulk", "remote", "local", "$O.kv-local.C.nuid", True),
        ("ctl", "remote", "local", "anything.else", False),
        ("ctl", "remote", "local", "$KV.workers-local.remote.prefill.w1", False),  # between domains: $JS.local.API.$KV...
        ("ctl", "local", "remote", "jobs.local.prefill.m", False),
        ("bulk", "remote", "local", "jobs.local.prefill.m", False),
        ("bulk", "local", "remote", "$O.kv-local.C.other", False),
    ]
    seen = await asyncio.gather(*(crossed(sites, *case[:4], marker=f"{at}") for at, case in enumerate(cases)))
    assert seen == [case[4] for case in cases]


async def test_accounts_do_not_hear_one_another(sites: RunningSites) -> None:
    control, bulk = await client(sites.endpoint("local", "ctl")), await client(sites.endpoint("local", "bulk"))
    subscription = await control.subscribe("prfaas.local.x")
    await control.flush()
    await bulk.publish("prfaas.local.x", b"from bulk")
    await bulk.flush()
    await control.publish("prfaas.local.x", b"from control")
    assert (await subscription.next_msg(DEADLINE_S)).data == b"from control"
    await control.close()
    await bulk.close()


async def test_only_a_key_gets_in_and_a_leaf_key_is_for_leafs(sites: RunningSites) -> None:
    url = sites.servers["local"].client_url
    leaf_seed = str(sites.keys["remote"].leaf("ctl", "local").seed_file)
    for endpoint in (NatsEndpoint(url=url), NatsEndpoint(url=url, nkey_seed_file=leaf_seed)):
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await client(endpoint)


async def test_secrets_are_for_the_owner_only(sites: RunningSites) -> None:
    secret = [*sites.directory.glob("*/keys/*.nk"), *sites.directory.glob("*/server.conf")]
    assert len(secret) == 3 + 3 + 2 + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


async def test_sites_find_each_other_again(sites: RunningSites) -> None:
    async def killed(server: NatsServer) -> None:
        server.kill()
        await server.restart()

    link = sites.links["remote", "local"]
    await link.change(LinkChange(state=LinkState.CUT))
    await sites.servers["local"].wait_for_leafs(0)
    await link.change(LinkChange(state=LinkState.UP))
    await sites.wait_joined()
    assert (await link.change(LinkChange())).connections == 4, "both leaf connections are back, and through the link"
    for name in ("local", "remote"):
        await killed(sites.servers[name])
        await sites.wait_joined()


async def test_a_bucket_of_another_site_is_written_by_the_name_of_its_domain(sites: RunningSites) -> None:
    local, remote = await client(sites.endpoint("local", "ctl")), await client(sites.endpoint("remote", "ctl"))
    bucket = await local.jetstream().create_key_value(bucket="workers-local")
    for connection, value in ((remote, b"from remote"), (local, b"from local")):
        await connection.request("$JS.local.API.$KV.workers-local.w1", value, timeout=DEADLINE_S)
        assert (await bucket.get("w1")).value == value
    await local.close()
    await remote.close()
