"""A headless Chromium without a way to the network, driven by Playwright."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path
from unittest import mock

PROGRAMS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
MISSING = '' if PROGRAM and util.find_spec('playwright') else f'needs playwright and one of {", ".join(PROGRAMS)}'
OPTIONS = (
    '--no-sandbox',  # a root user has none; it opens our own page only
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
)

SECONDS = 60  # to wait for anything


class Tab:
    """One page. `requests`: the addresses that it asked for; `complaints`: its exceptions, and what is red in its
    console."""

    def __init__(self, page):
        self.page, self.requests, self.complaints = page, [], []
        page.on('request', lambda request: self.requests.append(request.url))
        page.on('pageerror', lambda error: self.complaints.append(str(error)))
        page.on('console', lambda message: message.type in ('error', 'assert') and self.complaints.append(message.text))

    async def run(self, script: str):
        """The value of an expression, or what the promise that it is resolves to."""
        return await self.page.evaluate(script)

    async def wait(self, condition: str):
        """Until an expression is true; its value."""
        async with asyncio.timeout(SECONDS):  # Playwright's own waiting is refused by the page's security policy
            while not (value := await self.run(condition)):
                await asyncio.sleep(0.02)
        return value


@asynccontextmanager
async def tab(profile: Path, *options: str) -> AsyncIterator[Tab]:
    """A browser with one page; it writes into the folder `profile` only."""
    from playwright.async_api import async_playwright

    profile.mkdir()
    environment = os.environ | {name: str(profile) for name in ('HOME', 'XDG_CONFIG_HOME', 'XDG_CACHE_HOME')}
    with mock.patch.dict(os.environ, TMPDIR=str(profile)):  # Playwright's own; Chromium's sockets want a short path
        async with async_playwright() as playwright:
            options = {'executable_path': PROGRAM, 'env': environment, 'args': [*OPTIONS, *options]}
            async with await playwright.chromium.launch_persistent_context(profile / 'data', **options) as context:
                yield Tab(context.pages[0])
