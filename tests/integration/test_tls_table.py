"""The TLS table, every cell on real sockets: what the server does wrong, what is configured, what has to come of it.

In every cell all octets that went in clear are searched: for the password always (unless auth_in_clear says
otherwise), for sender, recipient and body wherever the message must not have gone in clear.
"""

import asyncio
import ssl
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pysendmail import tlscontext, tlspolicy
from pysendmail.config import Timeout
from pysendmail.connection import Opener, leave
from pysendmail.outcome import Outcome, Scope, Stage
from pysendmail.session import SessionError
from pysendmail.tlspolicy import Check
from rig.ca import Authority
from rig.client import BODY, HEADER, PATIENT, open_session, outgoing, smarthost
from rig.peer import Behaviour, Client, Ordinary, Peer

PASSWORD = "open sesame"
SHORT = Timeout(tls=0.3)


async def until_starttls(client: Client) -> None:
    """An ordinary server up to the client's STARTTLS."""
    await client.say("220 peer.example")
    await client.hear("EHLO")
    await client.say("250-peer.example", "250-AUTH PLAIN", "250 STARTTLS")
    await client.hear("STARTTLS")


async def garbage(client: Client) -> None:
    await until_starttls(client)
    await client.say("220 go ahead")
    await client.reader.read(1)
    await client.send(b"this is not TLS at all, whatever you may think of it\r\n")
    await client.stall()


async def stalls(client: Client) -> None:
    await until_starttls(client)
    await client.say("220 go ahead")
    await client.stall()


async def closes(client: Client) -> None:
    await until_starttls(client)
    await client.say("220 go ahead")
    await client.reader.read(1)
    client.close()


async def resets(client: Client) -> None:
    await until_starttls(client)
    await client.say("220 go ahead")
    await client.reader.read(1)
    client.reset()


async def closes_instead_of_220(client: Client) -> None:
    await until_starttls(client)
    client.close()


async def leftover_line(client: Client) -> None:
    await until_starttls(client)
    await client.say("220 go ahead", "250 AUTH PLAIN")
    await client.stall()


async def leftover_fragment(client: Client) -> None:
    await until_starttls(client)
    await client.send(b"220 go ahead\r\n250-x")
    await client.stall()


def closes_at_second_ehlo(context: ssl.SSLContext) -> Behaviour:
    async def behaviour(client: Client) -> None:
        await until_starttls(client)
        await client.say("220 go ahead")
        await client.start_tls(context)
        await client.hear("EHLO")
        client.close()

    return behaviour


# -- STARTTLS --------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"tls": "none"},
    "may": {"tls": "may"},
    "may, no fallback": {"tls": "may", "tls_fallback": False},
    "may, seen": {"tls": "may"},
    "encrypt": {"tls": "encrypt"},
    "verify": {"tls": "verify"},
    "fingerprint": {"tls": "fingerprint"},
}
# same: in clear on the same connection; new: in clear on a new one; tls; no: deferred
TABLE = """
                       none  may   may,no_fallback  may,seen  encrypt  verify  fingerprint
good                   same  tls   tls              tls       tls      tls     tls
not-offered            same  same  same             no        no       no      no
refused-454            same  same  same             no        no       no      no
refused-502            same  same  same             no        no       no      no
garbage                same  new   no               no        no       no      no
stalls                 same  new   no               no        no       no      no
closes                 same  new   no               no        no       no      no
resets                 same  new   no               no        no       no      no
closes-instead-of-220  same  new   no               no        no       no      no
closes-at-second-EHLO  same  new   no               no        no       no      no
too-old                same  new   no               no        no       no      no
wants-client           same  new   no               no        no       no      no
wrong-name             same  tls   tls              tls       tls      no      no
expired                same  tls   tls              tls       tls      no      no
unknown-authority      same  tls   tls              tls       tls      no      no
refused-421            same  no    no               no        no       no      no
leftover-line          same  no    no               no        no       no      no
leftover-fragment      same  no    no               no        no       no      no
"""


def behaviour(server: str, authority: Authority) -> Behaviour:
    """What the first connection meets."""
    match server:
        case "good":
            return Ordinary(tls=authority.server(), auth="PLAIN")
        case "not-offered":
            return Ordinary(auth="PLAIN")
        case "refused-454":
            return Ordinary(tls=authority.server(), auth="PLAIN", starttls="454 4.7.0 TLS not available")
        case "refused-502":
            return Ordinary(tls=authority.server(), auth="PLAIN", starttls="502 5.5.1 no")
        case "refused-421":
            return Ordinary(tls=authority.server(), auth="PLAIN", starttls="421 4.3.2 bye")
        case "too-old":
            return Ordinary(tls=authority.server(newest=ssl.TLSVersion.TLSv1_2), auth="PLAIN")
        case "wants-client":
            return Ordinary(tls=authority.server(wants_client=True), auth="PLAIN")
        case "wrong-name" | "expired" | "unknown-authority" as kind:
            return Ordinary(tls=authority.server(kind.replace("-", " ")), auth="PLAIN")
        case "closes-at-second-EHLO":
            return closes_at_second_ehlo(authority.server())
        case name:
            return {
                "garbage": garbage,
                "stalls": stalls,
                "closes": closes,
                "resets": resets,
                "closes-instead-of-220": closes_instead_of_220,
                "leftover-line": leftover_line,
                "leftover-fragment": leftover_fragment,
            }[name]


@dataclass(frozen=True)
class Cell:
    """One case of the table."""

    server: str
    setting: str
    credentials: str  # "", "guarded" or "in clear"
    outcome: str

    def __str__(self) -> str:
        return f"{self.setting}|{self.server}|{self.credentials or 'no'} credentials"


def cells() -> list[Cell]:
    """The table's cells without credentials, with those for TLS only, and with those for clear as well.

    Credentials that may go in clear change nothing. Credentials that may not make "may" what "may, seen" is, and
    are refused with "none" before anything is sent.
    """
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    names = [name.replace(",", ", ").replace("_", " ") for name in head]
    found = []
    for server, *outcomes in rows:
        table = dict(zip(names, outcomes, strict=True))
        for setting, outcome in table.items():
            guarded = "refused" if setting == "none" else table["may, seen"] if "may" in setting else outcome
            found.append(Cell(server, setting, "", outcome))
            found.append(Cell(server, setting, "in clear", outcome))
            found.append(Cell(server, setting, "guarded", guarded))
    return found


def settings(cell: Cell, authority: Authority, password: Path) -> dict[str, Any]:
    """The smarthost's settings in this cell."""
    chosen = {"tls_ca_file": authority.file, "tls_fingerprints": (authority.fingerprint(),)} | SETTINGS[cell.setting]
    if cell.server == "too-old":
        chosen["tls_minimum"] = "1.3"
    if cell.credentials:
        chosen |= {"username": "box", "password_file": str(password), "auth_in_clear": cell.credentials == "in clear"}
    return chosen


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the password."""
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    return path


def assert_nothing_of(clear: bytes, *needles: bytes) -> None:
    for needle in needles:
        assert needle not in clear


SECRETS = (PASSWORD.encode(), b64encode(PASSWORD.encode()), b64encode(b"\0box\0" + PASSWORD.encode()), b"AUTH PLAIN")
MAIL = (
    b"MAIL",
    b"RCPT",
    b"DATA",
    b"example.org",
    *HEADER.splitlines(),
    *(line for line in BODY.splitlines() if len(line) > 1),
)


@pytest.mark.parametrize("cell", cells(), ids=str)
async def test_cell(cell: Cell, authority: Authority, password: Path) -> None:
    """The outcome is the table's, and nothing went in clear that must not."""
    # Whoever falls back finds a server that would take everything, TLS or not.
    first, then = behaviour(cell.server, authority), Ordinary(tls=authority.server(), auth="PLAIN")
    if cell.setting == "none":
        first = Ordinary(tls=authority.server(), auth="PLAIN")
    async with Peer(first, then) as peer:
        relay = smarthost(peer, **settings(cell, authority, password))
        seen = 999.0 if cell.setting == "may, seen" else None
        try:
            session = await open_session(relay, timeout=SHORT if cell.server == "stalls" else PATIENT, tls_seen_at=seen)
        except SessionError as error:
            assert cell.outcome in ("no", "refused")
            assert error.trouble.verdict.outcome is Outcome.DEFERRED
            assert error.trouble.verdict.scope in (Scope.SMARTHOST, Scope.SESSION)
            assert not error.tls_failed
            assert len(peer.clients) == (0 if cell.outcome == "refused" else 1)
            assert_nothing_of(peer.clear, *SECRETS, *MAIL)
            assert not peer.messages
            leftover = cell.server.startswith(("leftover", "refused-421"))
            held = cell.setting == "may, seen" and cell.credentials != "guarded" and not leftover
            assert error.tls_held is held
            return
        assert cell.outcome == ("tls" if session.tls != "none" else "new" if session.fallback else "same")
        assert bool(session.tls_failed) is (cell.outcome == "new")
        assert len(peer.clients) == (2 if cell.outcome == "new" else 1)
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await session.close()
        assert [message.content for message in peer.messages] == [HEADER + b"\r\n" + BODY]
        assert peer.messages[0].tls is (cell.outcome == "tls")
        if cell.credentials:
            assert ["PLAIN " + b64encode(b"\0box\0" + PASSWORD.encode()).decode()] == peer.exchanges
        if cell.outcome == "tls":
            assert_nothing_of(peer.clear, *SECRETS, *MAIL)


# -- implicit TLS ----------------------------------------------------------------------------------------

IMPLICIT = """
                   may  encrypt  verify  fingerprint
good               tls  tls      tls     tls
wrong-name         tls  tls      no      no
expired            tls  tls      no      no
unknown-authority  tls  tls      no      no
too-old            no   no       no      no
speaks-first       no   no       no      no
stalls             no   no       no      no
closes             no   no       no      no
"""


async def speaks_first(client: Client) -> None:
    await Ordinary(auth="PLAIN")(client)


async def only_stalls(client: Client) -> None:
    await client.stall()


async def only_closes(client: Client) -> None:
    client.close()


def implicit_cells() -> list[Cell]:
    """Credentials make no difference: it is TLS or nothing."""
    head, *rows = [line.split() for line in IMPLICIT.strip().splitlines()]
    return [
        Cell(server, setting, credentials, outcome)
        for server, *outcomes in rows
        for setting, outcome in zip(head, outcomes, strict=True)
        for credentials in ("", "guarded", "in clear")
    ]


@pytest.mark.parametrize("cell", implicit_cells(), ids=str)
async def test_implicit_cell(cell: Cell, authority: Authority, password: Path) -> None:
    """With implicit TLS there is no clear at any level, not even a greeting."""
    ordinary = Ordinary(auth="PLAIN")
    match cell.server:
        case "speaks-first":
            peer = Peer(speaks_first)
        case "stalls":
            peer = Peer(only_stalls)
        case "closes":
            peer = Peer(only_closes)
        case "too-old":
            peer = Peer(ordinary, tls=authority.server(newest=ssl.TLSVersion.TLSv1_2))
        case kind:
            peer = Peer(ordinary, tls=authority.server(kind.replace("-", " ")))
    async with peer:
        relay = smarthost(peer, **settings(cell, authority, password) | {"tls_implicit": True})
        try:
            session = await open_session(relay, timeout=SHORT if cell.server == "stalls" else PATIENT)
        except SessionError as error:
            assert cell.outcome == "no"
            assert error.trouble.verdict.scope is Scope.SMARTHOST
            assert not error.tls_failed
        else:
            assert cell.outcome == "tls"
            assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
            assert peer.messages[0].tls
            await session.close()
        assert len(peer.clients) <= 1
        assert_nothing_of(peer.clear, *SECRETS, *MAIL, b"EHLO")


# -- beside the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"tls": "none", "tls_implicit": True}, {"tls": "fingerprint"}], ids=str)
async def test_contradictions_open_nothing(change: dict[str, Any]) -> None:
    """Settings that the loader would refuse lead to no connection, whoever made them."""
    async with Peer() as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **change))
        assert raised.value.trouble.verdict.scope is Scope.SMARTHOST
        assert not peer.clients


async def test_a_remembered_failure_goes_in_clear_without_trying() -> None:
    """For ten minutes after a failed handshake STARTTLS is not tried, so that it cannot stall again."""
    async with Peer(stalls, Ordinary()) as peer:
        relay = smarthost(peer, tls="may")
        first = await open_session(relay, timeout=SHORT)
        assert first.fallback
        assert first.tls_failed
        await first.close()
        second = await open_session(relay, failed_s=1.0)
        assert second.fallback
        assert not second.tls_failed
        await second.close()
    assert peer.commands.count("STARTTLS") == 1


async def test_the_memory_is_named() -> None:
    """Where the TLS memory holds mail back, the reason says so and names the mend."""
    async with Peer() as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="may"), tls_seen_at=999.0)
    assert raised.value.tls_held
    assert "tls_memory" in raised.value.trouble.reason
    assert "pysendmail probe --forget main" in raised.value.trouble.reason


async def test_octets_that_come_behind_the_220() -> None:
    """Octets in a segment of their own, which lie in the kernel when the 220 is read, end the session as well."""

    async def go_ahead(client: Client) -> None:
        await until_starttls(client)
        await client.say("220 go ahead")
        await client.stall()

    def inject(line: str) -> None:
        if line == "< 220 go ahead":
            peer.clients[0].writer.get_extra_info("socket")._sock.send(b"2")

    async with Peer(go_ahead, Ordinary()) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="may"), trace=inject)
        assert raised.value.trouble.status == "4.5.0"
        assert not raised.value.tls_failed
        assert len(peer.clients) == 1


async def test_a_client_certificate_is_shown(authority: Authority) -> None:
    """A server that wants a client certificate gets the configured one."""
    async with Peer(Ordinary(tls=authority.server(wants_client=True))) as peer:
        certificate = authority.client_certificate
        session = await open_session(smarthost(peer, tls="encrypt", tls_client_certificate=certificate))
        assert session.tls == "TLSv1.3"
        await session.close()


@pytest.mark.parametrize("key", ["tls_ca_file", "tls_client_certificate"])
async def test_a_file_that_cannot_be_read(key: str, tmp_path: Path, authority: Authority) -> None:
    """A missing CA or certificate file is the smarthost's trouble and names the file; nothing goes in clear."""
    async with Peer(Ordinary(tls=authority.server())) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="verify", **{key: str(tmp_path / "none.pem")}))
        assert raised.value.trouble.verdict.scope is Scope.SMARTHOST
        assert "none.pem" in raised.value.trouble.reason
        assert_nothing_of(peer.clear, *MAIL)


async def test_a_renewed_file_is_taken_up(tmp_path: Path, authority: Authority) -> None:
    """A CA file that changes is read again, without a restart."""
    file = tmp_path / "ca.pem"
    other = tmp_path / "other"
    other.mkdir()
    file.write_bytes(Path(Authority(other).file).read_bytes())
    async with Peer(Ordinary(tls=authority.server())) as peer:
        relay = smarthost(peer, tls="verify", tls_ca_file=str(file))
        with pytest.raises(SessionError):
            await open_session(relay)
        file.write_bytes(Path(authority.file).read_bytes() + b"\n")
        session = await open_session(relay)
        await session.close()


async def test_every_python_verifies_alike(authority: Authority) -> None:
    """VERIFY_X509_STRICT, which Python 3.13 adds to its defaults, would refuse private authorities that 3.12 takes."""
    async with Peer() as peer:
        context = await tlscontext.get(smarthost(peer, tls_ca_file=authority.file), Check.NAME)
    assert context.verify_flags == ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_what_was_learnt_before_tls_is_forgotten(authority: Authority) -> None:
    """Extensions offered in clear only are not used under TLS (RFC 3207 §4.2)."""

    async def forgetful(client: Client) -> None:
        await client.say("220 peer.example")
        await client.hear("EHLO")
        await client.say("250-peer.example", "250-PIPELINING", "250-SIZE 5", "250-AUTH LOGIN", "250 STARTTLS")
        await client.hear("STARTTLS")
        await client.say("220 go")
        await client.start_tls(authority.server())
        await client.hear("EHLO")
        await client.say("250 peer.example")
        for line in ("MAIL FROM:<s@example.org>", "RCPT", "DATA"):
            assert await client.hear(line)
            await client.say("354 go" if line == "DATA" else "250 ok")
        await client.hear_message()
        await client.say("250 ok")
        await client.hear("QUIT")
        await client.say("221 bye")

    async with Peer(forgetful) as peer:
        session = await open_session(smarthost(peer, tls="encrypt"))
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await asyncio.gather(session.close(), peer.settled())
    assert not peer.errors


@pytest.mark.parametrize(
    ("server", "stage", "reason"),
    [
        ("not-offered", Stage.STARTTLS, 'the server does not offer STARTTLS (tls = "encrypt" demands TLS)'),
        ("refused-454", Stage.STARTTLS, '454 4.7.0 TLS not available (tls = "encrypt" demands TLS)'),
        ("refused-421", Stage.STARTTLS, "421 4.3.2 bye"),
        ("leftover-line", Stage.STARTTLS, "unasked: 250 AUTH PLAIN"),
        ("stalls", Stage.TLS, 'no TLS handshake in 0.3 s (tls = "encrypt" demands TLS)'),
        ("garbage", Stage.TLS, "TLS handshake failed: "),
        ("resets", Stage.TLS, 'TLS handshake failed: Connection reset by peer (tls = "encrypt" demands TLS)'),
        ("closes-at-second-EHLO", Stage.TLS, "TLS handshake failed: "),
    ],
)
async def test_the_words_of_a_failure(server: str, stage: Stage, reason: str, authority: Authority) -> None:
    """Where it happened and what it was, and what demands TLS where clear would have been a way; it was no TLS."""
    async with Peer(behaviour(server, authority), Ordinary()) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="encrypt"), timeout=SHORT if server == "stalls" else PATIENT)
    assert raised.value.trouble.stage is stage
    assert raised.value.trouble.reason.startswith(reason)
    assert raised.value.tls == "none"
    assert ("STARTTLS" in peer.commands) is (server != "not-offered")


async def test_no_answer_to_starttls() -> None:
    """That is a server in trouble and no failed handshake: nothing goes in clear for it."""

    async def silent(client: Client) -> None:
        await until_starttls(client)
        await client.stall()

    async with Peer(silent, Ordinary()) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="may"), timeout=Timeout(command=0.3))
    assert raised.value.trouble.stage is Stage.STARTTLS
    assert raised.value.trouble.reason == "no answer in 0.3 s at starttls"
    assert len(peer.clients) == 1


async def test_garbage_under_tls(authority: Authority) -> None:
    """Behind a handshake that went well, nonsense in the answer to EHLO is no reason to go on in clear."""

    async def nonsense(client: Client) -> None:
        await until_starttls(client)
        await client.say("220 go ahead")
        await client.start_tls(authority.server())
        await client.hear("EHLO")
        await client.say("nonsense")
        await client.stall()

    async with Peer(nonsense, Ordinary()) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, tls="may"))
    assert raised.value.trouble.stage is Stage.EHLO
    assert not raised.value.tls_failed
    assert len(peer.clients) == 1


@pytest.mark.parametrize("implicit", [False, True])
async def test_what_is_known_of_the_tls(implicit: bool, authority: Authority) -> None:
    """Version, cipher and the certificate's end, for `probe` and `status`; who asked sees the connection's own TLS."""
    ordinary = Ordinary() if implicit else Ordinary(tls=authority.server())
    async with Peer(ordinary, tls=authority.server() if implicit else None) as peer:
        relay = smarthost(peer, tls="encrypt", tls_implicit=implicit)
        plan = tlspolicy.plan(relay, now=1000.0, tls_seen_at=None, failed_s=None)
        opener = Opener(relay, hostname="client.example", timeout=PATIENT, plan=plan)
        seen: list[ssl.SSLObject] = []
        opener.on_tls = seen.append
        connection = await opener.open()
        assert [(one.version(), (one.cipher() or [""])[0]) for one in seen] == [(connection.tls, connection.cipher)]
        assert connection.certificate_until.endswith("Z")
        assert not connection.fallback
        await leave(connection)
