"""setup: from a mail address and a password to a message in the mailbox (`pysendmail setup`).

Whatever a flag does not say is asked for on a terminal; without one, a missing flag is an error that names it. Host,
port and TLS are proposed by the table of `providers`, else by the DNS; the latter is not authenticated, so that it
takes a person to agree. The smarthost is probed with the password before anything is written; the configuration is
then written as `placing` does it, and a message is sent the whole way (`journey`).

A password is read without echo, from a file or from standard input; it is no argument, and goes nowhere but into its
file. Errors: SetupFailed with exit code and words; nothing is written then, unless the words say so.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pysendmail import config_file, journey, placing, probe, providers, small_file, spool, srv, tlspolicy
from pysendmail.address import Address, AddressError, parse_path
from pysendmail.config import Config, Timeout, is_public
from pysendmail.config_file import ConfigError, Instance
from pysendmail.draft import Draft, Table
from pysendmail.exits import EX_CANTCREAT, EX_CONFIG, EX_IOERR, EX_NOINPUT, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.secrets import MAX_OCTETS, Secrets
from pysendmail.smtp.reply import printable

Ask = journey.Ask
NAME = "main"  # of the smarthost
STDIN = "-"  # as the name of a file
TRIES = 3  # of a password, and of an answer that makes no sense
# A person waits; whoever answers at all has done so by then.
PATIENCE = Timeout(connect=15.0, greeting=30.0, tls=15.0, command=30.0)


class SetupFailed(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the flags say; None: not said."""

    address: str | None = None
    host: str | None = None
    port: int | None = None
    tls: str | None = None
    tls_implicit: bool = False
    ca_file: str | None = None
    username: str | None = None
    password_file: str | None = None  # "-": standard input
    login: bool = True
    keep_senders: bool = False
    to: str | None = None
    test: bool = True
    yes: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A server, and for people where that comes from. `sure`: it needs nobody to agree to it."""

    host: str
    port: int
    implicit: bool
    source: str
    sure: bool
    hint: str = ""


def propose(domain: str, look_up: Callable[[str], list[srv.Service]] = srv.look_up) -> Proposal | str:
    """The server for addresses of this domain, or why there is no proposal."""
    if provider := providers.of(domain):
        if not provider.passwords:
            return f"{provider.name}: {provider.hint}; see pysendmail.toml(5)"
        source = f"{provider.name}, by the table of well-known providers"
        return Proposal(
            host=provider.host,
            port=provider.port,
            implicit=provider.port == 465,
            source=source,
            sure=True,
            hint=provider.hint,
        )
    try:
        found = look_up(domain)
    except srv.SrvError as error:
        return str(error)
    if not found:
        return f"the DNS names no server where {domain} takes mail from its users (SRV, RFC 6186)"
    best = found[0]
    elsewhere = "" if best.host == domain or best.host.endswith(f".{domain}") else f", which is not in {domain}"
    source = f"the DNS says {best.host}{elsewhere}; nobody vouches for that, so look whether it is your provider's"
    return Proposal(host=best.host, port=best.port, implicit=best.implicit, source=source, sure=False)


def draft(wanted: Wanted, address: Address, smarthost: Table, password: bytes | None) -> Draft:
    """The new tables: the smarthost, one sender for all mail, and the mailbox that local names stand for."""
    made = Draft()
    if wanted.keep_senders:
        if not is_public(address.domain):
            made.set("", "domain", address.domain)
        made.set("rewrite", "from", "qualify")
    else:
        made.set("rewrite", "from", "force")
        made.set("rewrite", "force_from", str(address))
    made.set("aliases", "catch_all", wanted.to or str(address))
    made.smarthosts.append(smarthost)
    if password is not None:
        made.passwords[NAME] = password
    return made


class Dialogue:
    """What is not said by a flag: asked for at a terminal, an error elsewhere."""

    def __init__(self, *, asks: bool) -> None:
        self.asks = asks

    def say(self, text: str) -> None:
        print(printable(text, 2000), flush=True)

    def text(self, question: str, flag: str, default: str = "") -> str:
        if not self.asks:
            raise SetupFailed(EX_USAGE, f"{flag} is missing, and there is no terminal to ask at")
        shown = f"{question} [{default}]: " if default else f"{question}: "
        try:
            return input(printable(shown)).strip() or default
        except EOFError:
            print()
            raise SetupFailed(EX_USAGE, "no answer; nothing was written") from None

    def checked(self, question: str, flag: str, default: str, check: Callable[[str], str]) -> str:
        """The same; `check` says what is wrong with an answer, or ""."""
        for _ in range(TRIES):
            answer = self.text(question, flag, default)
            if not (wrong := check(answer)):
                return answer
            self.say(f"  {wrong}")
        raise SetupFailed(EX_USAGE, "no answer that could be used; nothing was written")

    def yes(self, question: str, *, default: bool) -> bool:
        answer = self.text(f"{question} [{'Y/n' if default else 'y/N'}]", "--yes").lower()
        return default if not answer else answer in ("y", "yes")

    def password(self, question: str) -> bytes:
        if not self.asks:
            raise SetupFailed(EX_USAGE, "--password-file is missing, and there is no terminal to ask at")
        try:
            return os.fsencode(getpass.getpass(f"{question}: "))
        except EOFError:
            raise SetupFailed(EX_USAGE, "no password; nothing was written") from None


def run(instance: Instance, wanted: Wanted, ask: Ask) -> int:
    """The whole of it; the exit code."""
    dialogue = Dialogue(asks=not wanted.yes and os.isatty(0) and wanted.password_file != STDIN)
    before, tables = _present(instance.path)
    if tables and not wanted.replace and not dialogue.asks:
        raise SetupFailed(EX_CANTCREAT, f"{instance.path} is there: --replace changes it, and keeps the old one")
    address = _address(wanted, dialogue)
    smarthost = _server(wanted, dialogue, address)
    password = _login(wanted, dialogue, address, smarthost)
    while True:
        new = _new(instance, wanted, address, smarthost, password, tables)
        facts = _probed(new, dialogue, address)
        if not _again(facts, dialogue):
            break
        smarthost["username"] = dialogue.text("User name", "--username", smarthost["username"])
        password = dialogue.password("Password")
    if tables:
        print(difference := placing.difference(instance.path, before, new.text), end="")
        if not wanted.replace and not dialogue.yes(consent(instance.path, difference), default=False):
            raise SetupFailed(EX_CANTCREAT, "nothing was written")
    try:
        for line in placing.write(instance.path, new.text, new.draft, new.config.queue.directory, time.time()):
            dialogue.say(line)
    except OSError as error:
        raise SetupFailed(EX_CANTCREAT, f"{error.filename or instance.path}: {error.strerror}") from None
    served = spool.answers(new.config.daemon.socket)
    if served:
        _reload(ask, dialogue)
    code = _tested(instance, new.config, wanted, dialogue, address, ask) if wanted.test and facts["ready"] else EX_OK
    if not served:
        dialogue.say(f"No daemon runs, and mail leaves only when one does: {_start_it(instance)}")
    return code


def consent(file: Path, difference: str) -> str:
    """What is asked before anything is written over, below the difference that it makes."""
    what = f"Change {file} so" if difference else f"{file} stays as it is, only the password is written anew"
    return f"{what}? The old one is kept"


def _again(facts: dict[str, Any], dialogue: Dialogue) -> bool:
    """After a probe: whether another login is to be tried. SetupFailed where it ends here."""
    if facts["ready"]:
        return False
    if not dialogue.asks:
        raise SetupFailed(EX_UNAVAILABLE, "mail cannot go there; nothing was written")
    refused = facts["trouble"] is not None and facts["trouble"]["stage"] == "auth"
    if refused and dialogue.yes("Another password?", default=True):
        return True
    if not dialogue.yes("Write it all the same?", default=False):
        raise SetupFailed(EX_UNAVAILABLE, "nothing was written")
    return False


def _present(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        return placing.present(file)
    except (OSError, ValueError) as error:
        raise SetupFailed(EX_CONFIG, f"{file}: it is no configuration: {error}; mend it, or move it away") from None


# -- what is asked for --


def _wrong_address(text: str) -> str:
    try:
        return "" if parse_path(text).domain else "there is no domain in it"
    except AddressError as error:
        return str(error)


def _address(wanted: Wanted, dialogue: Dialogue) -> Address:
    given = wanted.address
    if given is None:
        given = dialogue.checked("Your mail address", "--address", "", _wrong_address)
    for flag, text in (("--address", given), ("--to", wanted.to)):
        if text is not None and (wrong := _wrong_address(text)):
            raise SetupFailed(EX_USAGE, f"{flag}: {wrong}")
    return parse_path(given)


def _server(wanted: Wanted, dialogue: Dialogue, address: Address) -> Table:
    """The smarthost's table, without the login."""
    if wanted.host:
        host, port, implicit = wanted.host, wanted.port or (465 if wanted.tls_implicit else 587), wanted.tls_implicit
        implicit = implicit or port == 465
    else:
        host, port, implicit = _agreed(wanted, dialogue, propose(address.ascii_domain))
    table: Table = {"name": NAME, "host": host, "port": port}
    if wanted.tls or not wanted.login:
        table["tls"] = wanted.tls or "verify"
    if implicit != (port == 465):
        table["tls_implicit"] = implicit
    if wanted.ca_file:
        table["tls_ca_file"] = os.path.abspath(wanted.ca_file)
    return table


def _agreed(wanted: Wanted, dialogue: Dialogue, proposal: Proposal | str) -> tuple[str, int, bool]:
    """Host, port and whether TLS begins at once, as proposed or as a person has it. Only a person takes the DNS's."""
    if isinstance(proposal, str):
        dialogue.say(proposal)
        proposal = Proposal(host="", port=465, implicit=True, source="", sure=False)
    else:
        dialogue.say(proposal.source)
        if proposal.hint:
            dialogue.say(proposal.hint)
    host, port = proposal.host, wanted.port or proposal.port
    if not (wanted.yes and proposal.sure):
        host = dialogue.checked("Its server for outgoing mail", "--host", host, lambda text: "" if text else "a name")
        if not wanted.port:
            port = int(dialogue.checked("Port", "--port", str(port), _wrong_port))
    implicit = proposal.implicit if (host, port) == (proposal.host, proposal.port) else port == 465
    return host, port, implicit or wanted.tls_implicit


def _wrong_port(text: str) -> str:
    return "" if text.isascii() and text.isdigit() and 0 < int(text) < 65536 else "a number from 1 to 65535"


def _login(wanted: Wanted, dialogue: Dialogue, address: Address, smarthost: Table) -> bytes | None:
    """The password; the user name goes into the table."""
    if not wanted.login:
        return None
    username = wanted.username
    if username is None:
        username = str(address) if not dialogue.asks else dialogue.text("User name", "--username", str(address))
    smarthost["username"] = username
    if wanted.password_file == STDIN:
        return _line(_standard_input(), "standard input")
    if wanted.password_file is not None:
        try:
            return _line(small_file.read(Path(wanted.password_file), MAX_OCTETS), wanted.password_file)
        except OSError as error:
            raise SetupFailed(EX_NOINPUT, f"{wanted.password_file}: {error.strerror}") from None
    return dialogue.password("Password")


def _standard_input() -> bytes:
    try:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        return sys.stdin.buffer.read(MAX_OCTETS + 1)
    except OSError as error:
        raise SetupFailed(EX_IOERR, f"standard input: {error.strerror}; nothing was written") from None


def _line(octets: bytes, where: str) -> bytes:
    password = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not password or b"\n" in password or b"\0" in password or len(password) > MAX_OCTETS:
        raise SetupFailed(EX_USAGE, f"{where}: the password is to be its only line")
    return password


# -- what is done with it --


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A configuration that is not written yet."""

    draft: Draft
    text: str
    config: Config


def _new(
    instance: Instance, wanted: Wanted, address: Address, smarthost: Table, password: bytes | None, tables: Table
) -> New:
    """The new tables on those that are there."""
    made = draft(wanted, address, smarthost, password)
    made.tables = placing.merged(tables, made.tables)
    text = f"# By pysendmail setup; pysendmail.toml(5) has every key.\n{made.toml(instance.path.parent)}"
    try:
        return New(draft=made, text=text, config=config_file.parse(text, instance))
    except ConfigError as error:
        words = "\n".join(f"{problem.key}: {problem.text}; {problem.mend}" for problem in error.problems)
        raise SetupFailed(EX_CONFIG, f"that makes no configuration; nothing was written:\n{words}") from None


def _probed(new: New, dialogue: Dialogue, address: Address) -> dict[str, Any]:
    """What the smarthost says to the login and to the sender; told in a few lines."""
    smarthost = replace(new.config.smarthost[0], password_file="")  # it is not there yet: `secrets` has the password
    dialogue.say(f"Trying {smarthost.host} port {smarthost.port} ...")
    facts = asyncio.run(
        probe.probe(
            smarthost,
            hostname=new.config.hostname,
            timeout=PATIENCE,
            plan=tlspolicy.plan(smarthost, now=time.time(), tls_seen_at=None, failed_s=None),
            now=time.time(),
            secrets=Secrets.of(new.draft.passwords),
            question=probe.Question(sender=str(address), recipient=str(address)),
            max_message_size=new.config.queue.max_message_size,
        )
    )
    tls, auth, sender = facts["tls"], facts["auth"], facts["sender"]
    if tls["version"]:
        dialogue.say(f"  {tls['version']}, {tls['cipher']}; certificate: {tls['check']}")
    if auth["username"] and auth["mechanism"]:
        dialogue.say(f"  logged in as {auth['username']} ({auth['mechanism']})")
    if sender is not None and sender["accepted"]:
        dialogue.say(f"  it takes mail from {sender['address']}")
    for finding in facts["findings"]:
        dialogue.say(f"  {finding['level']}: {finding['text']}; {finding['mend']}")
    return facts


def _reload(ask: Ask, dialogue: Dialogue) -> None:
    """Have the daemon read it."""
    for answer in ask({"verb": "reload"}):
        words = (
            f"the daemon goes on with the old one: {answer['error']}" if answer["error"] else "the daemon uses it now"
        )
        dialogue.say(words)


def _start_it(instance: Instance) -> str:
    """The command that starts a daemon for this instance."""
    if not Path("/run/systemd/system").exists() or (instance.explicit and not instance.user):
        return f"pysendmail {f'-C {instance.path} ' if instance.explicit else ''}daemon"
    user = "--user " if instance.user else ""
    return f"systemctl {user}enable --now pysendmail.socket pysendmail-control.socket pysendmail.service"


def _tested(instance: Instance, config: Config, wanted: Wanted, dialogue: Dialogue, address: Address, ask: Ask) -> int:
    to = wanted.to or str(address)
    dialogue.say(f"A message to {to}:")
    try:
        entry = journey.send(instance, config, ask, to)
    except journey.NoJourney as error:
        raise SetupFailed(EX_TEMPFAIL, f"the configuration is written, but {error}") from None
    dialogue.say(f"  accepted as {entry['queue_id']} at {entry['accepted_at']}")
    for words in entry["words"]:
        dialogue.say(f"  {words}")
    outcomes = {recipient["outcome"] for recipient in entry["recipients"]}
    if outcomes == {"sent"}:
        dialogue.say(f"Done: look into the mailbox of {to}.")
        return EX_OK
    if None in outcomes:
        dialogue.say("The configuration is written; the message waits, and is tried again.")
        return EX_TEMPFAIL
    dialogue.say("The configuration is written, but the message was not taken.")
    return EX_UNAVAILABLE
