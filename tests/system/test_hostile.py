"""Promise 14 against one who tries: nothing that a user sends to `submit` stops the service or another's submission."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pysendmail import frames
from rig.hostile import (
    ATTACKS,
    MAIL,
    MALFORMED,
    PATIENCE_S,
    answer,
    attack,
    hello,
    opening,
    request,
    submission,
    submissions,
)
from rig.instance import BIN, OTHERS, Instance, can_be, smarthost
from rig.peer import Ordinary, PeerThread

ATTACKER, VICTIM, _ = OTHERS
ME = str(os.geteuid())
MORE_MEMORY = 256 << 10  # KiB; what an endless something would take is without bound
BUSY = {"bob@example.org": "451 4.2.1 mailbox is busy"}


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """One daemon for all of it: what one attack has left behind the next one meets."""
    with tempfile.TemporaryDirectory(prefix="pysendmail-test-") as directory:
        Path(directory).chmod(0o755)
        with (
            PeerThread(Ordinary(rcpt=BUSY)) as peer,
            Instance(Path(directory), smarthosts=[smarthost(peer)]) as instance,
        ):
            yield instance
            assert instance.matching("bug") == []
            assert instance.matching("library") == []
            assert instance.stop() == 0
            assert [line for line in instance.log.splitlines() if not line.startswith("event=")] == []


def peak(instance: Instance) -> int:
    """The most memory that the daemon had so far, in KiB."""
    assert instance.process is not None
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{instance.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "none"])
def test_promise_14_another_user_submits_during_an_attack(instance: Instance, name: str) -> None:
    """His mail is taken and delivered, the daemon lives, logs no error of ours, and its memory has a bound."""
    if not can_be(ATTACKER):
        pytest.skip(f"attacks of another user: needs root, setpriv, and a Python and {BIN} that everybody may read")
    before, seen = peak(instance), len(instance.events)
    with attack(name, instance.socket, uid=ATTACKER):
        taken = submissions(instance.socket, uid=VICTIM, seconds=0.5, least=3)
    assert {code for code, _ in taken} == {0}
    instance.wait_for("outcome", after=seen, count=len(taken), uid=str(VICTIM), status="sent")
    assert instance.matching("bug", after=seen) == []
    assert peak(instance) - before < MORE_MEMORY


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_conversation_is_closed(instance: Instance, name: str) -> None:
    """Without an answer, but for another version and wrong usage; nothing is queued, and no error of ours is logged."""
    seen = len(instance.events)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(instance.socket))
        said = b""
        try:
            sock.sendall(MALFORMED[name])
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(1 << 16):
                said += data
        except (BrokenPipeError, ConnectionResetError):
            pass
    spoken = frames.Decoder(frames.TO_CLIENT).feed(said)
    if name == "a version of tomorrow":
        assert spoken[-1] == frames.Frame(frames.EXIT, b"\x45")
    elif name == "ask, then a submission":
        assert spoken in ([], [frames.Frame(frames.UNKNOWN, b"")])
    else:
        assert spoken == []
    assert answer(str(instance.socket), submission(b"carol@example.org"))[0] == 0
    instance.wait_for("accepted", after=seen, uid=ME)
    assert len(instance.matching("accepted", after=seen, fields={"uid": ME})) == 1
    assert instance.matching("bug", after=seen) == []


def test_frames_after_the_end_are_nothing(instance: Instance) -> None:
    """At most the message that was whole is taken: what came behind its end is no second one."""
    seen = len(instance.events)
    start, end = (
        opening(b"sendmail", b"carol@example.org") + frames.encode(frames.DATA, MAIL),
        frames.encode(frames.END),
    )
    with socket.socket(socket.AF_UNIX) as sock, suppress(ConnectionError):
        sock.settimeout(PATIENCE_S)
        sock.connect(str(instance.socket))
        sock.sendall(start + end + start + end)
        while sock.recv(1 << 16):
            pass
    assert answer(str(instance.socket), submission(b"dave@example.org"))[0] == 0
    instance.wait_for("outcome", after=seen, recipient="<dave@example.org>", status="sent")
    assert len(instance.matching("accepted", after=seen, fields={"uid": ME})) <= 2


def test_asking_for_what_one_did_not_submit(instance: Instance) -> None:
    """A random submission id is unknown, whatever waits; one's own is known by its exit code."""
    path, known = str(instance.socket), os.urandom(frames.ID_OCTETS)
    mine = frames.encode(frames.HELLO, frames.pack_hello(known))
    assert answer(path, mine + submission(b"carol@example.org")[len(hello()) :])[0] == 0
    assert answer(path, mine + frames.encode(frames.ASK))[0] == 0
    for _ in range(20):
        assert answer(path, hello() + frames.encode(frames.ASK)) == (-1, b"")


@pytest.mark.parametrize(
    "octets",
    [
        b"[" * 100_000,
        b"{" * 10,
        b"null",
        b'{"verb": ["list"]}',
        b'{"verb": "list", "ids": "x"}',
        b'{"verb": "list", "ids": ["\\ud800"]}',
        b'{"verb": "list", "filters": 5}',
        b'{"verb": "list", "filters": [{"what": "sender", "text": "\\ud800", "negated": true}]}',
        b'{"verb": "history", "since": 1%s}' % (b"0" * 400),
        b'{"verb": "history", "since": NaN}',
        b'{"verb": "history", "since": 1e999}',
        b'{"verb": "history", "to": "\\ud800"}',
        b'{"verb": "history", "to": {"a": 1}}',
        b'{"verb": "hold", "all": true, "reason": "\\ud800\\n"}',
        b'{"verb": "flush", "filters": [[]]}',
        b"\xff\xfe",
        b"1" * 5000,
    ],
)
def test_odd_requests_are_no_error_of_ours(instance: Instance, octets: bytes) -> None:
    """0, 64 or 66 with words: never a traceback in the log, whatever the JSON holds."""
    code, _ = answer(str(instance.socket), opening(b"pysendmail", octets) + frames.encode(frames.END))
    assert code in (0, 64, 66)
    assert instance.matching("bug") == []


def test_descriptors_are_left_for_the_mail(open_path: Path, other: int) -> None:
    """With all conversations that the daemon takes under way, mail moves and `control` answers; who comes waits."""
    with PeerThread() as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)], access={"connections": 15})
        few = ["prlimit", "--nofile=120:120"]
        with instance:
            assert instance.stop() == 0
            instance.start(wrapper=few)
            with attack("idle connections", instance.socket, uid=ATTACKER):
                instance.wait_for("refused", uid=str(ATTACKER))
                with attack("idle connections", instance.socket, uid=VICTIM):
                    instance.pysendmail("status", code=None)
                    assert answer(str(instance.socket.with_name("control")), request(verb="status"))[0] == 0
                    seen = len(instance.events)
                    code, _ = answer(str(instance.socket.with_name("control")), submission(b"carol@example.org"))
                    assert code == 0
                    instance.wait_for("outcome", after=seen, status="sent")
            instance.submit("dave@example.org", uid=other + 2)
            assert instance.matching("socket") == []
