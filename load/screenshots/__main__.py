"""`make screenshots`: the console, `prfaas top` and a replay's report, of a stack that this starts, into docs/screenshots.

Engines are emulated; services, brokers, links and bytes are real. The traffic runs for some minutes first, so that charts have
something to show.
"""

import argparse
import asyncio
import io
import re
import sys
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image
from playwright.async_api import Browser, Page
from textual.pilot import Pilot

from infra.chromium import find
from infra.debian import PackageError
from load.screenshots.browser import browser
from load.screenshots.fleet import HOME, Traffic, fleet
from prfaas.console.client import ConsoleClient
from prfaas.console.top import Top
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.stack import Stack

FOLDER: Final = Path(__file__).parents[2] / "docs" / "screenshots"
PATIENCE_MS: Final = 60_000
REQUESTS_PER_S: Final = 1.7
_REPLAY_S: Final = 30
_COLORS: Final = 256
"""Colours of a picture: few, so that it is small in the repository."""
_KV_UNDER_WAY: Final = """() => [...document.querySelectorAll(".link")].every((link) => !link.textContent.includes("0 bit/s now"))
  && ![...document.querySelectorAll(".link")].every((link) => link.textContent.includes(" 0 B under way"))"""
_TOP_SIZE: Final = (150, 46)


async def make(minutes: float, folder: Path) -> None:
    path = await asyncio.to_thread(find)
    async with Stack(fleet(), fresh_directory("screenshots"), progress=say) as stack, browser(path) as started:
        url = stack.gateway_url(HOME)
        traffic = asyncio.create_task(Traffic(url, REQUESTS_PER_S, seed=1).run())
        try:
            report = await _replayed(url, stack.directory / "report", minutes * 60)
            say("taking the pictures")
            await _console(started, url, folder / "console-light.png", "light", 1240)
            await _console(started, url, folder / "console-dark.png", "dark", 1240)
            await _console(started, url, folder / "console-narrow.png", "light", 375)
            await _top(url, folder / "top.svg")
            await _report(started, report, folder / "report.png")
        finally:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)


class ReplayError(Exception):
    """Raised when there is no report to show."""


async def _replayed(url: str, out: Path, seconds: float) -> Path:
    """Lets `seconds` of traffic pass, with a replay at their end. Returns the path of its report."""
    await asyncio.sleep(max(0.0, seconds - _REPLAY_S))
    options = [
        "--synthetic",
        "lognormal:median=200,sigma=0.8",
        "--output-tokens",
        "40",
        "--rate",
        "1",
        "--duration",
        str(_REPLAY_S),
    ]
    options += ["--target", url, "--out", str(out), "--seed", "1"]
    command = [sys.executable, "-m", "prfaas.cli", "replay", *options]
    process = await asyncio.create_subprocess_exec(*command, preexec_fn=end_with_parent())
    if await process.wait():
        raise ReplayError("prfaas replay has failed; its own words say why")
    return out / "report.html"


async def _console(started: Browser, url: str, path: Path, scheme: Literal["light", "dark"], width: int) -> None:
    page = await started.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(f"{url}/console")
    await page.locator("#requests tr.request").first.wait_for()
    if width > 600:
        await _open_waterfall(page)
        await page.locator("#play-tokens").fill("48")
        await page.get_by_role("button", name="Send").click()
        await page.locator("#play-facts").wait_for()
        await page.evaluate("document.querySelector('#play-waterfall').replaceChildren(); document.activeElement.blur()")
    # A moment at which links have something to do.
    await page.wait_for_function(_KV_UNDER_WAY)
    _save(await page.screenshot(full_page=True), path)
    await page.close()


async def _open_waterfall(page: Page) -> None:
    """Opens the latest request that was offloaded and has ended."""
    ended = page.locator("#requests tr.request", has_text="offloaded").filter(has_not_text="…")
    await ended.first.click()
    await page.locator(".waterfall .stage").nth(6).wait_for()


async def _top(url: str, path: Path) -> None:
    client = ConsoleClient(url, "")
    app = Top(client)
    try:
        async with app.run_test(size=_TOP_SIZE) as pilot:
            await _until_shown(app, pilot)
            picture = without_fonts(app.export_screenshot(title="prfaas top"))
        await asyncio.to_thread(path.write_text, picture)
    finally:
        await client.close()


def without_fonts(svg: str) -> str:
    """Takes out the fonts that a reader's browser would fetch from elsewhere; its own monospace one does as well."""
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)


async def _until_shown(app: Top, pilot: Pilot[Any]) -> None:
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not app.query_one("#requests").row_count:  # type: ignore[attr-defined]
            await pilot.pause(0.2)
    await pilot.pause(2.0)


async def _report(started: Browser, report: Path, path: Path) -> None:
    page = await started.new_page(viewport={"width": 1240, "height": 1400})
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(report.as_uri())
    await page.locator(".plotly .main-svg, svg.main-svg").first.wait_for()
    _save(await page.screenshot(), path)
    await page.close()


def _save(png: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.screenshots", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of traffic before the pictures; default: %(default)g")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        interruption.run(make(arguments.minutes, arguments.folder))
    except (*START_ERRORS, PackageError, ReplayError) as error:
        print(f"load.screenshots: {error}", file=sys.stderr)
        return 1
    for picture in sorted(arguments.folder.iterdir()):
        say(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
