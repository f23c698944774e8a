"""A headless Chromium, driven over a pipe: what a page logs and asks for, how wide it is, how it looks.

The DevTools protocol: JSON messages that end with a zero byte, from file descriptor 4 of the browser, to its 3.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 90.0  # seconds for an answer, on a machine that is busy with other tests


def find_browser() -> str | None:
    """The program that $DITHER_CHROMIUM names, or the first Chromium on the path; None without one."""
    return os.environ.get("DITHER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. ``events`` is everything that the browser reported about the page that is open."""

    def __init__(self, program: str, folder: Path) -> None:
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-sync"),
            *("--force-color-profile=srgb", "--remote-debugging-pipe", f"--user-data-dir={folder}"),
        )
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def connect() -> None:
            # Through descriptors beyond 4: one of the pipes may have 3 or 4 itself.
            high = [os.dup2(theirs_in, 103), os.dup2(theirs_out, 104)]
            for there, here in zip((3, 4), high, strict=True):
                os.dup2(here, there, inheritable=True)

        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,  # noqa: PLW1509 (no threads are started here)
            close_fds=False,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._number, self.events = b"", 0, list[dict[str, Any]]()
        self._session: str | None = None
        (tab,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(_PATIENCE)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, *, width: int = 1100, dark: bool = False, paper: bool = False) -> None:
        """Opens a file in a window of this width and waits until it is loaded."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=scheme)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def logged(self) -> list[Any]:
        """Everything on the console, errors and refusals of the browser included."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in names]

    def asked_for(self) -> list[str]:
        """Addresses of all requests, the page itself first; without data that stands in the page."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        content = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(content["data"]))

    def print(self, path: Path) -> None:
        """The page on paper (A4), as a PDF, printed by somebody who reads in the dark."""
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        self.call("Emulation.clearDeviceMetricsOverride")
        self.call("Emulation.setEmulatedMedia", media="print", features=[dark])
        content = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        path.write_bytes(base64.b64decode(content["data"]))

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._left:
            if not select.select([self._in], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the browser has not answered for {_PATIENCE:.0f} s")
            part = os.read(self._in, 1 << 16)
            if not part:
                raise EOFError("the browser is gone")
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)
