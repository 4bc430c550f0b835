"""Whereto: where an address would go, in lines for people: `sendmail -bv` and `-bt`. Nothing is sent or stored.

An address is read, looked up in the aliases and routed as a submission would do it, for the caller's own sender or the
one of -f. `verify` gives the exit code with its lines: 0; 67 for what no mail can be sent to; 69 where no smarthost of
the route can be had at present, so that mail would wait. The worst of several addresses counts, 67 before 69.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from pysendmail import rewrite
from pysendmail.address import AddressError, parse_list, parse_path
from pysendmail.aliases import AliasError, Aliases, AliasesUnread, expand_recipients
from pysendmail.argv import UsageError
from pysendmail.config import Config, Smarthost
from pysendmail.exits import EX_NOUSER, EX_OK, EX_UNAVAILABLE
from pysendmail.rewrite import Rule
from pysendmail.route import route
from pysendmail.smtp.reply import printable
from pysendmail.status import Obstacle

MAX_LINE = 4096  # of a dialogue with -bt, and an argument; no address is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the answer depends on, beside the address."""

    sender: str
    config: Config
    aliases: Aliases
    obstacle: Callable[[tuple[str, ...]], Obstacle | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one argument: lines for standard output, and what is wrong with it, if anything is."""

    lines: tuple[str, ...]
    targets: tuple[str, ...] = ()  # the addresses that it stands for in the end
    code: int = EX_OK
    problem: str = ""


def verify(arguments: Iterable[str], now: Circumstances) -> Iterator[Answer]:
    """-bv: for each address whether mail to it would leave, and by which way."""
    for argument in arguments:
        try:
            if len(argument) > MAX_LINE:
                raise AddressError(f"no address has more than {MAX_LINE} octets")
            given = [str(parse_path(text)) for text in parse_list(argument.encode("utf-8", "surrogateescape"))]
            if not given:
                raise AddressError("there is no address in it")
        except AddressError as error:
            yield _undeliverable(argument, error)
            continue
        for address in given:
            yield _verified(address, now)


def _verified(address: str, now: Circumstances) -> Answer:
    try:
        final = [target for target, _ in expand_recipients([address], now.aliases, now.config)]
    except (AliasError, AliasesUnread, AddressError) as error:
        return _undeliverable(address, error)
    lines = [] if final == [address] else [f"{printable(address)}... stands for {printable(', '.join(final))}"]
    problem = ""
    for target in final:
        way = route(now.sender, target, now.config)
        if (obstacle := now.obstacle(way)) is not None:
            problem = f"{target}: no smarthost can be had now, mail would wait: {obstacle.reason}"
            lines.append(f"{printable(target)}... would wait: {printable(obstacle.reason)}")
        else:
            hosts = " or ".join(_spelled(host) for host in _hosts(way, now.config))
            lines.append(f"{printable(target)}... deliverable: by {hosts}")
    code = EX_UNAVAILABLE if problem else EX_OK
    return Answer(lines=tuple(lines), targets=tuple(final), code=code, problem=problem)


def _undeliverable(text: str, error: Exception) -> Answer:
    line = f"{printable(text, 200)}... undeliverable: {printable(str(error))}"
    return Answer(lines=(line,), code=EX_NOUSER, problem=str(error))


def test(text: str, now: Circumstances) -> Iterator[str]:
    """-bt: all that is decided about an address: alias, sender, route, TLS and rewriting on each way."""
    targets: list[str] = []
    for answer in verify([text], now):
        yield from answer.lines
        targets += answer.targets
    if not targets:
        return
    yield f"  sender     {printable(now.sender) or '<>'}"
    for way in dict.fromkeys(route(now.sender, target, now.config) for target in targets):
        yield f"  route      {', '.join(way) or 'none: no smarthost is configured'}"
        for host in _hosts(way, now.config):
            yield f"  smarthost  {_spelled(host)}"
            yield f"    TLS      {_tls(host)}"
            yield f"    AUTH     {f'as {host.username}' if host.has_credentials else 'none'}"
            rule = rewrite.rule(now.config, host)
            yield f"    sender   {printable(rewrite.sender(now.sender, rule) if rule else now.sender) or '<>'}"
            yield f"    From     {_rewriting(rule)}"


async def lines(octets: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Standard input of -bt, line by line as it comes; the last may lack its end. Raises UsageError."""
    rest = b""
    async for chunk in octets:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "surrogateescape")
        if len(rest) > MAX_LINE:
            raise UsageError(f"a line of more than {MAX_LINE} octets is no address")
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


def _hosts(way: tuple[str, ...], config: Config) -> list[Smarthost]:
    by_name = {smarthost.name: smarthost for smarthost in config.smarthost}
    return [by_name[name] for name in way if name in by_name]


def _spelled(host: Smarthost) -> str:
    return f"{host.name} ({host.host} port {host.port})"


def _tls(host: Smarthost) -> str:
    how = "" if host.tls == "none" else ", from the first octet on" if host.tls_implicit else ", by STARTTLS"
    return f"{host.tls}{how}"


def _rewriting(rule: Rule | None) -> str:
    """What becomes of the address in From and its like."""
    if rule is not None and rule.force_from:
        return f"force {rule.force_from}"
    rewritten: dict[str, list[str]] = {}
    for domain, new in rule.domains.items() if rule else ():
        if domain != new.lower():
            rewritten.setdefault(new, []).append(domain or "bare names")
    return "; ".join(f"at {new}: {', '.join(domains)}" for new, domains in rewritten.items()) or "keep"
