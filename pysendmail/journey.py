"""journey: one message of ours through sendmail, the queue and the smarthost, told as it goes (`pysendmail setup`).

The programs are those that everybody uses: the sendmail client, started anew, and where no daemon answers, the daemon
with --once. What became of the message is what `queue explain` says of it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

from pysendmail import spool
from pysendmail.config import Config
from pysendmail.config_file import ENVIRONMENT, Instance

Entry = dict[str, Any]
Ask = Callable[[Entry], Iterator[Entry]]
PATIENCE_S = 120.0  # for the first attempt; after that it is the daemon's

_TEXT = """\
To: {to}
Subject: pysendmail on {host} works
Message-ID: {message_id}
Date: {date}
Auto-Submitted: auto-generated

This is the test of `pysendmail setup` on {host}, through {relay}.
If you read it in your mailbox, mail of this machine arrives.
"""


class NoJourney(Exception):
    """The message was not even accepted; sendmail has said why."""


def send(instance: Instance, config: Config, ask: Ask, to: str) -> Entry:
    """Send the message and wait for its first attempt; the entry of `queue explain` about it."""
    message_id = f"<{secrets.token_hex(12)}.setup@{config.hostname}>"
    relay = config.smarthost[0]
    text = _TEXT.format(
        to=to, host=config.hostname, message_id=message_id, date=formatdate(), relay=f"{relay.host} port {relay.port}"
    )
    environment = {**os.environ, **({ENVIRONMENT: str(instance.path)} if instance.explicit else {})}
    begun = time.time() - 1
    served = spool.answers(config.daemon.socket)
    submitted = _run("pysendmail.thin.client", "sendmail", "-v", "-i", "--", to, text=text, environment=environment)
    if submitted:
        raise NoJourney(f"sendmail ended with exit code {submitted}")
    if not served:  # it is safe in the queue; somebody has to send it
        _run("pysendmail.cli", "pysendmail", "daemon", "--once", environment=environment, quiet=True)
    for entry in ask({"verb": "history", "to": to, "since": begun}):
        if entry["message_id"] == message_id:
            return next(ask({"verb": "explain", "ids": [entry["queue_id"]]}))
    raise NoJourney(f"the history of {config.queue.directory} does not know it")


def _run(
    module: str, name: str, *arguments: str, environment: dict[str, str], text: str = "", quiet: bool = False
) -> int:
    """A command of ours in a process of its own, with the Python that runs us; its exit code."""
    code = f"import sys; sys.path[:] = {sys.path!r}; sys.argv[0] = {name!r}; from {module} import run; run()"
    command = [sys.executable, "-I", "-S", "-c", code, *arguments]
    errors = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(
            command, input=text.encode(), stderr=errors, env=environment, timeout=PATIENCE_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 0  # it takes long: what is known by now is told
