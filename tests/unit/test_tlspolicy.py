"""The TLS table as plans. What sessions make of them is in tests/integration/test_tls_table.py."""

from typing import Any

import pytest

from pysendmail.config import Smarthost
from pysendmail.tlspolicy import FAILURE_MEMORY_S, Check, TlsPlan, plan

NOW = 1_000_000.0
DAY = 86400.0
GUARDED = {"username": "u"}
OPEN = {"username": "u", "auth_in_clear": True}


def made(*, seen: float | None = None, failed: float | None = None, **settings: Any) -> TlsPlan:
    relay = Smarthost(name="main", host="mail.example", **settings)
    return plan(relay, now=NOW, tls_seen_at=seen, failed_s=failed)


@pytest.mark.parametrize(
    ("settings", "attempt", "unavailable", "failed", "check"),
    [
        ({"tls": "none"}, False, False, False, Check.NOTHING),
        ({"tls": "none"} | OPEN, False, False, False, Check.NOTHING),
        ({"tls": "may"}, True, True, True, Check.NOTHING),
        ({"tls": "may"} | OPEN, True, True, True, Check.NOTHING),
        ({"tls": "may"} | GUARDED, True, False, False, Check.NOTHING),
        ({"tls": "may", "tls_fallback": False}, True, True, False, Check.NOTHING),
        ({"tls": "may", "tls_fallback": False} | GUARDED, True, False, False, Check.NOTHING),
        ({"tls": "may", "tls_implicit": True}, True, False, False, Check.NOTHING),
        ({"tls": "encrypt"}, True, False, False, Check.NOTHING),
        ({"tls": "encrypt"} | OPEN, True, False, False, Check.NOTHING),
        ({"tls": "verify"}, True, False, False, Check.NAME),
        ({"tls": "verify", "tls_implicit": True} | GUARDED, True, False, False, Check.NAME),
        ({"tls": "fingerprint", "tls_fingerprints": ("00",)}, True, False, False, Check.PIN),
    ],
    ids=str,
)
def test_table(settings: dict[str, Any], attempt: bool, unavailable: bool, failed: bool, check: Check) -> None:
    """Each row of the table; whatever rules clear out says so in words."""
    found = made(**settings)
    assert not found.refusal
    assert (attempt, unavailable, failed, check) == (
        found.attempt,
        found.clear_if_unavailable,
        found.clear_if_failed,
        found.check,
    )
    assert bool(found.demand) is (attempt and not (unavailable and failed))
    assert found.implicit is settings.get("tls_implicit", False)


@pytest.mark.parametrize(
    "settings",
    [{"tls": "none", "tls_implicit": True}, {"tls": "fingerprint"}, {"tls": "none"} | GUARDED],
    ids=str,
)
def test_contradictions(settings: dict[str, Any]) -> None:
    """Settings that contradict each other open nothing."""
    found = made(**settings)
    assert found.refusal
    assert not found.attempt


@pytest.mark.parametrize(
    ("seen", "memory", "held"),
    [
        (None, DAY, False),
        (NOW - 1, DAY, True),
        (NOW - DAY + 1, DAY, True),
        (NOW - DAY, DAY, False),
        (NOW + DAY, DAY, True),
        (NOW - 1, 0.0, False),
        (NOW, 0.0, False),
    ],
)
def test_memory(seen: float | None, memory: float, held: bool) -> None:
    """TLS once seen is demanded for tls_memory; a clock that was set back shortens nothing; "0" is no memory.

    Whom it holds back learns the command that ends it, to the letter.
    """
    found = made(seen=seen, tls="may", tls_memory=memory)
    assert (held, not held, not held) == (found.remembered, found.clear_if_unavailable, found.clear_if_failed)
    assert found.demand.endswith(' "pysendmail probe --forget main"') is held


@pytest.mark.parametrize(
    ("failed", "attempt", "retries"),
    [(None, True, False), (0.0, False, False), (FAILURE_MEMORY_S - 1, False, False), (FAILURE_MEMORY_S, True, True)],
)
def test_failure_memory(failed: float | None, attempt: bool, retries: bool) -> None:
    """After a failed handshake clear for ten minutes, then one connection tries TLS again."""
    found = made(failed=failed, tls="may")
    assert (attempt, retries) == (found.attempt, found.retries)
    assert bool(found.fallback) is not attempt


@pytest.mark.parametrize(
    "settings",
    [
        {"tls": "may"} | GUARDED,
        {"tls": "may", "tls_fallback": False},
        {"tls": "encrypt"},
        {"tls": "may", "tls_implicit": True},
    ],
    ids=str,
)
def test_failure_memory_weakens_nothing(settings: dict[str, Any]) -> None:
    """Where a failed handshake must not lead to clear, a remembered one does not either."""
    found = made(failed=1.0, **settings)
    assert found.attempt
    assert not found.clear_if_failed


def test_tls_seen_outweighs_a_failure() -> None:
    """Both remembered: TLS is tried, and clear is out of the question."""
    found = made(seen=NOW - 1, failed=1.0, tls="may")
    assert found.attempt
    assert found.remembered
