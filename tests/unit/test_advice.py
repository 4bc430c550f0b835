"""advice: for each thing that probe can find, what a person should do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import advice
from pysendmail.config import MIB, Smarthost
from pysendmail.outcome import Stage


def facts(**changes: Any) -> dict[str, Any]:
    """Those of a smarthost in order, in clear on a loopback address, with some of them changed."""
    found: dict[str, Any] = {
        "address": "127.0.0.1",
        "greeting": "220 here",
        "extensions": ["PIPELINING", "SIZE 0"],
        "trouble": None,
        "tls": {"version": None, "result": "not used", "remembered": False, "chain": []},
        "auth": {"offered": ["PLAIN"]},
        "sender": None,
    }
    for key, value in changes.items():
        found[key] = {**found[key], **value} if isinstance(found[key], dict) else value
    return found


def trouble(stage: str, reason: str = "x", code: int | None = None) -> dict[str, Any]:
    return {"stage": stage, "status": "4.0.0", "code": code, "reason": reason}


def smarthost(**settings: Any) -> Smarthost:
    return Smarthost(**{"name": "main", "host": "smtp.example.com", "tls": "none"} | settings)


CERTIFICATE = {"sha256": "ab" * 32, "names": ["a.example", "b.example"], "days_left": 90}
TLS = {"version": "TLSv1.3", "chain": [CERTIFICATE]}
TOKENS = {"offered": ["XOAUTH2", "OAUTHBEARER"]}

# what is changed, the smarthost's settings, a word of the mend
MENDS = {
    "no address": ({"trouble": trouble("connect"), "address": None}, {}, "the spelling of host"),
    "port 25": ({"trouble": trouble("connect")}, {"port": 25}, "nobody out to port 25"),
    "another port": ({"trouble": trouble("connect")}, {}, "465 or 587"),
    "no greeting": ({"trouble": trouble("greeting")}, {}, "tls_implicit = true"),
    "no greeting under TLS": ({"trouble": trouble("greeting")}, {"tls_implicit": True}, "no mail server"),
    "a refusal as greeting": ({"trouble": trouble("greeting", "554 go away", 554)}, {}, "its words say why"),
    "no STARTTLS": ({"trouble": trouble("starttls")}, {}, "port = 465"),
    "no STARTTLS any more": ({"trouble": trouble("starttls"), "tls": {"remembered": True}}, {}, "--forget main"),
    "implicit on a clear port": ({"trouble": trouble("tls")}, {"tls_implicit": True}, "leave tls_implicit out"),
    "broken TLS": ({"trouble": trouble("tls")}, {}, "broken, or too old"),
    "another name": ({"trouble": trouble("tls", "Hostname mismatch"), "tls": TLS}, {}, "for a.example, b.example"),
    "expired": ({"trouble": trouble("tls", "certificate has expired"), "tls": TLS}, {}, "has to renew it"),
    "self-signed": ({"trouble": trouble("tls", "self-signed certificate"), "tls": TLS}, {}, "tls_ca_file"),
    "another pin": ({"trouble": trouble("tls", "the certificate's fingerprint"), "tls": TLS}, {}, "was changed"),
    "something else": ({"trouble": trouble("tls", "invalid purpose"), "tls": TLS}, {}, f'["{"ab" * 32}"]'),
    "wrong password": ({"trouble": trouble("auth", "535 no", 535)}, {}, "app password"),
    "tokens only": ({"trouble": trouble("auth", "535 no", 535), "auth": TOKENS}, {}, '["XOAUTH2"]'),
    "tokens only, asked for none": ({"trouble": trouble("auth"), "auth": TOKENS}, {}, '["XOAUTH2"]'),
    "no password": ({"trouble": trouble("auth"), "greeting": None}, {}, "pysendmail check"),
    "password in clear": ({"trouble": trouble("auth", "auth_in_clear is false")}, {}, "use TLS"),
    "no such mechanism": ({"trouble": trouble("auth")}, {"auth": ("LOGIN",)}, "(PLAIN): leave it out"),
    "no login at all": ({"trouble": trouble("auth"), "auth": {"offered": []}}, {}, "leave username out"),
}


@pytest.mark.parametrize("name", MENDS)
def test_trouble(name: str) -> None:
    """The first finding is the trouble, with a mend that fits it."""
    changes, settings, word = MENDS[name]
    first = advice.findings(facts(**changes), smarthost(**settings), MIB)[0]
    assert first["level"] == "error"
    assert first["text"].startswith(changes["trouble"]["stage"])
    assert word in first["mend"]


REMARKS = {
    "nothing": ({}, {}, []),
    "a fallback": ({"tls": {"result": "in clear: TLS handshake failed"}}, {"tls": "may"}, ["warning"]),
    "TLS not asked for": ({"extensions": ["PIPELINING", "STARTTLS"]}, {}, ["warning"]),
    "nobody asks whose": ({"tls": TLS}, {"tls": "encrypt"}, ["note"]),
    "all asked": ({"tls": TLS}, {"tls": "verify"}, []),
    "soon": ({"tls": {**TLS, "chain": [{**CERTIFICATE, "days_left": 13}]}}, {"tls": "verify"}, ["warning"]),
    "soon, pinned": ({"tls": {**TLS, "chain": [{**CERTIFICATE, "days_left": 1}]}}, {"tls": "fingerprint"}, ["warning"]),
    "over": ({"tls": {**TLS, "chain": [{**CERTIFICATE, "days_left": -2}]}}, {"tls": "fingerprint"}, ["warning"]),
    "small": ({"extensions": ["PIPELINING", "SIZE 1000"]}, {}, ["note"]),
    "no pipelining": ({"extensions": []}, {}, ["note"]),
}


@pytest.mark.parametrize("name", REMARKS)
def test_what_is_worth_knowing(name: str) -> None:
    """A smarthost that takes mail has warnings and notes, or nothing."""
    changes, settings, levels = REMARKS[name]
    assert levels == [one["level"] for one in advice.findings(facts(**changes), smarthost(**settings), MIB)]


@given(
    stage=st.sampled_from(list(Stage)),
    code=st.sampled_from([None, 421, 535, 554]),
    reason=st.text(max_size=60),
    chain=st.sampled_from([[], [CERTIFICATE], [{"sha256": "", "names": [], "days_left": None}]]),
    offered=st.sampled_from([None, [], ["PLAIN"], ["XOAUTH2"]]),
    extensions=st.none() | st.lists(st.text(max_size=20), max_size=3),
)
def test_nothing_is_too_odd(
    stage: Stage, code: int | None, reason: str, chain: Any, offered: Any, extensions: Any
) -> None:
    """Whatever a server did, there is a finding with a mend for it, and no exception."""
    found = advice.findings(
        facts(
            trouble=trouble(str(stage), reason, code),
            tls={"chain": chain},
            auth={"offered": offered},
            extensions=extensions,
        ),
        smarthost(),
        MIB,
    )
    assert all(set(one) == {"level", "text", "mend"} and one["mend"] for one in found)
    assert found[0]["level"] == "error"
