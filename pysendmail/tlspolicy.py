"""TLS policy: what must be true of a connection before AUTH or MAIL, decided before it is opened.

`plan` turns a smarthost's settings and what is remembered of it into a TlsPlan, one cell of this table each:

    level                      not offered, or refused     handshake fails or stalls       certificate
    none                       in clear                    -                               -
    may                        in clear, same connection   in clear, a new connection      not checked
    may, and TLS seen within   deferred                    deferred                        not checked
      tls_memory, or credentials without auth_in_clear
    may, tls_fallback = false  in clear, same connection   deferred                        not checked
    encrypt                    deferred                    deferred                        not checked
    verify                     deferred                    deferred                        chain and name, else deferred
    fingerprint                deferred                    deferred                        a pin, else deferred

Implicit TLS never falls back. A failed handshake at `may` is remembered for FAILURE_MEMORY_S, so that the next
connections go in clear without stalling again; then one of them tries TLS. Pure: no clock, no I/O. A clock that
was set back lengthens the demand for TLS and never shortens it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pysendmail.config import Smarthost

FAILURE_MEMORY_S = 600.0


class Check(StrEnum):
    """What is asked of the server's certificate."""

    NOTHING = "not checked"
    NAME = "valid chain and the configured name"
    PIN = "one of the fingerprints"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPlan:
    """What to do about TLS on one connection, whatever the server answers. `demand` says why clear is ruled out."""

    attempt: bool  # try TLS
    implicit: bool = False
    clear_if_unavailable: bool = False  # not offered, or refused: go on in clear on the same connection
    clear_if_failed: bool = False  # failed or stalled handshake: a new connection, in clear, at once
    check: Check = Check.NOTHING
    demand: str = ""
    remembered: bool = False  # only the TLS memory demands TLS: `probe --forget` would let mail go in clear
    fallback: str = ""  # why `attempt` is False at "may": a handshake failed a short while ago
    retries: bool = False  # tries TLS again after a failure: the others had better go on in clear until it reports
    refusal: str = ""  # the settings contradict each other: nothing may be opened at all


def plan(smarthost: Smarthost, *, now: float, tls_seen_at: float | None, failed_s: float | None) -> TlsPlan:
    """The plan for the next connection.

    `tls_seen_at` (wall clock, outlives the daemon): when a handshake last succeeded; `failed_s`: how long ago one
    last failed at "may"; None: never.
    """
    if refusal := _contradiction(smarthost):
        return TlsPlan(attempt=False, implicit=smarthost.tls_implicit, refusal=refusal)
    match smarthost.tls:
        case "none":
            return TlsPlan(attempt=False)
        case "may":
            seen = tls_seen_at is not None and now - tls_seen_at < smarthost.tls_memory
            return _plan_may(smarthost, seen, failed_s)
        case level:
            check = {"encrypt": Check.NOTHING, "verify": Check.NAME, "fingerprint": Check.PIN}[level]
            demand = f'tls = "{level}" demands TLS'
            return TlsPlan(attempt=True, implicit=smarthost.tls_implicit, check=check, demand=demand)


def _contradiction(smarthost: Smarthost) -> str:
    """The loader refuses the first two; a plan that ignores them would send mail in clear all the same."""
    if smarthost.tls == "none" and smarthost.tls_implicit:
        return 'tls_implicit = true contradicts tls = "none"'
    if smarthost.tls == "fingerprint" and not smarthost.tls_fingerprints:
        return 'tls = "fingerprint" without tls_fingerprints'
    if smarthost.tls == "none" and _guarded(smarthost):
        return 'credentials with tls = "none" need auth_in_clear = true'
    return ""


def _guarded(smarthost: Smarthost) -> bool:
    """Whether there are credentials that must not go over a connection in clear, so that none is of use."""
    return smarthost.has_credentials and not smarthost.auth_in_clear


def _plan_may(smarthost: Smarthost, seen: bool, failed_s: float | None) -> TlsPlan:
    if smarthost.tls_implicit:
        return TlsPlan(attempt=True, implicit=True, demand="implicit TLS has no clear fallback")
    if _guarded(smarthost):
        return TlsPlan(attempt=True, demand="credentials go over TLS only (auth_in_clear is false)")
    if seen:
        demand = (
            "this smarthost offered TLS before, and tls_memory demands it since; "
            f'if it was switched off for good, run "pysendmail probe --forget {smarthost.name}"'
        )
        return TlsPlan(attempt=True, demand=demand, remembered=True)
    if not smarthost.tls_fallback:
        return TlsPlan(attempt=True, clear_if_unavailable=True, demand="tls_fallback is false")
    if failed_s is not None and failed_s < FAILURE_MEMORY_S:
        return TlsPlan(attempt=False, fallback="a TLS handshake failed a short while ago")
    retries = failed_s is not None
    return TlsPlan(attempt=True, clear_if_unavailable=True, clear_if_failed=True, retries=retries)
