"""Keys and certificates replaced at running servers: leaf connections and clients stay, or come back with the new key at once."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nkeys
import pytest

from prfaas.bus import connection
from prfaas.bus.bulk import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import NotConnectedError
from prfaas.bus.seed_file import SeedFile
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import JobSeals
from prfaas.sealing.keys import PrivateKey, read_keys
from prfaas.site.site_keys import next_file, old_file
from prfaas.site.sites import Description, Role, Service, Site, SiteKind
from prfaas.stack.rotation import Rotation, RotationError
from prfaas.stack.running_sites import RunningSites
from tests.sealing.jobs import JOB, SECRET

NEAR, FAR = "near", "far"
DEADLINE_S = 60.0


def service(name: str, role: Role, site: str) -> Service:
    return Service(site=site, role=role, name=name)


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[RunningSites]:
    description = Description(
        model="m",
        sites=(
            Site(name=NEAR, kind=SiteKind.PD, link_tls=True, client_tls=True, seals=(FAR,)),
            Site(name=FAR, kind=SiteKind.PRFAAS, dials=(NEAR,)),
        ),
        services=(service("d0", Role.DECODE_WORKER, NEAR), service("p0", Role.PREFILL_WORKER, FAR)),
    )
    async with RunningSites(description, tmp_path) as sites:
        yield sites


async def leafs(sites: RunningSites) -> list[object]:
    """Ids of all leaf connections: another one has another id."""
    pages = [await server.monitor("leafz") for server in sites.servers.values()]
    return sorted(leaf["id"] for page in pages for leaf in page["leafs"])


def certificate(sites: RunningSites) -> bytes:
    host, port = "127.0.0.1", sites.servers[NEAR].ports.client
    context = ssl.create_default_context(cafile=str(sites.keys[NEAR].certificate().ca_file))
    with socket.create_connection((host, port), DEADLINE_S) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        found = tls.getpeercert(binary_form=True)
    assert found
    return found


def seed_in(path: str) -> str:
    return Path(path).read_text()


async def test_certificates_are_renewed_without_a_cut(sites: RunningSites) -> None:
    bus = await ControlBus.connect(sites.endpoint(NEAR, "ctl"), "client")
    before, links = await asyncio.to_thread(certificate, sites), await leafs(sites)
    await Rotation(sites).certificates()
    assert await asyncio.to_thread(certificate, sites) != before
    assert await leafs(sites) == links
    assert bus.client.stats["reconnects"] == 0
    await bus.drain()


async def test_users_take_their_new_keys_and_the_old_ones_are_good_no_more(sites: RunningSites, tmp_path: Path) -> None:
    heard = asyncio.Event()
    (decode_worker,) = [each for each in sites.description.services if each.role is Role.DECODE_WORKER]
    endpoint = sites.service_endpoint(decode_worker, "ctl")
    bulk = sites.service_endpoint(decode_worker, "bulk")
    assert endpoint is not None and endpoint.nkey_seed_file is not None and bulk is not None
    old_seed = seed_in(endpoint.nkey_seed_file)
    bus = await ControlBus.connect(endpoint, "d0")
    lane = await BulkLane.connect(bulk, name="d0", timeout_s=DEADLINE_S)

    async def note(_message: object) -> None:
        heard.set()

    await bus.subscribe_raw("prfaas.near.decode.d0.generate", note)
    await Rotation(sites).user_keys(DEADLINE_S)
    assert seed_in(endpoint.nkey_seed_file) != old_seed
    assert (bus.client.stats["reconnects"], lane.reconnects) == (1, 1)
    operator = await ControlBus.connect(sites.endpoint(NEAR, "ctl"), "operator")
    async with asyncio.timeout(DEADLINE_S):
        while not heard.is_set():
            await operator.publish_raw("prfaas.near.decode.d0.generate", b"")
            await asyncio.sleep(0.05)
    stale = tmp_path / "stale.nk"
    stale.write_text(old_seed)
    with pytest.raises(NotConnectedError):
        await ControlBus.connect(msgspec.structs.replace(endpoint, nkey_seed_file=str(stale)), "stale")
    seeds = [seed for keys in sites.keys.values() for seed in keys.seed_files()]
    assert len(seeds) >= 8
    assert not [seed for seed in seeds if next_file(seed).exists() or old_file(seed).exists()]
    for each in (bus, operator):
        await each.drain()
    await lane.close()


@pytest.mark.slow
async def test_old_keys_stay_good_while_a_process_uses_one(sites: RunningSites) -> None:
    """A gateway with requests in flight, say: it takes the new key in the first moment without one."""
    bus = await ControlBus.connect(sites.endpoint(NEAR, "ctl"), "busy")
    busy = True
    bus.reconnect_when(lambda: not busy)
    with pytest.raises(RotationError, match="near/busy"):
        await Rotation(sites).user_keys(deadline_s=3.0)
    assert bus.connected and bus.client.stats["reconnects"] == 0
    busy = False
    async with asyncio.timeout(DEADLINE_S):
        while not bus.client.stats["reconnects"]:
            await asyncio.sleep(0.05)
    assert [seed for keys in sites.keys.values() for seed in keys.seed_files() if old_file(seed).exists()]
    await Rotation(sites).user_keys(DEADLINE_S)
    assert not [seed for keys in sites.keys.values() for seed in keys.seed_files() if old_file(seed).exists()]
    assert bus.client.stats["reconnects"] == 1, "the rotation was ended, and no other one begun"
    await bus.drain()


@pytest.mark.slow
async def test_a_process_that_is_never_idle_takes_its_new_key_all_the_same(
    sites: RunningSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "QUIET_WAIT_S", 3.0)
    bus = await ControlBus.connect(sites.endpoint(NEAR, "ctl"), "busy")
    bus.reconnect_when(lambda: False)
    await Rotation(sites).user_keys(DEADLINE_S)
    assert bus.client.stats["reconnects"] == 1
    await bus.drain()


async def test_sealing_keys_are_rotated_between_any_two_jobs(sites: RunningSites) -> None:
    ends = {}
    for each in sites.description.services:
        table = sites.service_config(each)["sealing"]
        ends[each.site] = JobSeals(SealingConfig(private_key_file=table["private-key-file"], peers=table["peers"]))
    before = read_keys(sites.sealing_keys[FAR].private_file, PrivateKey.parse)
    rotating = asyncio.create_task(Rotation(sites).sealing_keys(sealed_jobs_s=0.2))
    job = msgspec.structs.replace(JOB, decode_site=NEAR)
    while True:
        done = rotating.done()
        assert ends[FAR].open(ends[NEAR].seal(FAR, job, SECRET)).kv_secret == SECRET
        if done:
            break
        await asyncio.sleep(0.01)
    await rotating
    after = read_keys(sites.sealing_keys[FAR].private_file, PrivateKey.parse)
    assert len(after) == 1 and after[0].key_id != before[0].key_id


def test_a_seed_file_that_is_broken_leaves_the_seed_that_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    seeds = [nkeys.encode_seed(bytes([number] * 32), nkeys.PREFIX_BYTE_USER).decode() for number in range(2)]
    path.write_text(seeds[0])
    file = SeedFile(str(path))
    assert not file.changed() and file.take() == seeds[0]
    for broken in ("", "nonsense"):
        path.write_text(broken)
        assert not file.changed() and file.take() == seeds[0]
    path.write_text(seeds[1] + "\n")
    assert file.changed() and file.take() == seeds[1] and not file.changed()
    path.unlink()
    assert not file.changed()
    assert SeedFile(None).take() is None and not SeedFile(None).changed()
