"""srv: what a domain's SRV records propose, asked of a real name server on a loopback address."""

from __future__ import annotations

import pytest

from pysendmail import srv
from pysendmail.srv import Service, SrvError

pytest.importorskip("dns", reason="dnspython is not installed (extra `setup`)")
import dns.rcode

from rig.dns import name_server


def found(records: dict[str, list[str]]) -> list[Service]:
    with name_server(records) as resolver:
        return srv.look_up("example.com", resolver)


def test_tls_from_the_first_byte_comes_first() -> None:
    """Then by priority, then by weight, the greatest first."""
    assert found(
        {
            "_submission._tcp.example.com": ["0 1 587 smtp.example.com."],
            "_submissions._tcp.example.com": [
                "10 5 465 c.example.com.",
                "0 1 465 b.example.com.",
                "0 9 465 A.example.com.",
            ],
        }
    ) == [
        Service(host="a.example.com", port=465, implicit=True),
        Service(host="b.example.com", port=465, implicit=True),
        Service(host="c.example.com", port=465, implicit=True),
        Service(host="smtp.example.com", port=587, implicit=False),
    ]


def test_there_is_none() -> None:
    """No such name, a name without such records, and the target "." that says so, are no services."""
    assert found({}) == []
    assert found({"_submission._tcp.example.com": []}) == []
    assert found({"_submissions._tcp.example.com": ["0 0 0 ."]}) == []


def test_odd_answers_are_left_out() -> None:
    """What is no host name, or no port, proposes nothing, whatever octets it has."""
    odd = [
        r"0 0 465 a\032b\010.example.com.",
        r"0 0 465 \027[31m.example.com.",
        "0 0 0 a.example.com.",
        "0 0 465 bare.",
    ]
    good = "5 0 465 smtp.example.com."
    assert [one.host for one in found({"_submissions._tcp.example.com": [*odd, good]})] == ["smtp.example.com"]


def test_there_are_not_too_many() -> None:
    """A long answer is capped."""
    many = [f"{number} 0 465 a{number}.example.com." for number in range(200)]
    with name_server({"_submissions._tcp.example.com": many[:40]}) as resolver:
        assert len(srv.look_up("example.com", resolver)) == srv.MAX_SERVICES


def test_a_server_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trouble is said, on one line."""
    monkeypatch.setattr(srv, "LOOKUP_S", 0.3)
    with (
        name_server({}, rcode=dns.rcode.SERVFAIL) as resolver,
        pytest.raises(SrvError, match=r"the DNS gave no answer about _submission\._tcp\.example\.com: ") as error,
    ):
        srv.look_up("example.com", resolver)
    assert str(error.value).isprintable()
