"""Origin: which process submitted a message, so that the mail nobody expected can be traced to the job that sent it.

The pid is the kernel's word (SO_PEERCRED), as the uid is. Command and unit are what `sendmail` itself claims, in the
frame of environment variables, which daemons that know nothing of it skip: the name of its parent's program
(/proc/PPID/comm), since its own is always sendmail, and its control group, whose systemd unit is shown. Anybody can
claim anything there. Never arguments or a command line: they may hold secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pysendmail.smtp.reply import printable

# As environment variables that nobody has; thin/client.py has them too.
COMMAND, CGROUP = b"PYSENDMAIL_COMMAND", b"PYSENDMAIL_CGROUP"
MAX_COMMAND = 64  # characters; of a process it is at most 15 octets
MAX_UNIT = 255  # as systemd has it
_UNITS = (".service", ".scope")  # what has processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """None where nobody said it."""

    pid: int | None = None
    command: str | None = None  # a claim, escaped and capped
    unit: str | None = None  # a claim, escaped and capped


NOBODY_SAID = Origin()


def origin(pid: int | None, environment: Mapping[bytes, bytes]) -> Origin:
    """What the kernel says, and what the client does."""
    command = printable(environment.get(COMMAND, b""), MAX_COMMAND)
    return Origin(pid=pid or None, command=command or None, unit=_unit(environment.get(CGROUP, b"")))


def _unit(cgroup: bytes) -> str | None:
    """The innermost unit of a control group's path: below it may be groups of its own making."""
    for part in reversed(printable(cgroup).split("/")):
        if part.endswith(_UNITS) and len(part) <= MAX_UNIT:
            return part
    return None


def words(uid: int, pid: int | None, command: str | None, unit: str | None) -> str:
    """In one line, for people: who, and what he claims."""
    process = f", process {pid}" if pid is not None else ""
    claims = [f"{what} {value}" for what, value in (("command", command), ("unit", unit)) if value]
    claimed = f", which claims to be of {' and '.join(claims)}" if claims else ""
    return f"uid {uid}{process}{claimed}"
