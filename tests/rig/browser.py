"""Headless Chromium, driven over WebDriver (W3C): what a person would see of a page.

    with Browser() as browser:
        browser.open("http://127.0.0.1:8001/")
        browser.wait_for("document.querySelector('svg')")       # JavaScript; asked for until it is true
        browser.ask("document.title")                           # any value that JSON has
        browser.picture(tmp_path / "page.png")

Chromium and its driver are Debian's packages; the test is skipped by name where they cannot be had. It looks nothing
up by itself: the flags keep it from all that it would fetch.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from rig.debian import program

PATIENCE_S = 120.0  # for one command of ours, on a machine that is busy
WIDTH, HEIGHT = 1280, 1600
_QUIET = (
    *("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"),
    *("disable-sync", "disable-dev-shm-usage", f"window-size={WIDTH},{HEIGHT}", "headless"),
)
_STARTED = "started successfully on port "
_WAIT = "const done = arguments[0]; const look = () => %s ? done(null) : setTimeout(look, 50); look()"


class Browser:
    """See the module. Up between __enter__ and __exit__."""

    def __enter__(self) -> Self:
        chromium, driver = program("chromium", "chromium"), program("chromedriver", "chromium-driver")
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(TemporaryDirectory(prefix="pysendmail-browser-", ignore_cleanup_errors=True))
            process = stack.enter_context(
                subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            )
            stack.callback(process.terminate)
            assert process.stdout is not None
            port = next(line.partition(_STARTED)[2] for line in process.stdout if _STARTED in line).strip(".\n")
            self._connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE_S)
            stack.callback(self._connection.close)
            flags = [*_QUIET, f"user-data-dir={profile}", *(["no-sandbox"] if os.geteuid() == 0 else [])]
            options = {"binary": chromium, "args": flags}
            self._session = ""
            capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
            opened = self._command("POST", "", {"capabilities": capabilities})
            self._session = f"/{opened['sessionId']}"
            stack.callback(self._command, "DELETE", "")
            self._command("POST", "/timeouts", {"script": int(PATIENCE_S * 1000)})
            self._end = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def open(self, address: str) -> None:
        self._command("POST", "/url", {"url": address})

    def ask(self, expression: str) -> Any:
        """The value of an expression on the page."""
        return self._command("POST", "/execute/sync", {"script": f"return {expression}", "args": []})

    def wait_for(self, expression: str) -> None:
        """Until it is true on the page."""
        self._command("POST", "/execute/async", {"script": _WAIT % f"({expression})", "args": []})

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._command("GET", "/screenshot")))

    def _command(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, f"/session{self._session}{path}", text, {"Content-Type": "application/json"})
        value = json.loads(self._connection.getresponse().read())["value"]
        assert not (isinstance(value, dict) and "error" in value), f"{method} {path}: {value['message']}"
        return value
