"""Submission: argv and stdin become a message of ours, or a refusal with an exit code and one line of words.

Without I/O of its own: `feed` takes input; `spill` and `finish` give steps for whoever owns the queue to run and
commit, the daemon on its writer thread, a command by itself. So a submission means the same with a daemon and
without. Order: envelope, header, body in parts, then C1. Nothing is ours before the step of `finish` is committed.

Refusals (sendmail(8), EXIT STATUS): 64 no recipient; 65 an address or a message that cannot be sent; 75 no room or
over a limit; 77 not allowed.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol, TypeVar

from pysendmail import mime, route
from pysendmail.address import Address, AddressError, parse_list, parse_path
from pysendmail.aliases import AliasError, Aliases, AliasesUnread, expand_recipients, local_name
from pysendmail.argv import Invocation
from pysendmail.config import Config
from pysendmail.envelope import Envelope, Recipient
from pysendmail.exits import EX_DATAERR, EX_NOPERM, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.message import Intake, MessageError, complete, hops, received, recipients, rfc5322_date
from pysendmail.origin import NOBODY_SAID, Origin, origin
from pysendmail.queue import COMMIT_OCTETS, PART_OCTETS, Queue
from pysendmail.records import Accepted, Destination, NewMessage
from pysendmail.smtp.reply import printable
from pysendmail.smtp.service import Begin
from pysendmail.spool import FREE_FLOOR, free_beside_reserve

T = TypeVar("T")
MAX_WARNING = 200  # characters of X-Authentication-Warning: it stays one line
MAX_SENDER_OCTETS = 4096  # of -f, which may be a name and an address
ACCOUNT_S = 10.0  # so long at most is a user's entry in the password database believed
LABORIOUS_OCTETS = 16 * 1024  # more of a header, of recipients or of a body with long lines takes more than a moment
MAX_HOPS = 50  # Received fields: more of them is a loop


class Apart(Protocol):
    """Does work where others need not wait for it."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


class Refused(Exception):
    """The submission is refused; nothing of it is queued. `code` is the exit code, the text one line.

    `status` (RFC 3463) is what an SMTP client is told where the code alone says too little.
    """

    def __init__(self, code: int, text: str, status: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who submits, as the kernel says, and what he calls himself."""

    uid: int
    full_name: str = ""  # $NAME, a claim
    origin: Origin = NOBODY_SAID

    @classmethod
    def known(cls, uid: int, pid: int, environment: Mapping[bytes, bytes]) -> Caller:
        """By the kernel's word, and by the variables that the client passes on."""
        name = environment.get(b"NAME", b"").decode("utf-8", "replace")
        return cls(uid=uid, full_name=name, origin=origin(pid, environment))

    @property
    def login(self) -> str:
        account = _account(self.uid)
        return account.pw_name if account else f"uid{self.uid}"

    def address(self, config: Config) -> str:
        """His own. sssd may call him joe@ad.example.com, which is one; winbind AD\\joe, which needs quotes in one."""
        try:
            return _address_of(self.login, config.sender_domain)
        except AddressError:  # "-joe", or a name of more than 64 octets
            return f"uid{self.uid}@{config.sender_domain}"

    def is_his(self, address: str, config: Config) -> bool:
        """Whether the address is his own, in any case of its domain, or his name on this machine."""
        own = parse_path(self.address(config))
        local = str(Address(own.local)) if own.domain == config.sender_domain else ""
        return parse_path(address).key == own.key or local_name(address, config) == local

    def name(self) -> str:
        if self.full_name:
            return self.full_name
        account = _account(self.uid)
        return account.pw_gecos.partition(",")[0] if account else ""


@lru_cache(maxsize=256)
def _address_of(login: str, domain: str) -> str:
    with suppress(AddressError):
        if parse_path(login).domain:
            return login
    return str(Address(login, domain))


def _account(uid: int) -> pwd.struct_passwd | None:
    return _account_during(uid, int(time.monotonic() // ACCOUNT_S))


@lru_cache(maxsize=256)
def _account_during(uid: int, _period: int) -> pwd.struct_passwd | None:
    # Files are opened for it, or a directory server is asked, and nobody else is served meanwhile.
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


class Submission:
    """One message on its way in. `queue_id` is fixed at the start, since Received names it.

    With `mail` it comes by SMTP: that says what the options of a command would, and its recipients are those that `add`
    takes, one by one.
    """

    def __init__(
        self,
        invocation: Invocation,
        *,
        caller: Caller,
        config: Config,
        aliases: Aliases,
        queue_id: str,
        submission_id: bytes,
        mail: Begin | None = None,
    ) -> None:
        self.queue_id = queue_id
        self.reencoded = ""  # lines were too long and are encoded now: "yes", or "signed" where that broke a signature
        self.tag = invocation.tag
        self.stored = False  # something of it is in the database: to be forgotten if it ends here
        self._invocation = invocation
        self._caller = caller
        self._config = config
        self._aliases = aliases
        self._submission_id = submission_id
        self._mail = mail
        self._asked: Begin | Invocation = mail or invocation
        self._added: dict[str, Recipient] = {}  # by address
        self._intake = Intake(dot_ends=invocation.dot_ends)
        self._pending = bytearray()
        self._fed = 0
        self._message = 0
        self._parts = 0
        self.new: NewMessage | None = None
        self._check_access()
        self._sender = envelope_sender(self._asked, caller, config)
        self._warning = self._sender_policy()
        if invocation.require_tls:
            raise Refused(
                EX_UNAVAILABLE, "-O requiretls=yes: REQUIRETLS (RFC 8689) is not supported; nothing was queued"
            )
        if not mail and not invocation.recipients and not invocation.read_recipients:
            raise Refused(EX_USAGE, "no recipient: name one, or use -t to take them from To, Cc and Bcc")

    def add(self, recipient: Recipient) -> None:
        """One more recipient, with what he is to be told. Raises Refused, and then he is not added."""
        self._expanded([recipient.address])
        self._added.setdefault(recipient.address, recipient)

    # -- input --

    @property
    def ended(self) -> bool:
        """A line with a lone dot ended the message: there is nothing more to read."""
        return self._intake.ended

    @property
    def stray(self) -> int:
        return self._intake.stray

    @property
    def long(self) -> bool:
        """Whether C1 takes long on the queue: all of a large body is encoded there."""
        return bool(self._message) and self._intake.overlong

    def feed(self, data: bytes) -> None:
        """Take a piece of stdin. Raises Refused."""
        self._fed += len(data)
        try:
            self._intake.feed(data)
        except MessageError as error:
            raise Refused(EX_DATAERR, str(error)) from None
        self._take_body()

    def _take_body(self) -> None:
        self._pending += self._intake.take()
        limit = self._config.queue.max_message_size
        if self._intake.size > limit:
            raise Refused(
                EX_DATAERR,
                f"the message is larger than {limit} octets, the limit of [queue] max_message_size",
                "5.3.4",
            )

    def spill(self) -> Callable[[Queue], None] | None:
        """A step that stores what has come so far of a large body; None while it is small."""
        if len(self._pending) < COMMIT_OCTETS:
            return None
        self._check_space(self._intake.size)
        whole = len(self._pending) - len(self._pending) % PART_OCTETS
        octets = bytes(self._pending[:whole])
        del self._pending[:whole]
        self.stored = True

        def step(queue: Queue) -> None:
            if not self._message:
                self._message = queue.receive(queue_id=self.queue_id, kind="mail", uid=self._caller.uid)
            self._parts = queue.add_body(self._message, self._parts, octets)

        return step

    def forget(self, queue: Queue) -> None:
        """The step that undoes a spilled submission."""
        queue.forget(self.queue_id)

    def _check_space(self, size: int) -> None:
        needed = 2 * size + FREE_FLOOR
        directory = self._config.queue.directory
        if (free := free_beside_reserve(directory, self._config.queue.reserve)) < needed:
            raise Refused(
                EX_TEMPFAIL,
                f"not enough room in {directory}: beside [queue] reserve {free} octets are free, {needed} are needed; "
                "nothing was queued, make room or try again later",
            )

    # -- C1 --

    async def finished(self, now: float, apart: Apart) -> Callable[[Queue], Accepted]:
        """As `finish`, and nobody waits for it: `apart` does what takes more than a moment."""
        work = partial(self.finish, now)
        given = self._fed + sum(map(len, self._invocation.recipients))
        return await apart(work) if given > LABORIOUS_OCTETS else work()

    def finish(self, now: float) -> Callable[[Queue], Accepted]:
        """End of input: the step whose commit makes the message ours. Raises Refused."""
        try:
            self._intake.finish()
        except MessageError as error:
            raise Refused(EX_DATAERR, str(error)) from None
        self._take_body()
        destinations = self._destinations()
        self._check_hops()
        self._check_space(self._intake.size)
        self.new = self._compose(destinations, now)
        return self._accept(self.new, now)

    def _accept(self, new: NewMessage, now: float) -> Callable[[Queue], Accepted]:
        access = self._config.access

        def step(queue: Queue) -> Accepted:
            if (known := queue.known(self._submission_id)) is not None:
                self.forget(queue)  # what was spilled before the answer was asked for again
                return known
            if self._caller.uid != 0:
                messages, octets = queue.owned(self._caller.uid)
                if messages >= access.messages or octets + new.body_size > access.bytes:
                    raise Refused(
                        EX_TEMPFAIL,
                        f"uid {self._caller.uid} has {messages} messages of {octets} octets waiting here, and "
                        f"[access] allows {access.messages} of {access.bytes}: nothing was queued, "
                        "try again when some have left",
                    )
            if not self._message:
                return queue.accept(new, submission=self._submission_id, now=now)
            queue.add_body(self._message, self._parts, new.body)
            ready = self._encode_stored(queue, new) if self._intake.overlong else new
            queue.make_ready(self._message, ready, now, submission=self._submission_id)
            return Accepted(queue_id=self.queue_id)

        return step

    def _encode_stored(self, queue: Queue, new: NewMessage) -> NewMessage:
        """The same as in `_compose`, for a body that is in the database already."""
        encoded = mime.reencode(new.header, lambda: queue.parts(self._message, 0, -1), seven_bit=False)
        self.reencoded = "signed" if encoded.signed else "yes"
        return replace(new, header=encoded.header, body_size=queue.replace_body(self._message, encoded.body))

    def _compose(self, destinations: tuple[Destination, ...], now: float) -> NewMessage:
        config, intake = self._config, self._intake
        date = rfc5322_date(now)
        host = config.hostname
        author = self._sender or self._caller.address(config)
        completed = complete(
            intake.fields,
            sender_address=author,
            full_name=self._invocation.full_name or self._caller.name(),
            date=date,
            message_id=f"<{self.queue_id}@{host}>",
            fix_up=self._invocation.fix_up,
        )
        header, body, body_size = completed.header, bytes(self._pending), intake.size
        eight_bit = intake.eight_bit or intake.header_eight_bit
        if intake.overlong and not self._message:
            # RFC 5322 §2.1.1 allows 998 octets a line: encoded once, here, so that all copies are the same.
            encoded = mime.reencode(header, lambda: (body,), seven_bit=False)
            header, body = encoded.header, b"".join(encoded.body)
            self.reencoded = "signed" if encoded.signed else "yes"
            body_size = len(body)
        trace = received(
            host=host,
            queue_id=self.queue_id,
            date=date,
            uid=self._caller.uid,
            style=config.headers.received,
            origin=self._caller.origin if config.headers.origin else None,
            helo=self._mail.hello.name if self._mail else "",
            esmtp=self._mail is not None and self._mail.hello.extended,
        )
        if self._warning:
            text = printable(self._warning, MAX_WARNING).encode("ascii", "backslashreplace")
            trace += b"X-Authentication-Warning: " + text + b"\r\n"
        envelope = Envelope(
            sender=self._sender,
            recipients=tuple(destination.recipient for destination in destinations),
            envid=self._asked.envid,
            ret=self._asked.ret,
            smtputf8=self._asked.smtputf8,
        )
        return NewMessage(
            queue_id=self.queue_id,
            kind="mail",
            uid=self._caller.uid,
            pid=self._caller.origin.pid,
            command=self._caller.origin.command,
            unit=self._caller.origin.unit,
            envelope=envelope,
            destinations=destinations,
            header=trace + header,
            body=body,
            body_size=body_size,
            message_id=completed.message_id,
            eight_bit=eight_bit,
            lifetime=config.queue.lifetime if self._invocation.lifetime is None else self._invocation.lifetime,
            warn_after=config.queue.warn_after,
            wait=config.retry.maximum if self._invocation.delivery == "queue-only" else 0.0,
        )

    # -- access --

    def _check_access(self) -> None:
        allowed = self._config.access.authorized_submitters
        if self._caller.uid != 0 and "*" not in allowed and self._caller.login not in allowed:
            raise Refused(
                EX_NOPERM,
                f"user {self._caller.login} may not send mail here ([access] authorized_submitters): "
                "nothing was queued",
            )

    def _sender_policy(self) -> str:
        """The X-Authentication-Warning that is due for a sender address that is not the caller's own, or "" """
        policy, caller, config = self._config.access.sender_policy, self._caller, self._config
        if policy == "off" or caller.uid == 0 or not self._sender or caller.is_his(self._sender, config):
            return ""
        if policy == "enforce":
            raise Refused(
                EX_NOPERM,
                f"user {caller.login} may send as {caller.address(config)} only ([access] sender_policy): "
                "nothing was queued",
            )
        how = "SMTP" if self._mail else "-f"
        return f"{config.hostname}: {caller.login} set sender to {self._sender} using {how}"

    # -- envelope --

    def _destinations(self) -> tuple[Destination, ...]:
        found = list(self._added)
        try:
            for argument in self._invocation.recipients:
                found += parse_list(_octets(argument))
            if self._invocation.read_recipients:
                found += recipients(self._intake.fields)
            addresses = [str(parse_path(text)) for text in found]
        except AddressError as error:
            raise Refused(EX_DATAERR, str(error)) from None
        if not addresses:
            raise Refused(EX_USAGE, "no recipient: neither an argument nor To, Cc or Bcc names one")
        expanded = self._expanded(addresses)
        limit = self._config.queue.max_recipients
        if len(expanded) > limit:
            reason = f"more than {limit} recipients ([queue] max_recipients): send it in parts"
            raise Refused(EX_DATAERR, reason, "5.5.3")
        return tuple(
            Destination(
                recipient=self._recipient(final, original),
                original=original,
                route=route.route(self._sender, final, self._config),
            )
            for final, original in expanded
        )

    def _expanded(self, addresses: Iterable[str]) -> list[tuple[str, str]]:
        """Final address and the one that was given; only so many that there are seen to be too many."""
        aliases = Aliases.load("") if self._invocation.no_aliases else self._aliases
        try:
            return expand_recipients(addresses, aliases, self._config, most=self._config.queue.max_recipients)
        except (AliasError, AddressError) as error:  # AddressError: too long with the domain that it gets
            raise Refused(EX_DATAERR, str(error), "5.1.3") from None
        except AliasesUnread as error:
            raise Refused(EX_TEMPFAIL, str(error), "4.3.0") from None

    def _recipient(self, final: str, original: str) -> Recipient:
        given = self._added.get(original)
        notify = given.notify if given else self._invocation.notify
        orcpt = given.orcpt if given else ""
        return Recipient(address=final, notify=notify, orcpt=orcpt or self._orcpt(final, original))

    def _orcpt(self, final: str, original: str) -> str:
        """What the sender called the recipient, where a DSN should know it (RFC 3461 §5.2.3; RFC 6533 §3)."""
        kind = "rfc822" if original.isascii() else "utf-8"
        return f"{kind};{original}" if original != final and "@" in original else ""

    def _check_hops(self) -> None:
        limit = min(self._invocation.max_hops or MAX_HOPS, MAX_HOPS)
        if (count := hops(self._intake.fields) + self._invocation.hops) > limit:
            raise Refused(
                EX_DATAERR, f"{count} Received fields: the message goes round in a loop (the limit is {limit})", "5.4.6"
            )


def envelope_sender(asked: Begin | Invocation, caller: Caller, config: Config) -> str:
    """The reverse-path: that of MAIL, or of -f, where it may be a name and an address, or else the caller's own."""
    if asked.sender == "":
        return ""
    if asked.sender is None:
        return caller.address(config)
    try:
        if len(asked.sender) > MAX_SENDER_OCTETS:
            raise AddressError(f"it has more than {MAX_SENDER_OCTETS} octets")
        found = parse_list(_octets(asked.sender))
        if len(found) != 1:
            raise AddressError(f"one address is needed, {len(found)} were given")
        address = parse_path(found[0])
    except AddressError as error:
        raise Refused(EX_DATAERR, f"sender: {error}") from None
    return str(address) if address.domain else f"{address}@{config.sender_domain}"


def _octets(argument: str) -> bytes:
    """An argument as it was typed; `argv` decoded it."""
    return argument.encode("utf-8", "surrogateescape")
