"""A headless Chromium without a way to the network, driven through its DevTools protocol."""

import asyncio
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

PROGRAMS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
OPTIONS = (
    '--headless=new',
    '--no-sandbox',  # a root user has none; it opens our own page only
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--no-first-run',
    '--hide-scrollbars',
    '--remote-debugging-port=0',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
)
SECONDS = 60  # to wait for anything


class Tab:
    """One page. `requests`: the addresses that it asked for; `complaints`: what is red in its console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.requests, self.complaints = [], []
        self._socket, self._numbers, self._answers = socket, itertools.count(1), {}
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            parameters = said.get('params', {})
            if 'id' in said:
                self._answers.pop(said['id']).set_result(said)
            elif said['method'] == 'Network.requestWillBeSent':
                self.requests.append(parameters['request']['url'])
            elif said['method'] == 'Runtime.exceptionThrown':
                self.complaints.append(parameters['exceptionDetails'])
            elif said['method'] == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
                self.complaints.append(parameters['entry'])
            elif said['method'] == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'assert'):
                self.complaints.append(parameters)

    async def send(self, method: str, **parameters) -> dict:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({'id': number, 'method': method, 'params': parameters})
        said = await asyncio.wait_for(self._answers[number], SECONDS)
        assert 'result' in said, said
        return said['result']

    async def open(self, address: str) -> None:
        for domain in ('Page', 'Runtime', 'Network', 'Log', 'DOM'):
            await self.send(f'{domain}.enable')
        await self.send('Page.navigate', url=address)
        await self.wait(f"location.href === '{address}' && document.readyState === 'complete'")

    async def run(self, script: str):
        """The value of an expression, or what the promise that it is resolves to."""
        said = await self.send(
            'Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert 'exceptionDetails' not in said, said
        return said['result'].get('value')

    async def wait(self, condition: str):
        """Until an expression is true; its value."""
        async with asyncio.timeout(SECONDS):
            while not (value := await self.run(condition)):
                await asyncio.sleep(0.02)
        return value

    async def choose_file(self, selector: str, path: Path) -> None:
        """As if the user had chosen it in the dialogue of that input."""
        document = await self.send('DOM.getDocument')
        node = await self.send('DOM.querySelector', nodeId=document['root']['nodeId'], selector=selector)
        await self.send('DOM.setFileInputFiles', nodeId=node['nodeId'], files=[str(path)])


@asynccontextmanager
async def tab(profile: Path, *options: str) -> AsyncIterator[Tab]:
    """A browser with one page; it writes into the folder `profile` only."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *OPTIONS,
        *options,
        f'--user-data-dir={profile}',
        'about:blank',
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    port = profile / 'DevToolsActivePort'
    try:
        async with asyncio.timeout(SECONDS):
            while not port.exists() or '\n' not in port.read_text():
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession(f'http://127.0.0.1:{port.read_text().split()[0]}') as session:
            async with session.put('/json/new') as response:
                address = (await response.json())['webSocketDebuggerUrl']
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
