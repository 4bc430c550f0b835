"""Connection: from a smarthost's name to a connection that is ready for MAIL, or to the trouble that prevents it.

Resolves, connects (each address in turn), reads the greeting, says EHLO (else HELO), does STARTTLS and AUTH, all under
the TlsPlan and with a deadline for each step. aiosmtplib speaks; a Gate between it and the transport holds every
reply against RFC 5321's grammar and against what was asked, so that no stray octet is taken for an answer, and
writes the trace.

Promises: after the handshake everything learnt before is forgotten; octets that lie between the 220 to STARTTLS and
the handshake end the connection, without fallback; in clear nothing goes out but EHLO, HELO, STARTTLS and QUIT
unless the plan allows clear; credentials go over TLS unless `auth_in_clear`; one mechanism is tried.

Everything expected that goes wrong leaves as SessionError with a Trouble in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, cast

import aiosmtplib

from pysendmail import tlscontext
from pysendmail.certificate import describe
from pysendmail.config import Smarthost, Timeout
from pysendmail.gate import Gate, Trace, cut, words
from pysendmail.outcome import Fault, Stage, Trouble
from pysendmail.secrets import Secret, SecretError, Secrets
from pysendmail.smtp import sasl
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import Reply, printable
from pysendmail.tlspolicy import Check, TlsPlan

# A name with more addresses than this would hold one attempt up for minutes (Postfix tries 5).
MAX_ADDRESSES = 5
# No way there from this machine: what a laptop says on a train, not what a smarthost does.
NO_WAY = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH})
# How long a peer that we leave may take to see it; nothing depends on it.
LEAVE_S = 1.0


class SessionError(Exception):
    """No session came about. Beside the trouble, what the caller has to remember or report of it."""

    def __init__(self, trouble: Trouble, *, address: str, tls: str, tls_failed: str, tls_held: bool) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble
        self.address = address  # "" when there was none
        self.tls = tls  # as Session.tls, at the moment of the failure
        self.tls_failed = tls_failed  # a handshake failed and clear is allowed: to be remembered; else ""
        self.tls_held = tls_held  # only the TLS memory kept this connection from going on in clear


@dataclass(slots=True, kw_only=True)
class Connection:
    """A connection and what is known of it; filled in as it is opened."""

    smtp: aiosmtplib.SMTP
    gate: Gate
    address: str
    greeting: str = ""
    tls: str = "none"
    cipher: str = ""
    certificate_until: str = ""  # when the server's certificate expires, RFC 3339; "": in clear, or it says nothing
    tls_failed: str = ""  # the handshake that failed on the way here
    fallback: str = ""  # why it is in clear although TLS was wanted: a handshake failed, now or a short while ago
    extensions: Extensions = field(default_factory=Extensions)
    extensions_in_clear: Extensions | None = None  # before STARTTLS, to be shown and never used
    mechanism: str = ""  # of AUTH, once it succeeded
    secrets: tuple[str, ...] = ()  # what must not show in a text from this server

    @property
    def transport(self) -> asyncio.Transport:
        """The transport in use; another one after STARTTLS."""
        return cast(asyncio.Transport, self.smtp.transport)


class _Stop(Exception):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


class _HandshakeFailed(Exception):
    """TLS did not come up, which the plan may allow to be answered by a new connection in clear."""


class Opener:
    """Opens one connection to `smarthost` under `plan`. Used once.

    The secret is read each time, and only when there are credentials. `connection` is there for `probe`, which wants
    the facts of a connection that failed as well.
    """

    def __init__(
        self,
        smarthost: Smarthost,
        *,
        hostname: str,
        timeout: Timeout,
        plan: TlsPlan,
        secrets: Secrets | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.connection: Connection | None = None
        self.on_tls: Callable[[ssl.SSLObject], None] | None = None  # to look at the certificates
        self._smarthost = smarthost
        self._hostname = hostname
        self._timeout = timeout
        self._plan = plan
        self._secrets = secrets
        self._trace = trace
        self._stage = Stage.CONNECT
        self._address = ""
        self._sockaddr: Any = None  # of that address
        self._tls_failed = ""
        self._tls_held = False

    async def open(self) -> Connection:
        """The connection, ready for MAIL. SessionError when there is none, with nothing left open."""
        try:
            if self._plan.refusal:
                raise _Stop(Trouble.from_fault(Stage.TLS, Fault.POLICY, self._plan.refusal))
            secret = await self._read_secret()
            sock = await self._dial(await self._resolve())
            try:
                return await self._establish(sock, secret, tls=self._plan.attempt)
            except _HandshakeFailed as failed:
                if not self._plan.clear_if_failed:
                    raise self._demanded(Trouble.from_fault(Stage.TLS, Fault.HANDSHAKE, str(failed))) from None
                self._tls_failed = str(failed)
            # The same address: another one of that name may be another machine, with TLS that works.
            sock = await self._dial([self._sockaddr])
            return await self._establish(sock, secret, tls=False)
        except _Stop as stop:
            raise self._error(stop.trouble) from None

    def _error(self, trouble: Trouble) -> SessionError:
        return SessionError(
            trouble,
            address=self._address,
            tls=self.connection.tls if self.connection else "none",
            tls_failed=self._tls_failed,
            tls_held=self._tls_held,
        )

    def _demanded(self, trouble: Trouble) -> _Stop:
        """The end, where only the plan keeps us from going on in clear: the reason says what demands TLS."""
        self._tls_held = self._plan.remembered
        return _Stop(replace(trouble, reason=f"{trouble.reason} ({self._plan.demand})"))

    async def _read_secret(self) -> Secret | None:
        if not self._smarthost.has_credentials:
            return None
        try:
            if self._secrets is None:
                raise SecretError(f"smarthost {self._smarthost.name}: no source for the password")
            return await self._secrets.read(self._smarthost)
        except SecretError as error:
            raise _Stop(Trouble.from_fault(Stage.AUTH, Fault.SECRET, printable(str(error)))) from None

    async def _resolve(self) -> Sequence[Any]:
        """The addresses in the resolver's order (RFC 6724), at most MAX_ADDRESSES."""
        host, port = self._smarthost.host, self._smarthost.port
        offline = False
        try:
            with contextlib.suppress(socket.gaierror):
                return socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
                )
            async with asyncio.timeout(self._timeout.connect):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            offline, reason = True, f"no answer about the name {host} in {self._timeout.connect:g} s"
        except (socket.gaierror, UnicodeError) as error:
            offline = error.args[0] == socket.EAI_AGAIN  # no resolver answers, or it cannot ask anybody
            reason = f"{host}: {error.strerror if isinstance(error, socket.gaierror) else error}"
        else:
            if found:
                return found[:MAX_ADDRESSES]
            reason = f"{host} has no address"
        raise _Stop(replace(Trouble.from_fault(Stage.CONNECT, Fault.NAME, printable(reason)), offline=offline))

    async def _dial(self, addresses: Sequence[Any]) -> socket.socket:
        """A connected socket to the first address that answers. An address without a way to it is not the one to blame
        where another is: a machine without IPv6 has no way to half of them.
        """
        self._stage = Stage.CONNECT
        loop = asyncio.get_running_loop()
        trouble: Trouble | None = None
        for sockaddr in addresses:
            family, kind, protocol, _, where = sockaddr
            self._sockaddr = sockaddr
            sock, offline = None, False
            try:
                sock = socket.socket(family, kind, protocol)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(self._timeout.connect):
                    await loop.sock_connect(sock, where)
                connected, sock = sock, None
                self._address = where[0]
                return connected
            except TimeoutError:
                reason, fault = f"no connection in {self._timeout.connect:g} s", Fault.TIMEOUT
            except OSError as error:
                reason, fault, offline = words(error), Fault.UNREACHABLE, error.errno in NO_WAY
            finally:
                if sock is not None:
                    sock.close()
            if trouble is None or trouble.offline or not offline:
                self._address = where[0]
                reason = printable(f"{self._smarthost.host} [{where[0]}] port {self._smarthost.port}: {reason}")
                trouble = replace(Trouble.from_fault(Stage.CONNECT, fault, reason), offline=offline)
        assert trouble is not None  # there is no empty list of addresses
        raise _Stop(trouble)

    async def _establish(self, sock: socket.socket, secret: Secret | None, *, tls: bool) -> Connection:
        """The conversation up to MAIL over a connected socket, which is closed if it fails."""
        gate = Gate(sock, self._trace, self._timeout.command)
        smtp = aiosmtplib.SMTP(
            hostname=self._smarthost.host,
            local_hostname=self._hostname,
            start_tls=False,
            timeout=None,
        )
        connection = self.connection = Connection(smtp=smtp, gate=gate, address=self._address)
        connection.tls_failed = self._tls_failed
        connection.fallback = self._tls_failed or self._plan.fallback
        ready = False
        try:
            await self._greet(connection, sock, implicit=tls and self._plan.implicit)
            await self._hello(connection)
            if tls and not self._plan.implicit:
                await self._start_tls(connection)
            if secret is not None:
                await self._authenticate(connection, secret)
            ready = True
        except (_Stop, _HandshakeFailed):
            raise
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _Stop(self._trouble(connection, error)) from None
        finally:
            if not ready:
                await leave(connection)
                sock.close()
        return connection

    async def _greet(self, connection: Connection, sock: socket.socket, *, implicit: bool) -> None:
        """Hand the socket to asyncio, with TLS at once if it is implicit, and read the greeting.

        aiosmtplib's own connect() has one deadline for handshake and greeting, where we have one for each.
        """
        smtp, gate = connection.smtp, connection.gate
        loop = asyncio.get_running_loop()
        if implicit:
            self._stage = Stage.TLS
            context = await self._context()
            try:
                transport, _ = await loop.create_connection(
                    lambda: gate,
                    sock=sock,
                    ssl=context,
                    server_hostname=smtp.hostname,
                    ssl_handshake_timeout=self._timeout.tls,
                )
            except OSError as error:
                raise self._handshake_failure(error) from None
        else:
            transport, _ = await loop.create_connection(lambda: gate, sock=sock)
        smtp.protocol, smtp.transport = gate, transport
        if implicit:
            self._check_tls(connection)
        self._stage = Stage.GREETING
        response = await gate.read_response(timeout=self._timeout.greeting)
        assert gate.last is not None
        connection.greeting = gate.last.text
        if response.code != 220:
            raise _Stop(Trouble.from_reply(Stage.GREETING, gate.last))

    async def _hello(self, connection: Connection) -> None:
        """EHLO; HELO where that is refused, and then there are no extensions."""
        self._stage = Stage.EHLO
        smtp, gate = connection.smtp, connection.gate
        connection.extensions = Extensions()
        try:
            await smtp.ehlo(timeout=self._timeout.command)
            assert gate.last is not None
            connection.extensions = Extensions.parse(gate.last.lines)
        except aiosmtplib.SMTPHeloError as error:
            if not 500 <= error.code < 600:
                raise
            await smtp.helo(timeout=self._timeout.command)

    async def _start_tls(self, connection: Connection) -> None:
        """STARTTLS and a second EHLO; or in clear, where the plan allows it."""
        self._stage = Stage.STARTTLS
        if not connection.extensions.starttls:
            if self._plan.clear_if_unavailable:
                return
            reason = "the server does not offer STARTTLS"
            raise self._demanded(Trouble.from_fault(Stage.STARTTLS, Fault.POLICY, reason))
        smtp, gate = connection.smtp, connection.gate
        context = await self._context()
        try:
            await smtp.starttls(tls_context=context, server_hostname=smtp.hostname, timeout=self._timeout.tls)
        except aiosmtplib.SMTPReadTimeoutError:
            raise  # the reply to STARTTLS did not come: that is no handshake yet
        except aiosmtplib.SMTPResponseException:
            refusal = gate.last
            if refusal is None or gate.trouble or refusal.first_digit not in (4, 5) or refusal.code == 421:
                raise
            if self._plan.clear_if_unavailable:
                return
            raise self._demanded(Trouble.from_reply(Stage.STARTTLS, refusal)) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            if gate.trouble is not None:
                raise
            self._stage = Stage.TLS
            gate.closed.set()  # asyncio closed the transport, and tells nobody
            raise self._handshake_failure(error) from None
        connection.extensions_in_clear, connection.extensions = connection.extensions, Extensions()
        self._check_tls(connection)
        try:
            await self._hello(connection)
        except aiosmtplib.SMTPServerDisconnected as error:
            # With TLS 1.3 a server that wants a client certificate says so only now, and so do others that give up.
            if gate.trouble is not None:
                raise
            connection.tls = "none"
            raise self._handshake_failure(error, gate.close_reason) from None

    async def _context(self) -> ssl.SSLContext:
        try:
            return await tlscontext.get(self._smarthost, self._plan.check)
        except OSError as error:
            files = [self._smarthost.tls_ca_file, self._smarthost.tls_client_certificate]
            where = " and ".join(filter(None, files)) or "the system's trust store"
            reason = f"TLS cannot be set up with {where}: {words(error)}"
            raise _Stop(Trouble.from_fault(Stage.TLS, Fault.POLICY, printable(reason))) from None

    def _handshake_failure(self, error: Exception, reason: str = "") -> _Stop | _HandshakeFailed:
        """What a failed handshake means: a certificate refused by us is final, the rest may be answered in clear."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"certificate verification failed: {error.verify_message}"
            return _Stop(Trouble.from_fault(Stage.TLS, Fault.CERTIFICATE, printable(reason)))
        if isinstance(error, TimeoutError | ConnectionAbortedError):
            return _HandshakeFailed(f"no TLS handshake in {self._timeout.tls:g} s")
        return _HandshakeFailed(printable(f"TLS handshake failed: {reason or words(error.__cause__ or error)}"))

    def _check_tls(self, connection: Connection) -> None:
        """Note what TLS came up; check the pins before another word is said."""
        tls = connection.smtp.get_transport_info("ssl_object")
        if self.on_tls is not None:
            self.on_tls(tls)
        connection.tls = tls.version() or "TLS"
        connection.cipher = tls.cipher()[0]
        connection.certificate_until = describe(tls.getpeercert(binary_form=True) or b"").not_after
        if self._plan.check is not Check.PIN:
            return
        fingerprint = sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
        if fingerprint not in self._smarthost.tls_fingerprints:
            reason = f"the certificate's fingerprint {fingerprint} is none of tls_fingerprints"
            raise _Stop(Trouble.from_fault(Stage.TLS, Fault.CERTIFICATE, reason))

    async def _authenticate(self, connection: Connection, secret: Secret) -> None:
        self._stage = Stage.AUTH
        smarthost, gate, smtp = self._smarthost, connection.gate, connection.smtp
        encrypted = connection.tls != "none"
        if not encrypted and not smarthost.auth_in_clear:
            raise _Stop(Trouble.from_fault(Stage.AUTH, Fault.POLICY, "no TLS, and auth_in_clear is false"))
        offered = connection.extensions.auth
        mechanism = sasl.choose(offered, smarthost.auth, encrypted=encrypted)
        if mechanism is None:
            wanted = " ".join(smarthost.auth) or "PLAIN LOGIN CRAM-MD5"
            reason = f"no common AUTH mechanism: offered {' '.join(offered) or 'none'}, usable {wanted}"
            raise _Stop(Trouble.from_fault(Stage.AUTH, Fault.POLICY, printable(reason)))
        connection.secrets = _traces_of(smarthost, secret)
        gate.redact = lambda text: redact(text, connection.secrets)
        gate.authenticating = True
        try:
            await self._log_in(smtp, mechanism, secret.reveal())
        except aiosmtplib.SMTPResponseException:
            if gate.trouble is not None or gate.last is None:
                raise
            raise _Stop(self._refusal(gate, gate.last)) from None
        finally:
            gate.authenticating = False
        connection.mechanism = mechanism

    async def _log_in(self, smtp: aiosmtplib.SMTP, mechanism: str, octets: bytes) -> None:
        username, timeout = self._smarthost.username, self._timeout.command
        match mechanism:
            case "PLAIN":
                await smtp.auth_plain(username, octets, timeout=timeout)
            case "LOGIN":
                await smtp.auth_login(username, octets, timeout=timeout)
            case "CRAM-MD5":
                await smtp.auth_crammd5(username, octets, timeout=timeout)
            case "XOAUTH2":
                await smtp.auth_xoauth2(username, octets, timeout=timeout)
            case _:
                initial = sasl.oauthbearer(username, octets, self._smarthost.host, self._smarthost.port)
                response = await smtp.execute_command(b"AUTH", b"OAUTHBEARER", initial, timeout=timeout)
                if response.code == 334:
                    response = await smtp.execute_command(sasl.OAUTHBEARER_GIVE_UP, timeout=timeout)
                if response.code != 235:
                    raise aiosmtplib.SMTPAuthenticationError(response.code, response.message)

    def _refusal(self, gate: Gate, reply: Reply) -> Trouble:
        trouble = Trouble.from_reply(self._stage, reply)
        return replace(trouble, reason=gate.redact(trouble.reason))

    def _trouble(self, connection: Connection, error: Exception) -> Trouble:
        """What an exception of aiosmtplib or the socket means at the present stage."""
        gate, stage = connection.gate, self._stage
        if isinstance(gate.trouble, Reply):
            return self._refusal(gate, gate.trouble)
        if gate.trouble is not None:
            fault, reason = gate.trouble
        elif isinstance(error, aiosmtplib.SMTPResponseException) and gate.last and gate.last.code == error.code:
            return self._refusal(gate, gate.last)
        elif isinstance(error, TimeoutError):
            seconds = self._timeout.greeting if stage is Stage.GREETING else self._timeout.command
            fault, reason = Fault.TIMEOUT, f"no answer in {seconds:g} s at {stage}"
        elif isinstance(error, aiosmtplib.SMTPResponseException):
            fault, reason = Fault.GARBAGE, error.message
        else:
            fault = Fault.UNREACHABLE if stage is Stage.GREETING else Fault.CLOSED
            reason = f"the server closed the connection at {stage}"
            if gate.close_reason:
                reason += f": {gate.close_reason}"
        return Trouble.from_fault(stage, fault, gate.redact(printable(reason)))


def redact(text: str, secrets: Sequence[str]) -> str:
    """`text` without the secrets, which a server may repeat to us in its replies."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _traces_of(smarthost: Smarthost, secret: Secret) -> tuple[str, ...]:
    """The forms in which a server may have seen the secret, the longest first."""
    octets, username = secret.reveal(), smarthost.username.encode()
    plain = b"\0" + username + b"\0" + octets
    xoauth2 = b"user=" + username + b"\x01auth=Bearer " + octets + b"\x01\x01"
    forms = [b64encode(form).decode() for form in (xoauth2, plain, octets)]
    forms.append(sasl.oauthbearer(smarthost.username, octets, smarthost.host, smarthost.port).decode())
    return tuple(sorted((*forms, printable(octets)), key=len, reverse=True))


async def leave(connection: Connection) -> None:
    """Close politely if the server still listens, at once otherwise; never wait for more than LEAVE_S."""
    transport, gate = connection.smtp.transport, connection.gate
    transport = transport if transport is not None else gate.transport
    if transport is None:
        return
    transport = cast(asyncio.Transport, transport)
    if not transport.is_closing():
        if gate.trouble is None and gate.last is not None:
            transport.write(b"QUIT\r\n")
        transport.close()
    try:
        async with asyncio.timeout(LEAVE_S):
            await gate.closed.wait()
    except TimeoutError:
        cut(transport)
