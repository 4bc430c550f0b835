"""srv: where a domain says that it takes mail from its users: SRV records in the DNS (RFC 6186 §3.1, RFC 8314 §5.1).

`_submissions._tcp` is TLS from the first byte, `_submission._tcp` STARTTLS; the first is better, and comes first. An
answer is not authenticated: who sits in between can say anything. It is a proposal for a person, and TLS must hold for
the name that he agrees to. What makes no sense as a host name is left out; there are at most MAX_SERVICES.

The resolver is dnspython's, imported only here; without it there are no proposals. Errors: SrvError with words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysendmail.hostname import is_domain
from pysendmail.smtp.reply import printable

if TYPE_CHECKING:
    from dns.resolver import Resolver

MAX_SERVICES = 10
LOOKUP_S = 5.0  # for each of the two questions, all name servers together


class SrvError(Exception):
    """Nothing was learnt; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    host: str
    port: int
    implicit: bool  # TLS from the first byte


def look_up(domain: str, resolver: Resolver | None = None) -> list[Service]:
    """The services of the domain, the best first; none where it has none."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        words = "the DNS was not asked: that needs dnspython (pip install 'pysendmail-mta[setup]', python3-dnspython)"
        raise SrvError(words) from None
    found: list[Service] = []
    trouble = ""
    try:
        resolver = resolver or dns.resolver.Resolver()
    except (dns.exception.DNSException, OSError) as error:
        raise SrvError(printable(f"the DNS cannot be asked: {error}", 200)) from None
    for label, implicit in (("_submissions._tcp", True), ("_submission._tcp", False)):
        try:
            # The final dot keeps the search list of resolv.conf out of it.
            answer = resolver.resolve(f"{label}.{domain}.", "SRV", lifetime=LOOKUP_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            continue
        except (dns.exception.DNSException, UnicodeError) as error:
            trouble = printable(f"the DNS gave no answer about {label}.{domain}: {error}", 200)
            continue
        rows = [(row.priority, -row.weight, row.target.to_text(omit_final_dot=True), row.port) for row in answer]
        found += services(rows, implicit=implicit)
    if trouble and not found:
        raise SrvError(trouble)
    return found[:MAX_SERVICES]


def services(rows: Iterable[tuple[int, int, str, int]], *, implicit: bool) -> list[Service]:
    """Of the answers to one question, what could be a server; by priority, then by weight, the greatest first.

    The choice by chance that RFC 2782 asks for is for clients that choose anew each time; this is chosen once. A target
    of "." says that there is none.
    """
    return [
        Service(host=target.lower(), port=port, implicit=implicit)
        for _, _, target, port in sorted(rows)[:MAX_SERVICES]
        if is_domain(target) and "." in target and 0 < port < 65536
    ]
