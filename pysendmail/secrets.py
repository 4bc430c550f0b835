"""Secrets: where a smarthost's password or token comes from, and a type that cannot show it.

A smarthost with a username takes its secret from password_file, else password_command, else the systemd credential
`smarthost.NAME.password`. File and command are read at each connection, so that a changed password and a fresh token
need no restart; systemd's credentials are fixed when the service starts.

Promises: a file that others can read is not used; a command runs without a shell, with a deadline and capped
output, nothing that systemd told us, and its stderr goes nowhere, since it may hold the secret; at its end what is left
of its process group is killed; no error text repeats any of it. Everything that
goes wrong is a SecretError whose text names the smarthost, the place and the mend; it means a smarthost in
trouble, never a message to blame.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pysendmail import command
from pysendmail.command import CommandError
from pysendmail.config import Smarthost

# An OAuth token has some KiB; more is the wrong file.
MAX_OCTETS = 64 * 1024


class Secret:
    """A password or token. `reveal` is the only way to its octets; str(), format(), pickle and copies are refused."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets, for the one line that puts them on the wire."""
        return self._octets

    def __repr__(self) -> str:
        return "<secret>"  # a traceback or a dataclass may ask for it

    def __str__(self) -> NoReturn:
        raise TypeError("a secret has no text")

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("a secret has no text")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied")


class SecretError(Exception):
    """There is no usable secret. The text is for log, `status` and `explain`."""


class Secrets:
    """The secrets of the smarthosts. Made at start: that is when systemd's credentials are read.

    The queue's owner and group, to whom the files must belong, are those of this process unless they are given.
    """

    def __init__(
        self,
        *,
        credentials_directory: str | None = None,
        owner: int | None = None,
        group: int | None = None,
    ) -> None:
        self._owner = os.geteuid() if owner is None else owner
        self._group = os.getegid() if group is None else group
        if credentials_directory is None:
            credentials_directory = os.environ.get("CREDENTIALS_DIRECTORY")
        self._credentials = _systemd_credentials(credentials_directory)

    @classmethod
    def of(cls, passwords: Mapping[str, bytes]) -> Secrets:
        """Passwords that are in no file yet, by the name of the smarthost."""
        made = cls(credentials_directory="")
        made._credentials = {f"smarthost.{name}.password": Secret(octets) for name, octets in passwords.items()}
        return made

    async def read(self, smarthost: Smarthost) -> Secret:
        """The secret for `smarthost`; SecretError when there is none."""
        try:
            if smarthost.password_file:
                octets = await asyncio.to_thread(self._read_file, Path(smarthost.password_file))
            elif smarthost.password_command:
                octets = await _run(smarthost.password_command)
            elif credential := self._credentials.get(credential_name(smarthost)):
                octets = credential.reveal()
            else:
                name = credential_name(smarthost)
                raise SecretError(
                    f"no password: set password_file or password_command, or pass the systemd credential {name}"
                )
            return Secret(_single_line(octets))
        except SecretError as error:
            raise SecretError(f"smarthost {smarthost.name}: {error}") from None

    def check(self, smarthost: Smarthost) -> str:
        """What is wrong with where the secret comes from, or ""; runs no command. For `check` and `status`."""
        if not smarthost.has_credentials or smarthost.password_command:
            return ""
        try:
            if smarthost.password_file:
                _single_line(self._read_file(Path(smarthost.password_file)))
            elif (credential := self._credentials.get(credential_name(smarthost))) is None:
                return f"smarthost {smarthost.name}: no password_file, password_command or systemd credential"
            else:
                _single_line(credential.reveal())
        except SecretError as error:
            return f"smarthost {smarthost.name}: {error}"
        return ""

    def _read_file(self, path: Path) -> bytes:
        try:
            # Without O_NONBLOCK a FIFO in the place of the file would hold us up for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise SecretError(f"password_file {path}: {error.strerror}") from None
        try:
            self._check_owner(path, os.fstat(descriptor))
            return os.read(descriptor, MAX_OCTETS + 1)  # of a regular file: all of it
        except OSError as error:
            raise SecretError(f"password_file {path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _check_owner(self, path: Path, facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise SecretError(f"password_file {path}: not a regular file")
        mode = stat.S_IMODE(facts.st_mode)
        private = facts.st_uid in (self._owner, 0) and not mode & 0o077
        shared = facts.st_uid == 0 and facts.st_gid == self._group and not mode & 0o037
        if not (private or shared):
            raise SecretError(
                f"password_file {path}: mode {mode:04o}, uid {facts.st_uid}, gid {facts.st_gid}; it must belong to "
                f"uid {self._owner} with mode 0400 or 0600, or to root and gid {self._group} with mode 0640"
            )


def credential_name(smarthost: Smarthost) -> str:
    """The name of the systemd credential that holds the smarthost's password."""
    return f"smarthost.{smarthost.name}.password"


def _systemd_credentials(directory: str | None) -> dict[str, Secret]:
    """What lies in $CREDENTIALS_DIRECTORY, read once at start. An unreadable one is as if it were not there."""
    found: dict[str, Secret] = {}
    if not directory:
        return found
    for path in sorted(Path(directory).glob("smarthost.*.password")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            found[path.name] = Secret(file.read(MAX_OCTETS + 1))
    return found


def _single_line(octets: bytes) -> bytes:
    """The secret without the line end that an editor adds; anything odd is a mistake worth naming."""
    if len(octets) > MAX_OCTETS:
        raise SecretError(f"the secret has more than {MAX_OCTETS} octets")
    secret = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise SecretError("the secret is empty")
    if any(octet in secret for octet in b"\0\r\n"):
        raise SecretError("the secret has more than one line, or a NUL")
    return secret


async def _run(words: tuple[str, ...]) -> bytes:
    """The output of a password_command."""
    try:
        return await command.run(words, environment=command.own_environment())
    except CommandError as error:
        raise SecretError(f"password_command {words[0]}: {error}") from None
