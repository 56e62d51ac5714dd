"""A real browser without a window, spoken to through a pipe: the DevTools protocol needs no package."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
PROGRAM = next((path for name in NAMES if (path := shutil.which(name))), None)
REASON = f"no browser here (none of {', '.join(NAMES)} on the PATH): on Debian, apt-get install chromium"


class Browser:
    """One tab. `events` holds what the browser reported on the way: requests, errors, loads."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._id, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol. Raises RuntimeError where the browser refuses it."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._id:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            found = os.read(self._answers, 1 << 16)
            if not found:
                raise RuntimeError("the browser has ended")
            self._buffer += found
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path) -> None:
        """Load the file and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + 30
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, self.events
            self.call("Runtime.evaluate", expression="0")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """A key, as a keyboard sends it."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
        code, text = codes[key]
        for kind in ("keyDown", "keyUp"):
            down = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **down)

    def size(self, width: int, height: int) -> None:
        """As on a screen of so many points."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def colours(self, scheme: str) -> None:
        """'light' or 'dark', as the reader prefers."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Started for the body, ended with it; its files are below `profile`."""
    assert PROGRAM is not None, REASON
    low_in, commands = os.pipe()
    answers, low_out = os.pipe()
    theirs_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (low_in, low_out))  # clear of 3 and 4
    words = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    words += ["--no-first-run", "--no-proxy-server", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    shell = ["bash", "-c", f"exec {shlex.join(words)} 3<&{theirs_in} 4>&{theirs_out}"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "pass_fds": (theirs_in, theirs_out)}
    with subprocess.Popen(shell, **quiet) as process:
        for end in (low_in, low_out, theirs_in, theirs_out):
            os.close(end)
        try:
            yield Browser(commands, answers)
        finally:
            os.close(commands)
            os.close(answers)
            process.kill()
