"""`prfaas top` with textual's own pilot, against a gateway that runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from prfaas.cli.__main__ import main
from prfaas.console.client import ConsoleClient
from prfaas.console.top import Top, Waterfall
from prfaas.contracts.to_decode import Generate
from prfaas.secrets.tenants_file import Limits
from tests.gateway.conftest import Edge, make_tenants, running_edge
from tests.gateway.console.scripts import answer_in_full
from tests.gateway.console.test_console_core import STATE
from tests.gateway.scripted_site import DEADLINE_S, Emitter

ASK = {"model": "tiny", "prompt": "hello"}


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path) as running:
        running.site.state = STATE
        running.site.script = answer_in_full
        yield running


@asynccontextmanager
async def top_of(edge: Edge, api_key: str = "") -> AsyncIterator[tuple[Top, Pilot[Any]]]:
    client = ConsoleClient(edge.url, api_key)
    app = Top(client)
    try:
        async with app.run_test(size=(150, 50)) as pilot:
            yield app, pilot
    finally:
        await client.close()


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await pilot.pause(0.02)


def shown(app: Top, table: str) -> str:
    """Returns the text of a table's cells."""
    found: DataTable[Text] = app.screen_stack[0].query_one(f"#{table}", DataTable)
    return "\n".join(" | ".join(str(cell) for cell in found.get_row(key)) for key in found.rows)


def text_of(app: Top, name: str) -> str:
    return str(app.screen_stack[0].query_one(f"#{name}", Static).render())


async def test_it_shows_sites_links_workers_and_the_policy(edge: Edge) -> None:
    async with top_of(edge) as (app, pilot):
        await until(pilot, lambda: "far" in shown(app, "sites") and "decode-0" in shown(app, "workers"))
        assert "16.0 Mbit/s" in shown(app, "sites") and "64.0 Mbit/s" in shown(app, "sites") and "3.0 MB" in shown(app, "sites")
        assert "policy threshold, t = 512 tokens, term 4" in text_of(app, "summary")
        assert text_of(app, "status").startswith("live")
        await edge.site.announce("decode-7")
        await until(pilot, lambda: "decode-7" in shown(app, "workers"))


async def test_enter_opens_a_requests_waterfall_and_escape_closes_it(edge: Edge) -> None:
    async with top_of(edge) as (app, pilot):
        await edge.post("/v1/completions", ASK)
        await until(pilot, lambda: "offloaded" in shown(app, "requests"))
        assert "last minute: ended 1, offloaded 100%" in text_of(app, "summary")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Waterfall))
        drawn = str(app.screen.query_one("#way Static", Static).render())
        for part in ("read and tokenize", "placement", "queue", "prefill", "KV", "decode", "4,000 bytes in 6 frames", "█"):
            assert part in drawn
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Waterfall))


async def test_the_cursor_stays_on_its_request_when_others_come(edge: Edge) -> None:
    async with top_of(edge) as (app, pilot):
        for _ in range(3):
            await edge.post("/v1/completions", ASK)
        table: DataTable[Text] = app.query_one("#requests", DataTable)
        await until(pilot, lambda: table.row_count == 3)
        await pilot.press("down")
        at = table.coordinate_to_cell_key(table.cursor_coordinate).row_key
        await edge.post("/v1/completions", ASK)
        await until(pilot, lambda: table.row_count == 4)
        assert table.coordinate_to_cell_key(table.cursor_coordinate).row_key == at


async def test_words_of_others_are_shown_as_they_are(edge: Edge) -> None:
    async def lie(_generate: Generate, emit: Emitter) -> None:
        await emit.started(reason="[red]\x1b[2J")
        await emit.failed("[bold]", "x")

    edge.site.script = lie
    async with top_of(edge) as (app, pilot):
        await edge.site.announce("decode-9", model="[link=x]\x1b]0;title\x07")
        await edge.post("/v1/completions", ASK)
        await until(pilot, lambda: "decode-9" in shown(app, "workers") and "[bold]" in shown(app, "requests"))
        assert "[link=x]·]0;title·" in shown(app, "workers")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Waterfall))
        assert "[red]·[2J" in str(app.screen.query_one("#way Static", Static).render())


async def test_a_gateway_that_goes_and_comes_back_is_followed_again(edge: Edge) -> None:
    async with top_of(edge) as (app, pilot):
        await until(pilot, lambda: text_of(app, "status").startswith("live"))
        console = edge.service._console
        assert console is not None
        console.close()
        await until(pilot, lambda: "trying again" in text_of(app, "status"))
        console._closed, console._turned = False, asyncio.Event()
        await until(pilot, lambda: text_of(app, "status").startswith("live"))


async def test_a_wrong_key_and_a_console_that_is_off_end_it_with_a_sentence(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits()})
    async with running_edge(tmp_path, tenants_file=path) as edge:
        client = ConsoleClient(edge.url, "sk-wrong")
        assert await Top(client).run_async(headless=True) == "The API key is not known here."
        await client.close()
        async with top_of(edge, keys["acme"]) as (app, pilot):
            await until(pilot, lambda: "your requests" in text_of(app, "summary"))
            await pilot.press("q")
    async with running_edge(tmp_path / "off", console=False) as edge:
        client = ConsoleClient(edge.url, "")
        assert "Unknown request URL" in str(await Top(client).run_async(headless=True))
        await client.close()


def test_a_target_that_is_no_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--target", "localhost:8000"]) == 2
    assert "expected http://HOST:PORT" in capsys.readouterr().err
