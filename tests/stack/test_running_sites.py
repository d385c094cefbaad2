"""Two sites as the description makes them: what crosses the link, on which connection, and what may not."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js.errors import NoStreamResponseError

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.secrets.secret_files import readable_by_others
from prfaas.site.permissions import service_permissions
from prfaas.site.sites import Description, Server, Site, SiteKind, load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.nats_server import NatsServer
from prfaas.stack.running_sites import RunningSites
from prfaas.wan import LinkChange, LinkState
from tests.stack.plain_client import connect

DEADLINE_S = 60.0
PROGRESS = subjects.progress_from(subjects.prefill_progress("local", "decode-worker"), "remote", "prefill-worker")
TLS_ALERT = bytes.fromhex("15030100020246")
"""Fatal, protocol version: what came is no handshake."""


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[RunningSites]:
    async with RunningSites(load_description(DEMO), tmp_path) as running:
        yield running


async def test_control_and_bulk_cross_on_leaf_connections_of_their_own(sites: RunningSites) -> None:
    leafs = (await sites.servers["local"].monitor("leafz"))["leafs"]
    assert sorted(leaf["account"] for leaf in leafs) == ["BULK_remote", "CTL_remote"]
    assert len({leaf["port"] for leaf in leafs}) == 2, "two TCP connections"
    assert {leaf["compression"] for leaf in leafs} == {"off"}
    assert sites.servers["remote"].ports.leaf == 0, "nobody dials in to a site that only prefills"


async def test_a_cluster_counts_as_started_when_all_its_servers_belong_to_it(tmp_path: Path) -> None:
    cluster = Description(model="m", sites=(Site(name="home", kind=SiteKind.PD, servers=(Server(),) * 3),))
    async with RunningSites(cluster, tmp_path) as sites:
        for server in sites.servers.values():
            meta = (await server.monitor("jsz"))["meta_cluster"]
            assert meta["cluster_size"] == 3, "a cluster of two dies with one of them"
            assert (await server.monitor("healthz"))["status"] == "ok"


async def test_each_site_has_a_domain_of_its_own(sites: RunningSites) -> None:
    for name, other in (("local", "remote"), ("remote", "local")):
        connection = await connect(sites.endpoint(name, "ctl"))
        stream = await connection.jetstream().add_stream(name="S", subjects=[f"prfaas.{name}.x"])
        assert stream.cluster is None
        with pytest.raises(NoStreamResponseError):
            await connection.jetstream().publish(f"prfaas.{other}.y", b"", timeout=0.5)
        await connection.close()


async def test_the_control_account_has_memory_for_heartbeats_only(sites: RunningSites) -> None:
    for account, max_bytes, allowed in (("ctl", 1 << 20, True), ("ctl", 1 << 30, False), ("bulk", 1 << 30, True)):
        connection = await connect(sites.endpoint("local", account))
        jetstream = connection.jetstream()
        made = jetstream.add_stream(name="S", subjects=["prfaas.local.x"], storage="memory", max_bytes=max_bytes)
        if allowed:
            await made
            await jetstream.delete_stream("S")
        else:
            with pytest.raises(nats.js.errors.Error, match=r"insufficient|exceeded|storage"):
                await made
        await connection.close()


async def test_accounts_do_not_hear_one_another(sites: RunningSites) -> None:
    control, bulk = await connect(sites.endpoint("local", "ctl")), await connect(sites.endpoint("local", "bulk"))
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
            await connect(endpoint)


async def test_secrets_are_for_the_owner_only(sites: RunningSites) -> None:
    secret = [*sites.directory.glob("*/keys/*.nk"), *sites.directory.glob("*/server.conf")]
    keys_of_services = sum(len(service_permissions(sites.description, each)) for each in sites.description.services)
    assert len(secret) == 3 + 3 + keys_of_services + 2 + 2, "operators, services, leaf connections, servers"
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert list(readable_by_others(sites.directory)) == []


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


async def test_links_are_encrypted_by_choice_and_both_ends_show_a_certificate(tmp_path: Path) -> None:
    description = load_description(DEMO)
    encrypted = msgspec.structs.replace(
        description, sites=tuple(msgspec.structs.replace(site, link_tls=True, client_tls=True) for site in description.sites)
    )
    async with RunningSites(encrypted, tmp_path) as sites:
        leafs = (await sites.servers["local"].monitor("leafz"))["leafs"]
        assert len(leafs) == 2
        assert await cipher(sites, authority=None) is None, "a client that trusts somebody else does not get in"
        endpoint = sites.endpoint("local", "ctl")
        assert endpoint.url.startswith("tls://")
        version = await cipher(sites, authority=endpoint.tls_ca_file)
        assert version == "TLSv1.3"
        local, remote = [await ControlBus.connect(sites.endpoint(site, "ctl"), "test") for site in ("local", "remote")]
        heard = asyncio.Event()
        await local.subscribe_raw(PROGRESS, lambda message: heard.set())
        async with asyncio.timeout(DEADLINE_S):
            while not heard.is_set():
                await remote.publish_raw(PROGRESS, b"")
                await asyncio.sleep(0.02)
        await local.drain()
        await remote.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", sites.servers["local"].ports.leaf)
        writer.write(b"CONNECT {}\r\nPING\r\n")
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) in (b"", TLS_ALERT), "not a word in clear text"
        writer.close()


async def cipher(sites: RunningSites, authority: str | None) -> str | None:
    """Version of TLS that a client gets from the server; None when it is not the server that it trusts."""
    context = ssl.create_default_context(cafile=authority)
    try:
        port = sites.servers["local"].ports.client
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except ssl.SSLError:
        return None
    version: str = writer.get_extra_info("ssl_object").version()
    writer.close()
    return version
