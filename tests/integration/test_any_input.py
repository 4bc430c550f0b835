"""Whatever argv and standard input hold: an exit code and words, never a traceback, and no message nobody meant."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pysendmail import argv, direct
from pysendmail.argv import Mode, UsageError
from pysendmail.listing import waiting_page
from pysendmail.queue import Queue
from rig.instance import Instance

SYSEXITS = {0, *range(64, 79)}
_values = ["", "x", "a@example.org", "full", "never", "7BIT", "DeliveryMode=q", "IgnoreDots=yes", "9"]
_options = [option.name for option in argv.OPTIONS]
_words = st.one_of(
    st.sampled_from(
        _options + _values + ["--", "-", "-ti", "-oem", "-bv", "bob@example.org", "Bob <b@example.org>, c@d.example"]
    ),
    st.tuples(st.sampled_from(_options), st.sampled_from(_values)).map("".join),
    st.binary(max_size=12).map(lambda octets: octets.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
)
_lines = st.sampled_from(
    [
        b"To: eve@example.org",
        b"Bcc: c@d.example",
        b"Resent-To: x@y.example",
        b"",
        b".",
        b" more",
        b"From: a@b",
        b"To: @@",
    ]
)
_input = st.one_of(
    st.lists(st.one_of(_lines, st.binary(max_size=40)), max_size=12).map(b"\n".join), st.binary(max_size=200)
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Instance:
    return Instance(tmp_path_factory.mktemp("any"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(_words, max_size=6), text=_input)
def test_any_argv_and_any_input(instance: Instance, words: list[str], text: bytes) -> None:
    """A code of sysexits with words of ours; one message at most, and only to whom argv or the header names."""
    given_argv = [b"sendmail", *(word.encode("utf-8", "surrogateescape") for word in words)]
    try:
        asked = argv.parse(given_argv)
    except UsageError:
        asked = None
    if asked is not None and (asked.mode in (Mode.DAEMON, Mode.CHECK) or asked.wait):
        return  # they look at the machine, or stay
    before = {entry["queue_id"] for entry in listed(instance)}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = direct.run(
            tuple(given_argv),
            {},
            iter([text] if text else []),
            os.urandom(16),
            str(instance.config),
            str(instance.socket),
        )
    assert code in SYSEXITS
    assert all(line.startswith("sendmail: ") or code == 0 for line in err.getvalue().splitlines())
    new = [entry for entry in listed(instance) if entry["queue_id"] not in before]
    assert len(new) == (1 if asked is not None and asked.mode is Mode.SUBMIT and code == 0 else 0)
    named = " ".join(words).encode("utf-8", "surrogateescape") + (text if asked and asked.read_recipients else b"")
    for entry in new:
        for recipient in entry["recipients"]:
            local, _, domain = recipient["address"].rpartition("@")
            mentioned = named.decode("utf-8", "surrogateescape")
            assert local.strip('"').replace("\\", "") in mentioned.replace("\\", "")
            assert domain == "example.com" or domain.lower() in mentioned.lower() or not mentioned.isascii()


def listed(instance: Instance) -> list[dict[str, Any]]:
    if not Path(instance.queue_directory / "queue.db").exists():
        return []
    queue = Queue.open_readonly(instance.queue_directory)
    try:
        entries: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page, after = waiting_page(queue, after=after, uid=None, obstacle=lambda route: None)
            entries += page
        return entries
    finally:
        queue.close()
