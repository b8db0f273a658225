"""Look at a page in headless Chromium, where one is installed, over its debugging pipe: no driver, no network."""

from __future__ import annotations

import base64
import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

from m2l_runtime.errors import InputError
from m2l_runtime.page.files import MEDIA_TYPES
from m2l_runtime.page.onnxruntime_web import WASM_FILES, fetch_package

PACKAGES = (os.environ.get("M2L_ONNXRUNTIME_WEB"), "node_modules/onnxruntime-web")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROOT = Path(__file__).resolve().parent.parent.parent


def chromium() -> str | None:
    """The browser's program, or M2L_CHROMIUM; None if there is none."""
    given = os.environ.get("M2L_CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def onnxruntime_web() -> Path | None:
    """Folder of onnxruntime-web; None: m2l gets it. Skips a test where no registry can be reached."""
    found = next((ROOT / path for path in PACKAGES if path and (ROOT / path / "package.json").is_file()), None)
    if found is None:
        try:
            fetch_package(WASM_FILES)
        except InputError as error:
            if "cannot be got" not in str(error):  # another package came, or one that is damaged
                raise
            pytest.skip(f"onnxruntime-web is not there: {error}")
    return found


def axe_core() -> Path | None:
    """axe.min.js, which npm brings, or M2L_AXE; None if it is not there."""
    path = Path(os.environ.get("M2L_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    return path if path.is_file() else None


class Browser:
    """A page in a browser. Scripts of a test run beside the page's policy, those of the page under it."""

    def __init__(self, to_browser: int, from_browser: BinaryIO) -> None:
        self._write, self._read = to_browser, from_browser
        self._numbers = itertools.count(1)
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for what it returns."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            reply = self._receive()
            if reply.get("id") == number:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            chunk = os.read(self._read.fileno(), 1 << 16)
            assert chunk, "the browser is gone"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, is_dark: bool = False) -> None:
        """Open a file or an address and wait until all of it is loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def problems(self) -> list[str]:
        """What the browser has complained of since the page was opened, such as what a policy refused."""
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries]

    def requests(self) -> list[str]:
        """Addresses that the page has asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"][:200] for event in sent]

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """Write a PNG of what is visible, or of the whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=is_whole, **self._clip(is_whole))
        path.write_bytes(base64.b64decode(found["data"]))

    def _clip(self, is_whole: bool) -> dict[str, Any]:
        if not is_whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    program = chromium()
    assert program is not None
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def pipes() -> None:  # the protocol is read from descriptor 3 and written to 4
        one, other = os.dup(in_read), os.dup(out_write)
        os.dup2(one, 3)
        os.dup2(other, 4)

    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
    ]
    process = subprocess.Popen(
        [program, *arguments],
        preexec_fn=pipes,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_read)
    os.close(out_write)
    reader = os.fdopen(out_read, "rb", buffering=1 << 16)
    try:
        yield Browser(in_write, reader)
    finally:
        os.close(in_write)
        reader.close()
        process.terminate()
        process.wait(30)


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """A plain static host; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map: Final = {**http.server.SimpleHTTPRequestHandler.extensions_map, **MEDIA_TYPES}  # type: ignore[misc]

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
