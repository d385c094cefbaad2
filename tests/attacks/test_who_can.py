"""Every act with every key, at real servers: what gets through is what the table of docs/security.md says, and no more."""

from pathlib import Path

import nats
import pytest
import pytest_asyncio

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.stack.running_sites import RunningSites
from tests.attacks.three_sites import ACTORS, FAR, HOME, OTHER
from tests.attacks.who_can import HEARD, SAID, Can, everything, markdown
from tests.stack.plain_client import connect

PAGE = Path(__file__).parents[2] / "docs/security.md"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def can(sites: RunningSites) -> Can:
    return await everything(sites)


def acts_of(can: Can, actor: str, receiver: str) -> set[str]:
    return {act.what for act in (*SAID, *HEARD) if act.receiver == receiver and can[act.what, actor]}


async def test_a_prefill_site_says_in_a_pd_site_what_it_was_given_and_hears_nothing(can: Can) -> None:
    assert acts_of(can, f"all of {FAR}", HOME) == {
        "report progress as remote p0",
        "tell d0 what became of a job, as the scheduler of remote",
        "announce remote p0",
        "announce the cache of remote p0",
        "announce the link from remote",
        "announce the queue of remote",
        "answer a local process as remote",
        "write KV made in remote",
        "write a prefix that local pulls from remote",
        "send a train as remote",
    }


async def test_a_pd_site_reaches_its_own_jobs_in_a_prefill_site_and_nothing_of_another_pd_site(can: Can) -> None:
    assert acts_of(can, f"all of {OTHER}", FAR) == {
        "queue a job of east in remote",
        "cancel prefills of remote for east",
        "answer a process of remote as east",
    }
    assert acts_of(can, f"all of {OTHER}", HOME) == set(), "two pd sites that share a prefill site are not joined"


@pytest.mark.parametrize(
    "what", [act.what for act in HEARD if act.what.startswith(("hear prompts", "hear jobs", "hear KV", "hear prefixes"))]
)
async def test_prompts_and_kv_are_heard_by_their_receiver_only(can: Can, what: str) -> None:
    hearing = {actor.name for actor in ACTORS if can[what, actor.name]}
    assert hearing <= {f"{HOME} d0"}


async def test_only_the_decode_worker_sends_its_tokens(can: Can) -> None:
    assert [actor.name for actor in ACTORS if can["send tokens as d0", actor.name]] == [f"{HOME} d0"]
    assert not any(can["send tokens as another decode worker", actor.name] for actor in ACTORS)


async def test_each_act_works_for_somebody_or_is_one_that_nobody_may_do(can: Can) -> None:
    """A table of refusals would also come out of servers on which nothing works."""
    vain = {act.what for act in (*SAID, *HEARD) if not any(can[act.what, actor.name] for actor in ACTORS)}
    assert vain == {
        "send tokens as another decode worker",
        "report progress as another worker of remote",
        "say that another worker of local is ready",
        "announce another worker of remote",
        "announce a decode worker of remote",
        "announce the link from east",
        "announce the queue of east",
        "put KV made in remote into an inbox of d0",
        "write KV made in east",
        "hear jobs of local in local",
        "hear jobs that are dispatched to p0",
        "hear KV made in local",
        "hear KV made in remote",
        "ask local p0 for a prefix, as remote",
        "hear prefixes that are pulled within local",
    }


async def test_the_page_has_the_table(can: Can) -> None:
    rows = PAGE.read_text().splitlines()
    assert [row for row in markdown(can).splitlines() if row not in rows] == [], "`python -m tests.attacks.who_can` prints it"


async def test_nothing_gets_in_without_a_key_and_no_leaf_key_is_a_clients(sites: RunningSites) -> None:
    for site in (HOME, FAR):
        url = sites.servers[site].client_url
        leafs = [str(sites.keys[FAR].leaf(account, HOME).seed_file) for account in ("ctl", "bulk")]
        for seed in (None, *leafs):
            with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
                await connect(NatsEndpoint(url=url, nkey_seed_file=seed))
