"""Control a headless Chromium through the DevTools protocol: load, click, drag, press keys, take screenshots."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
SECONDS = 120.0  # limit for every command


def find_browser() -> str | None:
    """Return the first Chromium on the path, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page; ``events`` collects its console output and network requests as (name, parameters)."""

    def __init__(self, runner: asyncio.Runner, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._runner, self._socket = runner, socket
        self._ids = itertools.count(1)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its result."""
        return self._runner.run(self._call(method, parameters))

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression as plain data."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it is drawn."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.wait("document.readyState === 'complete'")
        before = len(self.events)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._runner.run(self._event("Page.loadEventFired", before))  # the old page would not answer an evaluation
        self.wait("document.readyState === 'complete'")
        self.frame()

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def frame(self) -> None:
        """Wait until the browser has drawn two frames."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.middle(selector)
        self.drag((x, y), (x, y))

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return the position of its middle."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({found}.getBoundingClientRect())")
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse button at ``start`` and release it at ``end``."""
        self.mouse("mouseMoved", start)
        self.mouse("mousePressed", start)
        if end != start:
            self.mouse("mouseMoved", end, buttons=1)
        self.mouse("mouseReleased", end)
        self.frame()

    def mouse(self, kind: str, place: tuple[float, float], **more: Any) -> None:
        """Send one mouse event."""
        button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **button, **more)

    def key(self, name: str) -> None:
        """Press and release a key."""
        text = {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)
        self.frame()

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a screenshot as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """Print the page to a PDF."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def problems(self) -> list[str]:
        """Return console errors and warnings, and uncaught exceptions."""
        found = []
        for name, data in self.events:
            if name == "Runtime.exceptionThrown":
                found.append(data["exceptionDetails"]["exception"].get("description", "exception"))
            elif name == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
                found.append(data["entry"]["text"])
            elif name == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning", "assert"):
                found.append(str(data["args"]))
        return found

    def requests(self) -> list[str]:
        """Return the requested addresses except ``data:`` URLs."""
        urls = [data["request"]["url"] for name, data in self.events if name == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    async def _event(self, wanted: str, after: int) -> None:
        """Wait for an event of this name after the first ``after`` events."""
        while not any(name == wanted for name, _ in self.events[after:]):
            message = json.loads((await self._socket.receive(SECONDS)).data)
            if "method" in message:
                self.events.append((message["method"], message["params"]))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(SECONDS)).data)
            if "method" in message:
                self.events.append((message["method"], message["params"]))
            elif message["id"] == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """Run a browser with a new profile; it is stopped at the end of the block."""
    profile.mkdir(parents=True, exist_ok=True)
    port_file = profile / "DevToolsActivePort"
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={profile}"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + SECONDS
        while not (port_file.exists() and port_file.read_text().count("\n")):
            ended = process.poll() is not None or time.monotonic() > end
            assert not ended, (profile / "log").read_text(errors="replace")
            time.sleep(0.05)
        with Browser(int(port_file.read_text().splitlines()[0])) as browser:
            yield browser
    finally:
        process.terminate()
        process.wait(SECONDS)


class Browser:
    """A running Chromium."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession

    def __enter__(self) -> Browser:
        self._runner.__enter__()
        self._session = self._runner.run(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._session.close())
        self._runner.close()

    def tab(self) -> Tab:
        """Open a new, empty page."""
        return Tab(self._runner, self._runner.run(self._connect()))

    async def _start(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()  # needs a running event loop

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        async with self._session.put(f"{self._base}/json/new?about:blank") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        return await self._session.ws_connect(address, max_msg_size=0)
