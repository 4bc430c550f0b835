"""Status: is mail leaving? Health for people and monitoring, from the queue's counts and the smarthosts' state.

    2  critical  no daemon; every smarthost of a route in trouble with mail waiting; the store cannot be written
    1  warning   mail older than warn_after, the last good configuration in use, the reserve given up, no room for
                 new mail, a damaged row, TLS memory deferring mail, a bounce that could not be delivered, an address of
                 [daemon] listen that cannot be bound, a certificate that is checked and about to expire
    0  ok

Pure: counts and states are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pysendmail.config import Config
from pysendmail.relay import Relay
from pysendmail.units import parse_time, time_or_null, words_for_duration

HEALTH = ("ok", "warning", "critical")
CERTIFICATE_S = 3 * 86400.0  # those that live for a week only are renewed long before


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    queued: int
    deferred: int
    held: int
    in_flight: int
    failed: int
    oldest_at: float | None
    damaged: int
    lost_reports: int
    waiting_routes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What only the daemon knows."""

    daemon: bool
    store_error: str | None = None
    config_error: str | None = None  # why the last good configuration is in use
    reserve_given_up: bool = False
    takes_mail: bool = True  # whether the disk has room for it
    listen_problems: Mapping[str, str] = field(default_factory=dict)  # by address
    secret_problems: Mapping[str, str] = field(default_factory=dict)  # by smarthost


def report(
    config: Config, counts: Counts, relays: Sequence[Relay], circumstances: Circumstances, now: float
) -> dict[str, Any]:
    """`status --json`'s one object; `health` is one of HEALTH, whose position is the exit code."""
    findings = list(_findings(config, counts, relays, circumstances, now))
    return {
        "health": HEALTH[max((level for level, _ in findings), default=0)],
        "queued": counts.queued,
        "deferred": counts.deferred,
        "held": counts.held,
        "in_flight": counts.in_flight,
        "failed": counts.failed,
        "oldest_age_s": None if counts.oldest_at is None else round(max(now - counts.oldest_at, 0.0), 1),
        "last_sent_at": time_or_null(max((r.last_sent_at for r in relays if r.last_sent_at), default=None)),
        "smarthosts": [
            {
                "name": relay.name,
                "state": "trouble" if relay.trouble or relay.name in circumstances.secret_problems else "up",
                "since": time_or_null(relay.since) if relay.trouble else None,
                "reason": relay.trouble.reason if relay.trouble else circumstances.secret_problems.get(relay.name),
                "next_try_at": time_or_null(relay.next_try_at),
                "tls_seen": time_or_null(relay.tls_seen_at),
                "connections": relay.connections,
                "host": relay.smarthost.host,
                "port": relay.smarthost.port,
                "tls": relay.smarthost.tls,
                "certificate_until": relay.certificate_until or None,
                "last_sent_at": time_or_null(relay.last_sent_at),
                "failures": relay.failures,
                "limit": relay.limit,
            }
            for relay in relays
        ],
        "warnings": [text for _, text in findings],
    }


def of_ones_own(report: dict[str, Any]) -> dict[str, Any]:
    """For who sees his own mail only: when others' mail leaves, and on how many connections, is not his to know."""
    hidden = dict.fromkeys(("connections", "last_sent_at", "limit"))
    smarthosts = [{**smarthost, **hidden} for smarthost in report["smarthosts"]]
    return {**report, "last_sent_at": None, "smarthosts": smarthosts}


def summary(report: Mapping[str, Any]) -> str:
    """A report in one line."""
    parts = [f"{report['queued']} queued", f"{report['deferred']} deferred"]
    if report["held"]:
        parts.append(f"{report['held']} held")
    if report["oldest_age_s"] is not None:
        parts.append(f"oldest {words_for_duration(report['oldest_age_s'])}")
    for smarthost in report["smarthosts"]:
        reason = f" ({smarthost['reason']})" if smarthost["reason"] else ""
        parts.append(f"{smarthost['name']}: {smarthost['state']}{reason}")
    return ", ".join(parts)


def unknown(*reasons: str) -> dict[str, Any]:
    """The same object where nobody can be asked: critical, and every key is there."""
    nothing = dict.fromkeys(("queued", "deferred", "held", "in_flight", "failed", "oldest_age_s", "last_sent_at"))
    return {"health": "critical", **nothing, "smarthosts": [], "warnings": list(reasons), "scope": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why mail on a route cannot leave, when the smarthosts are the reason, and when that is tried again."""

    reason: str
    until: float | None = None


def obstacle(route: tuple[str, ...], relays: dict[str, Relay]) -> Obstacle | None:
    """What stands in the way of all mail on this route; None: nothing, or not the smarthosts."""
    if not route:
        return Obstacle(reason="no smarthost is configured")
    known = [relays[name] for name in route if name in relays]
    if not known or any(relay.trouble is None for relay in known):
        return None
    trouble = known[0].trouble
    assert trouble is not None
    return Obstacle(
        reason=trouble.reason, until=min((r.next_try_at for r in known if r.next_try_at is not None), default=None)
    )


def _certificate_left(relay: Relay, now: float) -> float | None:
    """How long mail can still go there with this certificate; None where that is not checked, or not known."""
    if relay.smarthost.tls != "verify" or not relay.certificate_until:
        return None
    return parse_time(relay.certificate_until, now) - now


def _findings(
    config: Config, counts: Counts, relays: Sequence[Relay], circumstances: Circumstances, now: float
) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    if not circumstances.daemon:
        found.append((2, "no daemon is running, so that no mail leaves: start it, by hand with pysendmail daemon"))
    if circumstances.store_error:
        found.append((2, f"{config.queue.directory}/queue.db cannot be written: {circumstances.store_error}"))
    by_name = {relay.name: relay for relay in relays}
    for route in counts.waiting_routes:
        if (found_there := obstacle(route, by_name)) is not None:
            names = ", ".join(route) or "none"
            found.append((2, f"mail waits and no smarthost of its route ({names}) can be had: {found_there.reason}"))
    if not config.smarthost and not counts.queued:
        found.append((1, f"no smarthost is configured: mail is accepted and kept; add [[smarthost]] to {config.file}"))
    for relay in relays:
        if relay.tls_held:
            found.append(
                (
                    1,
                    f"{relay.name}: mail is held back because TLS worked there before and is not offered now "
                    f"([[smarthost]] tls_memory); if that is meant to be: pysendmail probe --forget {relay.name}",
                )
            )
        if (left := _certificate_left(relay, now)) is not None and left < CERTIFICATE_S:
            when = f"expires in {words_for_duration(left)}" if left > 0 else "has expired"
            found.append((1, f"{relay.name}: its certificate {when} ({relay.certificate_until}): tell who runs it"))
    if counts.oldest_at is not None and config.queue.warn_after and now - counts.oldest_at > config.queue.warn_after:
        age = words_for_duration(now - counts.oldest_at)
        found.append((1, f"the oldest message waits for {age}: pysendmail queue explain --all says why"))
    if circumstances.config_error:
        found.append(
            (1, f"the last good configuration is in use, since the file has an error: {circumstances.config_error}")
        )
    if circumstances.reserve_given_up:
        found.append(
            (
                1,
                f"the disk of {config.queue.directory} is full, the reserve was given up: make room",
            )
        )
    elif not circumstances.takes_mail:
        found.append((1, f"the disk of {config.queue.directory} is full, new mail is refused: make room"))
    if counts.damaged:
        found.append((1, f"{counts.damaged} damaged message(s) set aside: see pysendmail(8), RECOVERY"))
    if counts.lost_reports:
        found.append(
            (1, f"{counts.lost_reports} bounce(s) could not be delivered to anyone: pysendmail history --bounces")
        )
    for address, reason in circumstances.listen_problems.items():
        found.append((1, f"nothing listens on {address} ([daemon] listen): {reason}; free the port, then reload"))
    found += [(1, problem) for problem in circumstances.secret_problems.values()]
    return found
