"""The machine's chromium, driven by Playwright. Nothing is downloaded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright


@asynccontextmanager
async def browser(path: str) -> AsyncIterator[Browser]:
    """Starts the browser at `path`."""
    async with async_playwright() as playwright:
        # Containers and CI run as root, where chromium's own sandbox cannot be made.
        started = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            await started.close()
