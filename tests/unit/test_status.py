"""Status and explain: each finding, its level, its words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pysendmail import explain, status
from pysendmail.config import Retry, Smarthost, TlsLevel
from pysendmail.outcome import Fault, Stage, Trouble
from pysendmail.relay import Relay
from pysendmail.smtp.reply import Reply
from pysendmail.status import Circumstances, Counts, Obstacle, obstacle, report
from pysendmail.units import rfc3339
from rig.store import NOW, config

MAIN = Smarthost(name="main", host="smtp.example.com")
BACKUP = Smarthost(name="backup", host="backup.example.com")
CONFIG = config(Path("/q"), MAIN, BACKUP)
COUNTS = Counts(
    queued=0,
    deferred=0,
    held=0,
    in_flight=0,
    failed=0,
    oldest_at=None,
    damaged=0,
    lost_reports=0,
    waiting_routes=(),
)
RUNNING = Circumstances(daemon=True)


def relay(smarthost: Smarthost = MAIN, *, trouble: bool = False, tls_held: bool = False) -> Relay:
    one = Relay(smarthost)
    if trouble or tls_held:
        why = Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, f"{smarthost.name}: connection refused")
        one.fail(why, Retry(), clock=0, now=NOW, tls_held=tls_held)
    return one


WAITING = replace(COUNTS, queued=3, waiting_routes=(("main", "backup"),), oldest_at=NOW - 60)


@pytest.mark.parametrize(
    ("counts", "relays", "circumstances", "health", "words"),
    [
        (COUNTS, [relay()], RUNNING, "ok", ""),
        (WAITING, [relay(), relay(BACKUP)], RUNNING, "ok", ""),
        (COUNTS, [relay()], Circumstances(daemon=False), "critical", "no daemon is running"),
        (
            COUNTS,
            [relay()],
            replace(RUNNING, store_error="disk I/O error"),
            "critical",
            "/q/queue.db cannot be written",
        ),
        (WAITING, [relay(trouble=True), relay(BACKUP, trouble=True)], RUNNING, "critical", "main, backup"),
        (WAITING, [relay(trouble=True), relay(BACKUP)], RUNNING, "ok", ""),
        (COUNTS, [relay(trouble=True)], RUNNING, "ok", ""),
        (replace(WAITING, waiting_routes=((),)), [], RUNNING, "critical", "no smarthost is configured"),
        (WAITING, [relay(tls_held=True), relay(BACKUP)], RUNNING, "warning", "probe --forget main"),
        (WAITING, [relay(tls_held=True), relay(BACKUP, tls_held=True)], RUNNING, "critical", "probe --forget backup"),
        (replace(WAITING, oldest_at=NOW - 4 * 3600), [relay()], RUNNING, "ok", ""),
        (replace(WAITING, oldest_at=NOW - 4 * 3600 - 1), [relay()], RUNNING, "warning", "oldest message"),
        (COUNTS, [relay()], replace(RUNNING, config_error="line 3: x"), "warning", "line 3: x"),
        (COUNTS, [relay()], replace(RUNNING, reserve_given_up=True), "warning", "reserve was given up"),
        (COUNTS, [relay()], replace(RUNNING, takes_mail=False), "warning", "new mail is refused"),
        (replace(COUNTS, damaged=2), [relay()], RUNNING, "warning", "2 damaged"),
        (replace(COUNTS, lost_reports=1), [relay()], RUNNING, "warning", "history --bounces"),
        (COUNTS, [relay()], replace(RUNNING, secret_problems={"main": "p: is 0644"}), "warning", "p: is 0644"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_findings(counts: Counts, relays: list[Relay], circumstances: Circumstances, health: str, words: str) -> None:
    """What is critical, what is a warning, and that the warning names it."""
    found = report(CONFIG, counts, relays, circumstances, NOW)
    assert found["health"] == health
    assert bool(found["warnings"]) is (health != "ok")
    assert any(words in text for text in found["warnings"]) or not words


def test_exit_codes() -> None:
    """The position of the word is the exit code."""
    assert [status.HEALTH.index(word) for word in ("ok", "warning", "critical")] == [0, 1, 2]


def test_no_smarthost_at_all() -> None:
    """Without mail it is a warning that nothing could leave."""
    found = report(config(Path("/q")), COUNTS, [], RUNNING, NOW)
    assert (found["health"], len(found["warnings"])) == ("warning", 1)


def test_keys_are_always_there() -> None:
    """The keys of pysendmail(8), JSON: null where there is nothing; times in RFC 3339."""
    found = report(CONFIG, COUNTS, [relay(trouble=True), relay(BACKUP)], RUNNING, NOW)
    keys = "health queued deferred held in_flight failed oldest_age_s last_sent_at smarthosts warnings"
    assert list(found) == keys.split()
    names = "name state since reason next_try_at tls_seen connections host port tls certificate_until last_sent_at"
    assert [list(smarthost) for smarthost in found["smarthosts"]] == [[*names.split(), "failures", "limit"]] * 2
    assert [tuple(smarthost.values())[7:] for smarthost in found["smarthosts"]] == [
        ("smtp.example.com", 587, "may", None, None, 1, 2),
        ("backup.example.com", 587, "may", None, None, 0, 2),
    ]
    assert [tuple(smarthost.values())[:7] for smarthost in found["smarthosts"]] == [
        ("main", "trouble", "2027-01-15T08:00:00Z", "main: connection refused", "2027-01-15T08:00:30Z", None, 0),
        ("backup", "up", None, None, None, None, 0),
    ]
    assert (found["oldest_age_s"], found["last_sent_at"]) == (None, None)


@pytest.mark.parametrize(
    ("tls", "days", "words"),
    [
        ("verify", 4, []),
        ("verify", 2, ["main: its certificate expires in 2 d (2027-01-17T08:00:00Z): tell who runs it"]),
        ("verify", -1, ["main: its certificate has expired (2027-01-14T08:00:00Z): tell who runs it"]),
        ("encrypt", 2, []),
    ],
)
def test_a_certificate_that_is_about_to_expire(tls: TlsLevel, days: int, words: list[str]) -> None:
    """Where it is checked, who looks has three days to tell its owner; elsewhere it does not matter."""
    one = relay(replace(MAIN, tls=tls))
    one.certificate_until = rfc3339(NOW + days * 86400)
    found = report(CONFIG, COUNTS, [one], RUNNING, NOW)
    assert (found["health"], found["warnings"]) == ("warning" if words else "ok", words)
    assert found["smarthosts"][0]["certificate_until"] == one.certificate_until


def test_a_smarthost_whose_secret_cannot_be_used_is_in_trouble() -> None:
    """Also before the first message that would need it; the other smarthost is not."""
    circumstances = replace(RUNNING, secret_problems={"main": "p: is 0644"})
    main, backup = report(CONFIG, COUNTS, [relay(), relay(BACKUP)], circumstances, NOW)["smarthosts"]
    assert (main["state"], main["reason"]) == ("trouble", "p: is 0644")
    assert (backup["state"], backup["reason"]) == ("up", None)


def test_last_sent() -> None:
    """When mail last left, by whichever smarthost."""
    one, other = relay(), relay(BACKUP)
    one.last_sent_at, other.last_sent_at = NOW, NOW + 3600
    assert report(CONFIG, COUNTS, [one, other], RUNNING, NOW)["last_sent_at"] == "2027-01-15T09:00:00Z"


@pytest.mark.parametrize(
    ("route", "relays", "reason"),
    [
        ((), [], "no smarthost is configured"),
        (("main",), [relay()], None),
        (("main",), [relay(trouble=True)], "main: connection refused"),
        (("main", "backup"), [relay(trouble=True), relay(BACKUP)], None),
        (("main", "backup"), [relay(trouble=True), relay(BACKUP, trouble=True)], "main: connection refused"),
    ],
)
def test_obstacle(route: tuple[str, ...], relays: list[Relay], reason: str | None) -> None:
    """Mail waits for its route only where none of its smarthosts can be had, and until the first of them is probed."""
    until = NOW + 30 if relays else None
    expected = None if reason is None else Obstacle(reason=reason, until=until)
    assert obstacle(route, {one.name: one for one in relays}) == expected


# -- explain --

ATTEMPT = {
    "at": "2027-01-15T08:00:00Z",
    "smarthost": "main",
    "address": "192.0.2.1",
    "tls": "none",
    "code": 452,
    "status": "4.2.2",
    "reply": "452 4.2.2 mailbox full",
    "outcome": "deferred",
    "duration_s": 1.0,
}


LATE = "2027-01-15T08:00:01Z"
FULL = {"address": "bob@example.org", "outcome": "expired", "finished_at": LATE, "attempts": [ATTEMPT]}


JOB = {"uid": 1000, "pid": 42, "command": "cron", "unit": None, "kind": "mail", "about": None}


def explained(queue_name: str = "deferred", relays: list[Relay] | None = None, **changes: Any) -> str:
    given = {name: changes.pop(name) for name in ("daemon", "expires_at") if name in changes}
    routes, configured = changes.pop("routes", {("main",)}), changes.pop("config", CONFIG)
    history = {
        "queue_id": "Q1",
        "sender": "alice@example.com",
        **JOB,
        "recipients": [{"address": "bob@example.org", "outcome": None, "finished_at": None, "attempts": [ATTEMPT]}],
        **changes.pop("history", {}),
    }
    waiting = {
        "queue_id": "Q1",
        "queue_name": queue_name,
        "recipients": [{"address": "bob@example.org", "delay_reason": None}],
        "next_attempt_at": "2027-01-15T08:00:30Z",
        **changes,
    }
    known = {r.name: r for r in ([relay()] if relays is None else relays)}
    facts: dict[str, Any] = {"removers": {}, "routes": routes, "relays": known, "config": configured, "now": NOW}
    facts["clock"] = 10.0
    answer = explain.message(history, waiting, **facts, **given)
    return "\n".join(answer["words"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (explained("incoming"), ["It waits for its first attempt."]),
        (explained(), ["It was submitted by uid 1000, process 42, which claims to be of command cron."]),
        (explained("active"), ["An attempt is under way right now."]),
        (
            explained(),
            [
                "could not be delivered yet",
                "bob@example.org: waiting, 1 attempt",
                "2027-01-15T08:00:00Z main [192.0.2.1], in clear: deferred: 452 4.2.2 mailbox full",
                "What would help: The recipient's mailbox is full",
                "The next attempt is at 2027-01-15T08:00:30Z; pysendmail queue retry Q1 does it now.",
            ],
        ),
        (explained("hold", next_attempt_at=None), ["Nothing is tried.", "pysendmail queue release Q1"]),
        (
            explained(relays=[relay(trouble=True)]),
            ["main is in trouble since 2027-01-15T08:00:00Z: main: connection refused", "pysendmail flush"],
        ),
        (explained(daemon=False), ["No daemon is running, so that nothing is tried: pysendmail flush --wait"]),
        (explained(expires_at=NOW + 1, history={"kind": "bounce"}), ["is given up", "and the postmaster is told"]),
        (explained(expires_at=NOW + 1, history={"kind": "delay"}), ["and nobody is told, for it is a report itself"]),
        (explained(relays=[relay(tls_held=True)]), ["TLS memory holds", "pysendmail probe --forget main"]),
        (
            explained(recipients=[], history={"recipients": [FULL]}),
            ["It is not in the queue any more.", "What would help: The recipient's mailbox is full"],
        ),
    ],
)
def test_explain(text: str, words: list[str]) -> None:
    """Where it is, what was tried, what comes next and what would help."""
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("routes", "named", "tried"),
    [
        ({("main",)}, [], True),  # the trouble is somebody else's
        ({("backup",)}, ["backup"], False),
        ({("backup", "main")}, ["backup"], True),  # the other one has it
        ({("main",), ("backup",)}, ["backup"], True),  # one recipient waits for his turn, one for the smarthost
    ],
)
def test_explain_tells_of_the_smarthosts_on_the_way(
    routes: set[tuple[str, ...]], named: list[str], tried: bool
) -> None:
    """Trouble of those by which the message can go, and the next attempt where one of them can be had."""
    rewriting = replace(CONFIG, smarthost=(MAIN, replace(BACKUP, from_="force", force_from="box@example.com")))
    text = explained(relays=[relay(), relay(BACKUP, trouble=True)], routes=routes, config=rewriting)
    assert [name for name in ("main", "backup") if f"The smarthost {name} is in trouble" in text] == named
    assert ("The next attempt is at" in text) is tried
    assert ("Through the smarthost backup its sender is written <box@example.com>" in text) is bool(named)


def test_explain_tells_of_the_rate() -> None:
    """Where the rate is used up no attempt is announced, and nothing that would help."""
    one = relay(replace(MAIN, rate=(1, 60.0)))
    one.taken.append((0.0, 1))
    text = explained(relays=[one])
    assert "The smarthost main has had as many messages as its rate allows: the next in 50 s." in text
    assert "The next attempt is at" not in text


@pytest.mark.parametrize(
    ("trouble", "setting"),
    [
        (Trouble.from_reply(Stage.AUTH, Reply(535, (b"5.7.8 no",))), "username and password of [[smarthost]] main in"),
        (Trouble.from_reply(Stage.MAIL, Reply(530, (b"5.7.0 no",))), "username and password of [[smarthost]] main in"),
        (Trouble.from_fault(Stage.TLS, Fault.CERTIFICATE, "self-signed"), "tls_ca_file or tls_fingerprints"),
        (Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, "connection refused"), ""),
    ],
)
def test_explain_names_the_setting_that_would_help(trouble: Trouble, setting: str) -> None:
    """Where the account or TLS is what keeps the mail; for a line that is down there is none."""
    one = relay()
    one.fail(trouble, Retry(), clock=0, now=NOW)
    (text,) = [line for line in explained(relays=[one]).split("\n") if "[[smarthost]]" in line] or [""]
    assert setting in text and bool(text) is bool(setting)


def test_explain_without_a_smarthost() -> None:
    """Where nothing is configured, that is the reason, and the file to mend is named."""
    history = {"queue_id": "Q1", "sender": None, "recipients": [], **JOB}
    waiting = {"queue_id": "Q1", "queue_name": "incoming", "recipients": [{}], "next_attempt_at": None}
    facts: dict[str, Any] = {"removers": {}, "routes": {()}, "relays": {}, "config": config(Path("/q")), "now": NOW}
    facts["clock"] = 10.0
    answer = explain.message(history, waiting, **facts)
    assert "add [[smarthost]] to /q/pysendmail.toml" in answer["words"][-1]
