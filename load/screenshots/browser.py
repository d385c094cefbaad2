"""Debian's chromium, driven by Playwright. Nothing is downloaded."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from playwright.async_api import Browser, async_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Returns the path of the installed browser; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def browser(path: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Containers and CI run as root, where chromium's own sandbox cannot be made.
        started = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            await started.close()
