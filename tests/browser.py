"""A headless Chromium for tests of pages, driven by its DevTools protocol over a pipe: no package, no port."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Chromium reads commands from descriptor 3 and writes answers to 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
LIMIT_SECONDS = 120  # generous: it only ends what would never end
_LOWEST = 10  # descriptors of ours start here, so that none is 3 or 4


def find_chromium() -> str | None:
    """The path of a Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """A page that is open in the browser.

    Attributes:
        requested: addresses that the page asked for, its own first. `data:` addresses are left out.
        complaints: what the browser reported: errors of the script, and what the page's policy forbade.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        self._waiting = b""  # what was received and not read yet
        self.requested: list[str] = []
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict:
        """Send a command and return its result. Events that come before it are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, *, width: int, height: int = 900, is_dark: bool = False) -> None:
        """Load a file at a width in pixels, and wait until its pictures are decoded."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.absolute().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass
        self.evaluate("Promise.all([...document.images].map(image => image.decode()))")

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Press the left button ("mousePressed"), move the mouse with it ("mouseMoved"), let go ("mouseReleased")."""
        held = 0 if kind == "mouseReleased" else 1
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key without a letter, such as "ArrowRight" or "Tab"."""
        code = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self) -> np.ndarray:
        """What is seen: (H, W, 3) uint8."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            return np.asarray(picture.convert("RGB"))

    def _receive(self) -> dict:
        while b"\0" not in self._waiting:
            assert select.select([self._answers], [], [], LIMIT_SECONDS)[0], "the browser does not answer"
            received = os.read(self._answers, 2**16)
            assert received, "the browser ended"
            self._waiting += received
        text, _, self._waiting = self._waiting.partition(b"\0")
        message = json.loads(text)
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            self.requested += [] if address.startswith("data:") else [address]
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        return message


@contextmanager
def open_tab(chromium: str, folder: Path) -> Iterator[Tab]:
    """Start a browser, with its files in a folder, and end it after the block."""
    ours, theirs = zip(*(_high_pipe() for _ in range(2)), strict=True)
    commands_in, commands_out, answers_in, answers_out = ours[0], theirs[0], ours[1], theirs[1]
    browser = [chromium, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    browser += ["--disable-dev-shm-usage", "--force-color-profile=srgb", "--no-first-run", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, str(commands_in), str(answers_out), *browser],
        pass_fds=(commands_in, answers_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands_in)
    os.close(answers_out)
    try:
        yield Tab(commands_out, answers_in)
    finally:
        os.close(commands_out)  # its end is the browser's end
        os.close(answers_in)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _high_pipe() -> tuple[int, int]:
    """The ends of a pipe, reading and writing, with high descriptors."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _LOWEST) for end in ends)
    for end in ends:
        os.close(end)
    return high
