"""The console's page in a browser: Debian's chromium, driven by Playwright."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from infra.chromium import find, on_machine
from load.screenshots.browser import browser
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import Refusal
from prfaas.secrets.tenants_file import Limits
from tests.gateway.conftest import Edge, make_tenants, running_edge
from tests.gateway.console.scripts import answer_in_full
from tests.gateway.console.test_console_core import STATE
from tests.gateway.scripted_site import DEADLINE_S, Emitter
from tests.machine import need_package

ASK = {"model": "tiny", "prompt": "hello"}
HTML = "<img src=x onerror=document.title=1>"
PATIENCE_MS = DEADLINE_S * 1000
REFUSAL = Refusal(code="context_length_exceeded", message="no decode worker takes this", retry_after_s=1.0)

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module", autouse=True)
def chromium() -> None:
    need_package("chromium", on_machine, find, "`python -m infra.chromium` installs it")


@asynccontextmanager
async def page_of(edge: Edge, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """Opens the console. Yields the page and what went wrong in it."""
    path = on_machine()
    assert path is not None
    wrong: list[str] = []
    async with browser(path) as started:
        page = await started.new_page(**({"viewport": {"width": 1240, "height": 900}} | options))
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(edge.url) else wrong.append(f"asked for {asked.url}"))
        await page.goto(f"{edge.url}/console")
        yield page, wrong


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path) as running:
        running.site.state = STATE
        running.site.script = answer_in_full
        yield running


async def test_it_shows_sites_links_workers_and_policy_live(edge: Edge) -> None:
    async with page_of(edge) as (page, wrong):
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.get_by_role("article", name="Site far")).to_contain_text("queue 1.50 s, 2 prefills placed")
        link = page.get_by_role("group", name="Link from far to home")
        await expect(link).to_contain_text("16.0 Mbit/s now")
        await expect(link).to_contain_text("budget 64.0 Mbit/s")
        await expect(link).to_contain_text("RTT 20 ms · 3.00 MB under way")
        await expect(page.locator("#numbers")).to_contain_text("t = 512 tokens")
        await expect(page.locator("#workers")).to_contain_text("decode-0")
        await edge.site.announce("decode-7")
        await expect(page.locator("#workers")).to_contain_text("decode-7")
        await edge.site.announce("decode-7", gone=True)
        await expect(page.locator("#workers")).not_to_contain_text("decode-7")
        assert wrong == []


async def test_a_request_comes_in_and_opens_to_its_waterfall_by_mouse_and_by_keyboard(edge: Edge) -> None:
    async with page_of(edge) as (page, wrong):
        await expect(page.locator("#requests-empty")).to_be_visible()
        await edge.post("/v1/completions", ASK)
        row = page.locator("#requests tr.request")
        await expect(row).to_contain_text("offloaded")
        await expect(page.locator("#outcomes figcaption")).to_contain_text("1 offloaded")
        await row.click()
        stages = page.get_by_role("list", name="Stages of the request").get_by_role("listitem")
        await expect(stages).to_have_count(7)
        await expect(stages.nth(3)).to_contain_text("in 2 chunks")
        await expect(stages.nth(4)).to_contain_text("4,000 bytes in 6 frames in 2 arrivals")
        await expect(page.locator(".waterfall")).to_contain_text("4,000 tokens > 512")
        button = row.get_by_role("button")
        await expect(button).to_have_attribute("aria-expanded", "true")
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator(".waterfall")).to_have_count(0)
        await page.keyboard.press("Enter")
        await expect(stages).to_have_count(7)
        # News of other requests neither close it nor take the focus away.
        await edge.post("/v1/completions", ASK)
        await expect(page.locator("#requests tr.request")).to_have_count(2)
        await expect(stages).to_have_count(7)
        assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        assert wrong == []


async def test_the_playground_streams_tokens_and_says_where_and_why(edge: Edge) -> None:
    async with page_of(edge) as (page, wrong):
        await expect(page.locator("#play-model option")).to_have_text(["tiny"])
        await page.get_by_label("Tokens").fill("16")
        await page.get_by_label("Prompt", exact=True).fill("Why?")
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("log", name="Answer")).to_have_text("Because of <b>Rayleigh</b>")
        await expect(page.locator("#play-facts")).to_contain_text("east (offloaded)")
        await expect(page.locator("#play-facts")).to_contain_text("4,000 tokens > 512")
        await expect(page.locator("#play-waterfall .stage")).to_have_count(7)
        edge.site.placement = edge.site.placement_again = REFUSAL
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("log", name="Answer")).to_contain_text("No decode worker")
        assert [text for text in wrong if "400" not in text] == [], "chromium itself logs a failed request"


async def test_text_of_others_never_becomes_markup(edge: Edge) -> None:
    async def lie(_generate: Generate, emit: Emitter) -> None:
        await emit.started(reason=HTML)
        await emit.failed(HTML, HTML)

    edge.site.script = lie
    async with page_of(edge) as (page, wrong):
        await edge.site.announce("decode-9", model=HTML)
        await expect(page.locator("#workers")).to_contain_text(HTML)
        await edge.post("/v1/completions", ASK, x_request_id=HTML)
        await page.locator("#requests tr.request").click()
        await expect(page.locator(".waterfall dd", has_text=HTML).first).to_be_visible()
        await page.get_by_label("Tokens").fill("16")
        await page.get_by_label("Prompt", exact=True).fill(HTML)
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("log", name="Answer")).to_contain_text(HTML)
        assert await page.locator("img").count() == 0
        assert await page.title() == "prfaas console"
        assert [text for text in wrong if "status of" not in text] == []


async def test_with_keys_it_asks_for_one_and_keeps_it_in_the_tab_only(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits()})
    async with running_edge(tmp_path, tenants_file=path) as edge, page_of(edge) as (page, _):
        dialog = page.get_by_role("dialog", name="API key")
        await expect(dialog).to_be_visible()
        await dialog.get_by_label("Key", exact=True).fill("sk-wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("does not know this key")
        await dialog.get_by_label("Key", exact=True).fill(keys["acme"])
        await page.keyboard.press("Enter")
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("#about")).to_contain_text("your API key's tenant")
        assert await page.context.cookies() == [] and await page.evaluate("localStorage.length") == 0
        await page.get_by_role("button", name="API key").click()
        await page.get_by_role("button", name="Forget").click()
        await expect(dialog).to_be_visible()


async def test_it_says_when_the_gateway_is_gone(edge: Edge) -> None:
    async with page_of(edge) as (page, _):
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        console = edge.service._console
        assert console is not None
        console.close()
        await expect(page.locator("#live")).to_have_attribute("data-state", "lost")


@pytest.mark.parametrize("width", [320, 375, 600, 820, 1240])
async def test_no_width_needs_scrolling_sideways(edge: Edge, width: int) -> None:
    await edge.site.announce("decode-with-a-very-long-name-that-has-no-end-at-all-in-sight-1234", model="m" * 200)
    await edge.post("/v1/completions", ASK)
    async with page_of(edge, viewport={"width": width, "height": 812}) as (page, _):
        await page.locator("#requests tr.request").click()
        await expect(page.locator(".waterfall")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate(
            "document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth"
        )


CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(node);
    if (!own || !node.checkVisibility() || node.closest(":disabled, script, noscript, option")) continue;
    const colour = parse(node instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [light(colour), light(ground(node))].sort((a, b) => b - a);
    const name = `${node.tagName}.${node.getAttribute("class")}: ${node.textContent.trim().slice(0, 40)}`;
    found.push([(high + 0.05) / (low + 0.05), name]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_has_the_contrast_of_wcag_aa_in_both_schemes(edge: Edge, scheme: Any) -> None:
    await edge.post("/v1/completions", ASK)
    async with page_of(edge, color_scheme=scheme) as (page, _):
        await page.locator("#requests tr.request").click()
        await expect(page.locator(".waterfall")).to_be_visible()
        found = await page.evaluate(CONTRAST)
        assert len(found) > 60
        assert [each for each in found if each[0] < 4.5] == []


NAMELESS = """() => [...document.querySelectorAll(
    "button, input, select, textarea, [role=meter], [role=img], [role=region], [role=log]")]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.labels?.length
    || node.closest("label") || node.textContent.trim()))
  .map((node) => node.outerHTML)"""


async def test_everything_has_a_name_and_a_role_and_the_keyboard_reaches_it_in_its_order(edge: Edge) -> None:
    await edge.post("/v1/completions", ASK)
    async with page_of(edge) as (page, _):
        await expect(page.locator("#requests tr.request")).to_have_count(1)
        assert await page.evaluate(NAMELESS) == []
        ids = await page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))
        headings = await page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((node) => Number(node.tagName[1]))")
        assert headings[0] == 1 and all(after <= before + 1 for before, after in pairwise(headings))
        reached = []
        for _ in range(9):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert reached[:3] == ["skip", "scroll", "open"]
        assert reached[3:7] == ["play-prompt", "play-model", "play-tokens", "play-send"]
        await page.evaluate("document.activeElement.blur()")
        roles = json.dumps(await page.locator("main").aria_snapshot())
        for name in ("Sites and links", "Workers", "Last requests", "Playground", "Outcomes per minute", "Time to first token"):
            assert name in roles
