"""The console over HTTP: who gets in, what is told, and that it costs requests nothing."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from prfaas.console.changes import Encoded, FollowedState
from prfaas.console.schema import SOLE, GatewayItem, LinkItem, RequestItem, SchedulerItem, SiteItem, SlotItem, WorkerItem
from prfaas.contracts.to_decode import Generate
from prfaas.secrets.api_keys import parse_key
from prfaas.secrets.tenants_file import Limits, revoke_key
from prfaas_gateway.console.console_core import ConsoleCore
from tests.gateway.conftest import Edge, make_tenants, running_edge, until
from tests.gateway.console.test_console_core import STATE
from tests.gateway.scripted_site import DEADLINE_S, WORKER, Emitter, say_hello

ASK = {"model": "tiny", "prompt": "hello"}
HTML = "<img src=x onerror=alert(1)>"


class Watching:
    """One viewer of the console."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.state = FollowedState()
        self.told = ""
        """All that came, as text."""

    async def until(self, section: str, key: str) -> Any:
        """Returns an item once it is there."""
        async with asyncio.timeout(DEADLINE_S):
            while (found := self.items(section).get(key)) is None:
                await self.next()
        return found

    async def next(self) -> str:
        """Takes one line, and returns it."""
        line = await anext(self._lines)
        self.told += line
        if line.startswith("data: ") and not line.endswith("{}"):
            self.state.apply(line.removeprefix("data: "))
        return line

    def items(self, section: str) -> dict[str, Any]:
        kinds: dict[str, Any] = {
            "gateway": GatewayItem, "scheduler": SchedulerItem, "sites": SiteItem, "links": LinkItem, "workers": WorkerItem,
            "requests": RequestItem, "slots": SlotItem,
        }  # fmt: skip
        return self.state.section(section, kinds[section])

    async def ended(self) -> RequestItem:
        """Returns the first request that has ended."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := [item for item in self.items("requests").values() if item.duration_s is not None]):
                await self.next()
        request: RequestItem = found[0]
        return request


@asynccontextmanager
async def watching(edge: Edge, **headers: str) -> AsyncIterator[Watching]:
    async with edge.http.stream("GET", "/console/events", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Watching(response)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_the_page_and_its_files_come_from_the_gateway_alone_and_allow_nothing_inline(edge: Edge) -> None:
    page = await edge.get("/console")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    for name in ("console.css", "console.js", "stream.js", "icon.svg"):
        file = await edge.get(f"/console/{name}")
        assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in file.text.replace("http://www.w3.org/", "") and "https://" not in file.text
        again = await edge.get(f"/console/{name}", **{"if_none_match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert (await edge.get("/console/../service.py")).status_code == 404
    assert (await edge.get("/console/http.py")).status_code == 404


async def test_a_viewer_is_told_of_workers_the_scheduler_and_each_request(edge: Edge) -> None:
    edge.site.state = STATE
    async with watching(edge) as viewer:
        assert (await viewer.until("scheduler", SOLE)).threshold_tokens == 512
        assert (await viewer.until("links", "far.home")).budget_bytes_per_s == 8e6
        await viewer.until("workers", "home.decode.decode-0")
        answer = await edge.post("/v1/completions", ASK)
        ended = await viewer.ended()
        assert ended.id == answer.json()["id"].partition("-")[2]
        assert (ended.outcome, ended.prefill_site, ended.status) == ("offloaded", "east", 200)
        assert (ended.prompt_tokens, ended.completion_tokens) == (answer.json()["usage"]["prompt_tokens"], 4)
        assert ended.ttft_s is not None
        assert sum(slot.ended.get("offloaded", 0) for slot in viewer.items("slots").values()) == 1


async def test_a_request_can_be_opened_while_it_runs_and_when_it_has_ended(edge: Edge) -> None:
    go_on = asyncio.Event()

    async def wait_in_between(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("a")
        await go_on.wait()
        await emit.finished(1)

    edge.site.script = wait_in_between
    asking = asyncio.create_task(edge.post("/v1/completions", ASK))
    requests = edge.service._console_core.requests.of(None)
    await until(lambda: any(seen.first_token_at for seen in requests.running.values()))
    (request_id,) = requests.running
    detail = (await edge.get(f"/console/requests/{request_id}")).json()
    assert detail["reason"] == "4,000 tokens > 512" and detail["decode_worker"] == WORKER
    assert [stage["name"] for stage in detail["stages"]][-2:] == ["first token", "decode"]
    assert detail["request"]["duration_s"] is None
    go_on.set()
    await asking
    assert (await edge.get(f"/console/requests/{request_id}")).json()["request"]["duration_s"] is not None
    assert (await edge.get("/console/requests/another")).status_code == 404


async def test_while_nobody_watches_nothing_is_asked_and_no_state_is_made(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    sections = ConsoleCore.sections

    def counted(core: ConsoleCore, *arguments: Any) -> Encoded:
        made.append(arguments)
        return sections(core, *arguments)

    monkeypatch.setattr(ConsoleCore, "sections", counted)
    edge.site.state = STATE
    console = edge.service._console
    assert console is not None
    for _ in range(5):
        await edge.post("/v1/completions", ASK)
    assert (made, console.ticks, edge.site.state_asked) == ([], 0, 0)
    # The same counters move while somebody does, so they could have told, and stop when the last one leaves.
    async with watching(edge) as one, watching(edge) as another:
        await one.until("scheduler", SOLE)
        await another.until("scheduler", SOLE)
    assert made and console.ticks and edge.site.state_asked
    assert len(made) <= console.ticks, "a state is made once for all who see the same"
    await until(lambda: not console._ticking)
    ticks, asked = console.ticks, edge.site.state_asked
    for _ in range(5):
        await edge.post("/v1/completions", ASK)
    assert (console.ticks, edge.site.state_asked) == (ticks, asked)


async def test_a_viewer_that_reads_nothing_delays_no_request(edge: Edge) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"GET /console/events HTTP/1.1\r\nhost: a\r\n\r\n")
    await writer.drain()
    console = edge.service._console
    assert console is not None
    await until(lambda: console.ticks >= 2)
    answers = await asyncio.gather(*(edge.post("/v1/completions", ASK) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    writer.close()
    await until(lambda: not len(console._viewers))


async def test_the_scheduler_may_say_nothing_or_nonsense(edge: Edge) -> None:
    async with watching(edge) as viewer:
        await viewer.until("workers", "home.decode.decode-0")
        assert viewer.items("scheduler") == {}, "it does not answer"
        edge.site.state = "nonsense"  # type: ignore[assignment]
        asked = edge.site.state_asked
        await until(lambda: edge.site.state_asked > asked)
        edge.site.state = STATE
        await viewer.until("scheduler", SOLE)


async def test_viewers_are_bounded_and_one_client_takes_half_of_the_places(tmp_path: Path) -> None:
    async with running_edge(tmp_path, console_viewers=4) as edge, watching(edge), watching(edge):
        refused = await edge.get("/console/events")
        assert refused.status_code == 429 and "retry-after" in refused.headers
    async with running_edge(tmp_path / "one", console_viewers=1) as edge, watching(edge):
        assert (await edge.get("/console/events")).status_code == 429


async def test_it_is_off_with_a_key_and_then_keeps_nothing(tmp_path: Path) -> None:
    async with running_edge(tmp_path, console=False) as edge:
        for path in ("/console", "/console/events", "/console/console.js", "/console/requests/a"):
            assert (await edge.get(path)).status_code == 404
        await edge.post("/v1/completions", ASK)
        assert not edge.service._console_core.requests.of(None).ended


async def test_with_api_keys_all_data_wants_one_and_a_tenant_sees_its_own_requests(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits(), "umbra": Limits(), "ops": Limits()})
    async with running_edge(tmp_path, tenants_file=path, console_tenants=("ops",)) as edge:
        assert (await edge.get("/console")).status_code == 200, "the page has no data"
        for place in ("/console/events", "/console/requests/a"):
            assert (await edge.get(place)).status_code == 401
            assert (await edge.get(place, authorization="Bearer sk-wrong")).status_code == 401
        answer = await edge.post("/v1/completions", ASK, x_request_id=HTML, **bearer(keys["acme"]))
        request_id = answer.json()["id"].partition("-")[2]
        async with watching(edge, **bearer(keys["acme"])) as own, watching(edge, **bearer(keys["ops"])) as all_of_them:
            assert (await own.ended()).id == request_id
            assert (await all_of_them.ended()).id == request_id
            assert not (await own.until("gateway", SOLE)).whole and (await all_of_them.until("gateway", SOLE)).whole
            assert "acme" not in all_of_them.told, "no tenant's name is told"
        async with watching(edge, **bearer(keys["umbra"])) as other:
            await other.until("workers", "home.decode.decode-0")
            assert not other.items("requests") and not other.items("slots")
            assert request_id not in other.told
        detail = f"/console/requests/{request_id}"
        assert (await edge.get(detail, **bearer(keys["umbra"]))).status_code == 404
        assert (await edge.get(detail, **bearer(keys["ops"]))).json()["client_request_id"] == HTML
        assert "hello" not in (await edge.get(detail, **bearer(keys["acme"]))).text, "no prompt is kept"


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits()})
    async with running_edge(tmp_path, tenants_file=path) as edge, watching(edge, **bearer(keys["acme"])) as viewer:
        await viewer.until("gateway", SOLE)
        key = parse_key(keys["acme"])
        assert key is not None
        revoke_key(Path(path), key.id, datetime.date(2026, 1, 2))
        async with asyncio.timeout(DEADLINE_S):
            while await viewer.next() != "event: over":
                pass


async def test_a_page_of_another_site_gets_no_data_even_without_keys(edge: Edge) -> None:
    for place in ("/console/events", "/console/requests/a"):
        answer = await edge.get(place, sec_fetch_site="cross-site")
        assert answer.status_code == 403
    assert (await edge.get("/console", sec_fetch_site="cross-site")).status_code == 200, "a link to it works"


async def test_requests_that_are_refused_before_they_are_read_push_nothing_out(edge: Edge) -> None:
    await edge.post("/v1/completions", ASK)
    for _ in range(60):
        await edge.post("/v1/completions", b"no json")
    (kept,) = edge.service._console_core.requests.of(None).ended
    assert kept.status == 200


async def test_text_of_others_stays_text(edge: Edge) -> None:
    async def lie(_generate: Generate, emit: Emitter) -> None:
        await emit.started(reason=HTML)
        await emit.failed("<script>", HTML)

    edge.site.script = lie
    await edge.site.announce("decode-9", model=HTML)
    await edge.post("/v1/completions", ASK, x_request_id=HTML)
    async with watching(edge) as viewer:
        ended = await viewer.ended()
        detail = await edge.get(f"/console/requests/{ended.id}")
        assert detail.headers["content-type"] == "application/json" and detail.headers["x-content-type-options"] == "nosniff"
        assert json.loads(detail.text)["reason"] == HTML and ended.error == "<script>"


async def test_streams_end_when_the_gateway_leaves(edge: Edge) -> None:
    edge.site.script = say_hello
    async with watching(edge) as viewer:
        await viewer.until("gateway", SOLE)
        await edge.service.drain(1.0)
        async with asyncio.timeout(DEADLINE_S):
            while await viewer.next() != "event: over":
                pass
