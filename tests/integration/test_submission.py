"""From argv and stdin to a message in the queue, or a refusal with its exit code; no process in between."""

from __future__ import annotations

import pwd
import quopri
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pysendmail import argv, spool, submission
from pysendmail.aliases import Aliases
from pysendmail.config import Access, Config, Route, Smarthost
from pysendmail.envelope import Recipient
from pysendmail.queue import COMMIT_OCTETS, PART_OCTETS
from pysendmail.records import Accepted
from pysendmail.smtp import wire
from pysendmail.submission import Caller, Refused, Submission
from rig.store import NOW, Store, config

TEXT = b"From: a@example.com\nTo: b@example.org\nSubject: x\n\nhello\n"
MAIN = Smarthost(name="main", host="smtp.example.com")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    submission._account_during.cache_clear()
    store = Store(tmp_path)
    yield store
    store.queue.close()


def begin(store: Store, *arguments: str, uid: int = 1000, aliases: str = "", **sections: Any) -> Submission:
    settings: Config = config(store.directory, MAIN, **sections)
    file = store.directory / "aliases"
    file.write_text(aliases)
    return Submission(
        argv.parse([b"sendmail", *(each.encode("utf-8", "surrogateescape") for each in arguments)]),
        caller=Caller(uid=uid),
        config=settings,
        aliases=Aliases.load(file),
        queue_id=store.queue.ids.new(NOW),
        submission_id=b"s" * 16,
    )


def submit(store: Store, *arguments: str, text: bytes = TEXT, **options: Any) -> Accepted:
    """As the daemon does it: feed, spill, and C1 in a transaction of its own."""
    one = begin(store, *arguments, **options)
    try:
        for start in range(0, len(text), 60_000):
            one.feed(text[start : start + 60_000])
            while (step := one.spill()) is not None:
                store.do(step, store.queue)
        accepted: Accepted = store.do(one.finish(NOW), store.queue)
    except BaseException:
        store.do(one.forget, store.queue)
        raise
    return accepted


def stored(store: Store, queue_id: str) -> tuple[bytes, bytes]:
    """Header and body."""
    row = store.sql("SELECT id, header FROM message WHERE queue_id = ?", queue_id)[0]
    return row["header"], b"".join(store.queue.parts(row["id"], 0, -1))


def refused(store: Store, *arguments: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        submit(store, *arguments, **options)
    assert "\n" not in str(caught.value)
    assert store.one("SELECT count(*) FROM message WHERE queue_id != 'OWN'") == 0
    assert store.one("SELECT count(*) FROM body WHERE message NOT IN (SELECT id FROM message)") == 0
    return caught.value.code, str(caught.value)


def test_a_local_name_that_gets_too_long(store: Store) -> None:
    """With the domain that it gets it is no address any more: refused with those words, not an error of ours."""
    domain = ".".join(["d" * 60] * 4)
    one = Submission(
        argv.parse([b"sendmail", b"a" * 20]),
        caller=Caller(uid=1000),
        config=replace(config(store.directory, MAIN), domain=domain),
        aliases=Aliases.load(""),
        queue_id=store.queue.ids.new(NOW),
        submission_id=b"s" * 16,
    )
    one.feed(TEXT)
    with pytest.raises(Refused, match="the address is longer than 254 octets"):
        one.finish(NOW)


LARGE = TEXT + b"x" * 70 + b"\n" * 3_000_000


@pytest.mark.parametrize(
    ("arguments", "options", "code", "words"),
    [
        (["-t"], {"text": b"Subject: x\n\nhello\n"}, 64, "no recipient"),
        (["-t"], {"text": b"To: (nobody)\n\nhello\n"}, 64, "no recipient"),
        (["-t"], {"text": b"To: a@@b\n\nhello\n"}, 65, ""),
        (["b@example.org\nRCPT TO:<evil@example.com>"], {}, 65, ""),
        (["--", "-b@example.org"], {}, 65, ""),
        (["<@relay:b@example.org>@x"], {}, 65, ""),
        (["b@" + "d" * 300 + ".org"], {}, 65, ""),
        (["-f", "a@b@c", "b@example.org"], {}, 65, "sender"),
        (["-f", "a@example.com,c@example.com", "b@example.org"], {}, 65, "one address"),
        (["b@example.org"], {"queue": {"max_message_size": 1024}, "text": TEXT + b"x" * 2000}, 65, "max_message_size"),
        (["b@example.org"], {"queue": {"max_message_size": 2_000_000}, "text": LARGE}, 65, "max_message_size"),
        (["b@example.org"], {"text": b"Received: by x; now\n" * 51 + TEXT}, 65, "51 Received"),
        (["-h", "51", "b@example.org"], {}, 65, "Received"),
        (["-O", "MaxHopCount=2", "b@example.org"], {"text": b"Received: x\n" * 3 + TEXT}, 65, "the limit is 2"),
        (["b@example.org"], {"text": b"X: " + b"y" * 1_100_000 + b"\n\n"}, 65, ""),
        ([f"u{n}@example.org" for n in range(4)], {"queue": {"max_recipients": 3}}, 65, "max_recipients"),
        (["many"], {"queue": {"max_recipients": 3}, "aliases": "many: a, b, c, d\n"}, 65, "max_recipients"),
        (["loop"], {"aliases": "loop: pool\npool: loop\n"}, 65, ""),
        (["-O", "requiretls=yes", "b@example.org"], {}, 69, "REQUIRETLS"),
    ],
)
def test_refusals(store: Store, arguments: list[str], options: dict[str, Any], code: int, words: str) -> None:
    """What is refused, with which code, in one line; nothing of it stays (promise 2)."""
    found = refused(store, *arguments, **options)
    assert found[0] == code
    assert words in found[1]


def test_over_a_users_limits(store: Store) -> None:
    """75 over a limit of [access], naming it; another user and root go on."""
    store.accept(queue_id="OWN", uid=1000, body=b"x" * 900)
    access = Access(messages=1)
    code, words = refused(store, "b@example.org", access=access)
    assert (code, "[access]" in words, "1 messages of 917 octets" in words) == (75, True, True)
    submit(store, "b@example.org", access=access, uid=1001)
    store.sql("DELETE FROM message WHERE uid = 1001")
    octets = Access(bytes=920)
    assert refused(store, "b@example.org", access=octets)[0] == 75
    submit(store, "b@example.org", access=access, uid=0)


def test_who_may_submit(store: Store) -> None:
    """77 for a user who is not in authorized_submitters, naming him and the key; root may always."""
    access = Access(authorized_submitters=("nobody-else",))
    code, words = refused(store, "b@example.org", access=access)
    assert (code, "uid1000" in words or "may not send" in words, "authorized_submitters" in words) == (77, True, True)
    submit(store, "b@example.org", access=access, uid=0)
    submit(store, "b@example.org", access=Access(authorized_submitters=("*",)))


@pytest.mark.parametrize(
    ("policy", "arguments", "warning"),
    [
        ("warn", ["-f", "ceo@example.com"], True),
        ("warn", [], False),
        ("off", ["-f", "ceo@example.com"], False),
        ("enforce", [], False),
        ("enforce", ["-f", ""], False),
    ],
)
def test_sender_policy(store: Store, policy: Any, arguments: list[str], warning: bool) -> None:
    """Under `warn` another's sender address gets a warning on top; one's own and the null one are always free."""
    accepted = submit(store, *arguments, "b@example.org", access=Access(sender_policy=policy))
    header, _ = stored(store, accepted.queue_id)
    assert (b"\r\nX-Authentication-Warning: box.example.com: " in header) is warning
    assert (b" set sender to ceo@example.com using -f\r\n" in header) is warning


LOGINS = {"joe": "joe@example.com", "joe@ad.example.net": "joe@ad.example.net", "AD\\joe": r'"AD\\joe"@example.com'}
LOGINS |= {"-joe": "uid1000@example.com", "joe smith": '"joe smith"@example.com', "a@b@c": '"a@b@c"@example.com'}


@pytest.mark.parametrize(("login", "address"), LOGINS.items(), ids=LOGINS)
def test_the_address_of_any_login_name(store: Store, monkeypatch: pytest.MonkeyPatch, login: str, address: str) -> None:
    """Also of those that sssd and winbind give: one address that can be sent from, and that is the user's own."""
    account = pwd.struct_passwd((login, "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: account)
    accepted = submit(store, "b@example.org", text=b"\nx\n", access=Access(sender_policy="enforce"))
    assert store.one("SELECT sender FROM message WHERE queue_id = ?", accepted.queue_id) == address
    assert f"From: {address}\r\n".encode() in stored(store, accepted.queue_id)[0]


@pytest.mark.parametrize("sender", ["uid1000@EXAMPLE.com", "uid1000@localhost", "uid1000@Box.example.com", "uid1000"])
def test_sender_policy_knows_his_own_in_every_spelling(
    store: Store, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    """The case of a domain and the names of this machine make nobody else of him."""
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    accepted = submit(store, "-f", sender, "b@example.org", access=Access(sender_policy="warn"))
    assert b"X-Authentication-Warning" not in stored(store, accepted.queue_id)[0]


def test_a_name_of_a_directory_is_no_local_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """joe@ad.example.net is not the joe of this machine."""
    account = pwd.struct_passwd(("joe@ad.example.net", "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: account)
    assert refused(store, "-f", "joe@localhost", "b@example.org", access=Access(sender_policy="enforce"))[0] == 77


def test_sender_policy_enforced(store: Store) -> None:
    """77 for another's sender address, naming the key; root may."""
    access = Access(sender_policy="enforce")
    code, words = refused(store, "-f", "ceo@example.com", "b@example.org", access=access)
    assert (code, "sender_policy" in words) == (77, True)
    submit(store, "-f", "ceo@example.com", "b@example.org", access=access, uid=0)


def test_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """75 where less than twice its size and 4 MiB is free, at the end of a small message, amid a large one."""
    monkeypatch.setattr(spool, "free_octets", lambda directory: 4 * 1024 * 1024)
    code, words = refused(store, "b@example.org")
    assert (code, "not enough room" in words, "nothing was queued" in words) == (75, True, True)
    assert refused(store, "b@example.org", text=LARGE)[0] == 75


def test_accepted(store: Store) -> None:
    """What is accepted: the envelope of argv, the header completed, a CRLF body, and Received on top."""
    accepted = submit(store, "-f", "Bounces <bounces@example.com>", "B <b@example.org>", "c@example.net")
    header, body = stored(store, accepted.queue_id)
    assert body == b"hello\r\n"
    assert header.startswith(b"Received: by box.example.com (pysendmail, from uid 1000) id ")
    assert header.endswith(b"\r\n") and b"\r\n\r\n" not in header
    assert store.states(accepted.queue_id) == {"b@example.org": "queued", "c@example.net": "queued"}
    row = store.sql("SELECT sender, uid, size, expires_at, warn_at FROM message")[0]
    expected = ("bounces@example.com", 1000, len(header) + 2 + 7, NOW + 432000, NOW + 14400)
    assert tuple(row) == expected


def test_the_same_submission_again(store: Store) -> None:
    """A submission id that is known gets the first answer and makes no second message, small or large."""
    for text in (TEXT, LARGE):
        store.sql("DELETE FROM message")
        first = submit(store, "b@example.org", text=text)
        second = submit(store, "b@example.org", text=text)
        assert (second.queue_id, second.again) == (first.queue_id, True)
        assert store.one("SELECT count(*) FROM message") == 1


def test_promise_7_bcc_is_gone(store: Store) -> None:
    """Bcc gives recipients with -t and stands nowhere in what is stored, however it is written."""
    text = b"To: b@example.org\nBcc: secret@example.net\nbCC : hidden@example.net\nSubject: x\n\nhello\n"
    accepted = submit(store, "-t", text=text)
    header, body = stored(store, accepted.queue_id)
    assert set(store.states(accepted.queue_id)) == {"b@example.org", "secret@example.net", "hidden@example.net"}
    assert b"secret" not in header + body and b"hidden" not in header + body


def test_aliases_and_routes(store: Store) -> None:
    """Each recipient after aliases once, with what was given, on the first route that matches; ORCPT where it helps."""
    routes = (Route(smarthost=("work",), recipient="*@work.example"),)
    accepted = submit(
        store, "team", "d@example.org", aliases="team: d@example.org, w@work.example\n", route=routes, uid=1000
    )
    rows = store.sql(
        "SELECT r.address, r.original, lane.route FROM recipient r JOIN lane ON lane.id = r.lane ORDER BY r.id"
    )
    assert [tuple(row) for row in rows] == [
        ("d@example.org", "team", "main"),
        ("w@work.example", "team", "work"),
    ]
    assert accepted.queue_id


def test_a_public_domain_names_nobody(store: Store) -> None:
    """With a mail provider's domain a local sender is one at the hostname, and a local name needs an alias."""
    assert refused(store, "pi", domain="gmail.com")[0] == 65
    accepted = submit(store, "b@example.org", domain="gmail.com")
    header, _ = stored(store, accepted.queue_id)
    assert store.one("SELECT sender FROM message").endswith("@box.example.com")
    assert b"gmail.com" not in header


@pytest.mark.parametrize("given", ["root@localhost", "jürgen@localhost"])
def test_orcpt_can_always_be_written(store: Store, given: str) -> None:
    """What was given before the aliases is told to a server with DSN in a form that fits it, ASCII or not."""
    accepted = submit(store, given, aliases="root: b@example.org\njürgen: b@example.org\n")
    orcpt = store.one("SELECT orcpt FROM recipient")
    assert orcpt == f"{'rfc822' if given.isascii() else 'utf-8'};{given}"
    assert wire.rcpt(Recipient(address="b@example.org", orcpt=orcpt), dsn=True).isascii()
    assert accepted.queue_id


@pytest.mark.parametrize("size", [COMMIT_OCTETS - 1, COMMIT_OCTETS, 3 * COMMIT_OCTETS + 12345])
def test_large_bodies_are_spilled(store: Store, size: int) -> None:
    """A large body is stored piece by piece, in parts of 256 KiB, and is the same as one that was not."""
    line = bytes(range(0x20, 0x7F)) + b"\n"
    text = b"Subject: x\n\n" + (line * (size // len(line) + 1))[:size]
    accepted = submit(store, "b@example.org", text=text)
    _, body = stored(store, accepted.queue_id)
    expected = text.split(b"\n\n", 1)[1].replace(b"\n", b"\r\n")
    expected += b"" if expected.endswith(b"\r\n") else b"\r\n"
    assert body == expected
    assert store.one("SELECT max(length(octets)) FROM body") <= PART_OCTETS or size < COMMIT_OCTETS
    assert store.one("SELECT size FROM message") == len(stored(store, accepted.queue_id)[0]) + 2 + len(body)


@pytest.mark.parametrize("size", [2_000, 3_000_000], ids=["in memory", "spilled"])
def test_overlong_lines_are_encoded_once(store: Store, size: int) -> None:
    """Lines over 998 octets: encoded at acceptance, decoded they are the octets that came, spilled or not."""
    lines = [bytes([65 + n % 26]) * (1500 + n % 7) for n in range(size // 1500 + 1)]
    lines[0] = b"=C3 equals stay = " + lines[0]
    text = b"Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain\n\n" + b"\n".join(lines) + b"\n"
    accepted = submit(store, "b@example.org", text=text)
    header, body = stored(store, accepted.queue_id)
    assert max(len(line) for line in body.split(b"\r\n")) <= 998
    assert b"Content-Transfer-Encoding: quoted-printable" in header
    assert quopri.decodestring(body).replace(b"\r\n", b"\n") == b"\n".join(lines) + b"\n"
    assert store.one("SELECT size FROM message") == len(header) + 2 + len(body)
    assert store.one("SELECT max(length(octets)) FROM body") <= PART_OCTETS


def test_a_lone_dot(store: Store) -> None:
    """A lone dot ends the message, but with -i it is a line as any other."""
    text = b"Subject: x\n\none\n.\ntwo\n"
    assert stored(store, submit(store, "b@example.org", text=text).queue_id)[1] == b"one\r\n"
    store.sql("DELETE FROM message")
    assert stored(store, submit(store, "-i", "b@example.org", text=text).queue_id)[1] == b"one\r\n.\r\ntwo\r\n"


def test_an_empty_stdin(store: Store) -> None:
    """An empty input is an empty message, as sendmail takes it."""
    accepted = submit(store, "b@example.org", text=b"")
    header, body = stored(store, accepted.queue_id)
    assert body == b"" and b"Message-ID:" in header and b"Date:" in header


def test_nobody_else_is_dropped(store: Store) -> None:
    """A submission whose first parts were rolled back forgets nothing of another that has their row number by now."""
    unlucky, lucky = begin(store, "b@example.org"), begin(store, "c@example.org")
    for one in (unlucky, lucky):
        one.feed(LARGE)
    step = unlucky.spill()
    assert step is not None
    store.queue.begin()
    step(store.queue)
    store.queue.rollback()  # as a full disk does
    step = lucky.spill()
    assert step is not None
    store.do(step, store.queue)
    store.do(unlucky.forget, store.queue)
    assert store.one("SELECT queue_id FROM message") == lucky.queue_id
