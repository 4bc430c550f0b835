"""Argv: sendmail's command line, in the dialects that forty years of callers speak, as one Invocation.

`OPTIONS` is the one table: what is honoured, ignored or refused, and how; sendmail(8) is held to it by a
test. Options come before the addresses, as with Sendmail and Exim: what follows the first address is an
address, so that a caller who forgot "--" cannot be tricked into an option by the second one. Clusters
(`-ti`), attached and separate values, and `--` are understood; argv[0] sets a mode that options may override.

Errors: UsageError alone, whatever the bytes: exit 64, its text is the one line that says what, where and what
to do. Addresses are not looked at here (65 is `address`'s business). No option opens a path that the caller
names, but `-C`, and that only to choose where to queue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Literal, get_args

from pysendmail.envelope import NOTIFY_WORDS
from pysendmail.smtp.reply import printable
from pysendmail.smtp.wire import WireError, from_xtext
from pysendmail.units import UnitError, duration

# CVE-2017-1000369: bound argv. The kernel's own bound is higher than any caller needs.
MAX_ARGUMENTS = 10_000
MAX_ARGV_OCTETS = 1 << 20
MAX_ENVID = 100  # RFC 3461 §4.4
MAX_TAG = 32  # as Sendmail
MAX_HOPS = 1000

Delivery = Literal["background", "interactive", "queue-only"]
ErrorMode = Literal["mail", "print", "quiet", "write", "exit"]
Format = Literal["postfix", "sendmail", "table", "json"]
Filtered = Literal["id", "sender", "recipient", "from", "to", "before", "reason"]
FILTERED: tuple[Filtered, ...] = get_args(Filtered)


class UsageError(ValueError):
    """The command line is wrong: exit 64. The text is one printable line."""


class Mode(StrEnum):
    """What the command is to do. Which of them are there is the program's to say."""

    SUBMIT = "submit"
    SMTP = "smtp"
    LIST = "mailq"
    COUNT = "count"
    FLUSH = "flush"
    HOLD = "hold"
    NOTHING = "nothing"  # -q15m alone: the daemon does that by itself
    DAEMON = "daemon"
    ALIASES = "newaliases"
    VERIFY = "verify"
    TEST = "test"
    CHECK = "check"
    HOST_STATUS = "hoststat"
    PURGE_STATUS = "purgestat"
    VERSION = "version"
    HELP = "help"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilter:
    """Some of the messages that wait (or, negated, the others).

    `-qI`, `-qS`, `-qR`: whose queue id, sender or a recipient contains the text. `pysendmail queue`: `from` and `to`,
    which are an address or @domain; `before`, accepted then or earlier, epoch seconds; `reason`, a part of it. Raises
    ValueError where `before` is no number.
    """

    what: Filtered
    text: str
    negated: bool = False

    def __post_init__(self) -> None:
        if self.what == "before":
            float(self.text)

    def fits(self, entry: dict[str, Any]) -> bool:
        """Whether it holds of a message, an entry of the queue's listing. Case matters in a queue id only."""
        match self.what:
            case "id":
                found = self.text in entry["queue_id"]
            case "sender":
                found = self.text.lower() in f"<{entry['sender']}>".lower()
            case "recipient":
                found = any(self.text.lower() in f"<{one['address']}>".lower() for one in entry["recipients"])
            case "from":
                found = _is(self.text, entry["sender"]) or (self.text == "<>" and entry["sender"] == "MAILER-DAEMON")
            case "to":
                found = any(_is(self.text, one["address"]) for one in entry["recipients"])
            case "before":
                found = entry["arrival_time"] <= float(self.text)
            case "reason":
                found = any(self.text.lower() in (one["delay_reason"] or "").lower() for one in entry["recipients"])
        return found != self.negated


def _is(wanted: str, address: str) -> bool:
    """Whether the address is the one wanted, or in the domain wanted."""
    wanted, address = wanted.lower(), str(address).lower()
    return address == wanted or (wanted.startswith("@") and address.endswith(wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What the caller asked for."""

    name: str = "sendmail"  # basename of argv[0], for messages
    mode: Mode = Mode.SUBMIT
    recipients: tuple[str, ...] = ()  # as typed; each may be a list of addresses
    read_recipients: bool = False  # -t
    dot_ends: bool = True  # a lone dot ends the input: not with -i
    sender: str | None = None  # None: not given; "": the null reverse-path
    full_name: str = ""
    body: Literal["7bit", "8bitmime", ""] = ""
    notify: frozenset[str] = frozenset()
    ret: Literal["full", "hdrs", ""] = ""
    envid: str = ""  # decoded from xtext
    smtputf8: bool = False
    require_tls: bool = False  # -O requiretls=yes (RFC 8689)
    verbose: bool = False
    delivery: Delivery = "background"
    error_mode: ErrorMode = "print"
    config: str | None = None
    hops: int = 0  # that the message is said to have made
    max_hops: int | None = None  # -O MaxHopCount
    lifetime: float | None = None  # -O Timeout.queuereturn, in seconds
    fix_up: bool = True  # not with -G
    no_aliases: bool = False
    tag: str = ""
    format: Format | None = None  # of a listing; None: not given
    filters: tuple[QueueFilter, ...] = ()  # all of them must hold
    wait: bool = False  # -qf: stay until the run is over
    hold_reason: str = ""  # with Mode.HOLD
    warnings: tuple[str, ...] = ()  # for stderr, a line each; the exit code is not theirs


# -- what the options do ------------------------------------------------------------------------------------

_Apply = Callable[[Invocation, str], Invocation]


class Value(Enum):
    """Whether a word belongs to an option."""

    NONE = "none"
    ATTACHED = "attached"  # what is left of the same word, perhaps nothing
    REQUIRED = "required"  # what is left of the same word, else the next one


class Treatment(StrEnum):
    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row: how it is written, what it does, and in which words sendmail(8) and --help say so."""

    name: str  # "-f", "-bp", "--json"
    words: str
    argument: str = ""
    value: Value = Value.NONE
    treatment: Treatment = Treatment.HONOURED
    apply: _Apply


def _with(so_far: Invocation, **changes: Any) -> Invocation:
    """The same one, changed. Nobody else has it before `parse` returns, and a copy costs more than all the rest."""
    for name, value in changes.items():
        object.__setattr__(so_far, name, value)
    return so_far


def _sets(**changes: Any) -> _Apply:
    return lambda so_far, value: _with(so_far, **changes)


def _ignore(so_far: Invocation, value: str) -> Invocation:
    return so_far


def _sender(so_far: Invocation, value: str) -> Invocation:
    if so_far.sender is not None:
        raise UsageError("options -f and -r: more than one sender; give one")
    value = value.strip(" \t")
    return _with(so_far, sender=value[1:-1] if value.startswith("<") and value.endswith(">") else value)


def _full_name(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, full_name=value)


def _body(so_far: Invocation, value: str) -> Invocation:
    match value.lower():
        case "7bit" | "8bitmime" as body:
            return _with(so_far, body=body)
    raise _bad("-B", value, "7BIT or 8BITMIME")


def _notify(so_far: Invocation, value: str) -> Invocation:
    _once("-N", so_far.notify)
    words = frozenset(value.lower().split(","))
    if not words <= NOTIFY_WORDS or ("never" in words and len(words) > 1):
        raise _bad("-N", value, "never, or a list of success, failure, delay")
    return _with(so_far, notify=words)


def _ret(so_far: Invocation, value: str) -> Invocation:
    _once("-R", so_far.ret)
    match value.lower():
        case "full" | "hdrs" as ret:
            return _with(so_far, ret=ret)
    raise _bad("-R", value, "full or hdrs")


def _envid(so_far: Invocation, value: str) -> Invocation:
    _once("-V", so_far.envid)
    if len(value) > MAX_ENVID:
        raise _bad("-V", value, f"xtext (RFC 3461 §4) of at most {MAX_ENVID} characters")
    try:
        return _with(so_far, envid=from_xtext(value))
    except WireError:
        raise _bad("-V", value, "xtext that stands for printable ASCII (RFC 3461 §4)") from None


def _once(option: str, before: object) -> None:
    if before:
        raise UsageError(f"option {option} is given twice; give it once")


def _hops(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, hops=_count("-h", value))


def _max_hops(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, max_hops=_count("-O MaxHopCount", value))


def _count(option: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) > MAX_HOPS:
        raise _bad(option, value, f"a number up to {MAX_HOPS}")
    return int(value)


def _tag(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, tag=re.sub(r"[^A-Za-z0-9._/@-]", "_", value)[:MAX_TAG])


def _ignore_dots(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, dot_ends=not _truth(value))


def _verbose(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, verbose=_truth(value))


def _truth(value: str) -> bool:
    # As Sendmail reads its boolean options: nothing is true.
    return value[:1].lower() not in ("f", "n", "0")


_DELIVERY: dict[str, Delivery] = {
    **dict.fromkeys(("b", "background"), "background"),
    **dict.fromkeys(("i", "f", "interactive"), "interactive"),
    **dict.fromkeys(("q", "d", "queue", "queueonly", "queue-only", "defer"), "queue-only"),
}
_ERROR_MODES: dict[str, ErrorMode] = {"m": "mail", "p": "print", "q": "quiet", "w": "write", "e": "exit"}


def _delivery(so_far: Invocation, value: str) -> Invocation:
    # Exim's "-odqs" and words that nobody knows change nothing, as elsewhere.
    return _with(so_far, delivery=_DELIVERY.get(value.lower(), so_far.delivery))


def _error_mode(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, error_mode=_ERROR_MODES.get(value[:1].lower(), so_far.error_mode))


def _lifetime(so_far: Invocation, value: str) -> Invocation:
    # As Sendmail reads it: a bare number counts days, and "now" is after the first attempt.
    text = {"now": "0"}.get(value.lower(), f"{value}d" if re.fullmatch("[0-9]{1,6}", value) else value)
    try:
        return _with(so_far, lifetime=duration(text))
    except UnitError as error:
        raise UsageError(f"option -O Timeout.queuereturn: {printable(str(error), 120)}") from None


def _smtputf8(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, smtputf8=_yes_or_no("smtputf8", value))


def _require_tls(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, require_tls=_yes_or_no("requiretls", value))


def _yes_or_no(name: str, value: str) -> bool:
    if value.lower() not in ("yes", "no"):
        raise _bad(f"-O {name}", value, "yes or no")
    return value.lower() == "yes"


_LONG: dict[str, _Apply] = {
    "deliverymode": _delivery,
    "errormode": _error_mode,
    "ignoredots": _ignore_dots,
    "maxhopcount": _max_hops,
    "requiretls": _require_tls,
    "smtputf8": _smtputf8,
    "timeout.queuereturn": _lifetime,
    "verbose": _verbose,
}


def _long(so_far: Invocation, value: str) -> Invocation:
    name, _, setting = value.partition("=")
    return _LONG.get(name.strip().lower(), _ignore)(so_far, setting.strip())


def _config(so_far: Invocation, value: str) -> Invocation:
    if not value:
        raise UsageError("option -C: a file's name is missing; write -C FILE")
    return _with(so_far, config=value)


def _format(so_far: Invocation, value: str) -> Invocation:
    match value:
        case "postfix" | "sendmail" | "table" | "json" as known:
            return _with(so_far, format=known)
    raise _bad("--format", value, "postfix, sendmail or table")


def _flush(so_far: Invocation, value: str) -> Invocation:
    # -bD -q15m is how a daemon is started, -Q -qI... how messages are held; a listing is overridden.
    return so_far if so_far.mode in (Mode.DAEMON, Mode.HOLD) else _with(so_far, mode=Mode.FLUSH)


def _flush_and_wait(so_far: Invocation, value: str) -> Invocation:
    if value:
        raise UsageError(f"option -qf{printable(value, 40)} is unknown; write -qf alone")
    return _with(_flush(so_far, value), wait=True)


def _filter(what: Filtered) -> _Apply:
    def apply(so_far: Invocation, value: str) -> Invocation:
        negated = value.startswith("!")
        text = value[2:] if negated else value[1:]
        if not text:
            raise UsageError(f"option -q{value}: what to look for is missing; write -qI1A2B3C")
        wanted = QueueFilter(what=what, text=text, negated=negated)
        so_far = _with(so_far, filters=(*so_far.filters, wanted))
        # "mailq -qI..." lists those; "sendmail -qI..." flushes those.
        return so_far if so_far.mode in (Mode.LIST, Mode.COUNT) else _flush(so_far, value)

    return apply


def _interval(so_far: Invocation, value: str) -> Invocation:
    if not re.fullmatch(r"p?(?:[0-9]+[smhdw]?)*+", value):
        raise UsageError(f"option -q{printable(value, 40)}: not an interval; write -q15m, or -q to flush")
    return _with(so_far, mode=Mode.NOTHING) if so_far.mode is Mode.SUBMIT else so_far


def _hold(so_far: Invocation, value: str) -> Invocation:
    return _with(so_far, mode=Mode.HOLD, hold_reason=printable(value, 200))


def _warns(option: str) -> _Apply:
    warning = f"option {option} is ignored: no file that a caller names is opened"

    def apply(so_far: Invocation, value: str) -> Invocation:
        if warning in so_far.warnings:
            return so_far
        return _with(so_far, warnings=(*so_far.warnings, warning))

    return apply


def _bad(option: str, value: str, wanted: str) -> UsageError:
    return UsageError(f"option {option}: {printable(value, 80)!r} is not understood; write {wanted}")


# -- the table ----------------------------------------------------------------------------------------------


def _honoured(name: str, words: str, apply: _Apply, argument: str = "", value: Value | None = None) -> Option:
    takes = value or (Value.REQUIRED if argument else Value.NONE)
    return Option(name=name, words=words, argument=argument, value=takes, apply=apply)


def _ignored(name: str, words: str, argument: str = "", value: Value = Value.NONE, apply: _Apply = _ignore) -> Option:
    return Option(name=name, words=words, argument=argument, value=value, treatment=Treatment.IGNORED, apply=apply)


def _refused(name: str, words: str, argument: str = "", value: Value = Value.NONE) -> Option:
    def apply(so_far: Invocation, value_given: str) -> Invocation:
        raise UsageError(f"option {name} is refused: {words}")

    return Option(name=name, words=words, argument=argument, value=value, treatment=Treatment.REFUSED, apply=apply)


_ATTACHED = Value.ATTACHED
_UNIT = "start pysendmail.service, or run `pysendmail daemon` (sendmail -bD) in the foreground"

OPTIONS: tuple[Option, ...] = (
    _honoured("-t", "recipients from To, Cc and Bcc, besides those in arguments", _sets(read_recipients=True)),
    _honoured("-i", "a line with a lone dot is data and ends nothing", _sets(dot_ends=False)),
    _honoured("-f", "envelope sender; '' or '<>' for none", _sender, "ADDRESS"),
    _honoured("-r", "the same as -f", _sender, "ADDRESS"),
    _honoured("-F", "full name, for a From field that is missing", _full_name, "NAME"),
    _honoured("-N", "which reports are wanted: never, or some of success,failure,delay", _notify, "WORDS"),
    _honoured("-R", "what a bounce returns: full or hdrs", _ret, "WORD"),
    _honoured("-V", "envelope id, in xtext, for reports", _envid, "ENVID"),
    _honoured("-B", "body type: 7BIT or 8BITMIME", _body, "TYPE"),
    _honoured("-U", "the message needs SMTPUTF8", _sets(smtputf8=True)),
    _honoured("-G", "the message is relayed: add no header fields", _sets(fix_up=False)),
    _honoured("-h", "hops that the message has made already", _hops, "N"),
    _honoured("-L", "a tag for the log", _tag, "TAG"),
    _honoured("-n", "do not look into the aliases", _sets(no_aliases=True)),
    _honoured("-v", "wait for the first attempt and show it on standard error", _sets(verbose=True)),
    _honoured(
        "-d", "say which configuration and which socket are used", _ignore, "LEVEL", _ATTACHED
    ),  # the client does
    _honoured("-C", "configuration file, to choose where to queue", _config, "FILE"),
    _honoured("-e", "the same as -oe", _error_mode, "MODE"),
    _honoured("-bm", "take a message from standard input (the default)", _sets(mode=Mode.SUBMIT)),
    _honoured("-bs", "speak SMTP on standard input and output", _sets(mode=Mode.SMTP)),
    _honoured("-bp", "list the queue (mailq)", _sets(mode=Mode.LIST)),
    _honoured("-bP", "count the messages in the queue", _sets(mode=Mode.COUNT)),
    _honoured("-bi", "check the aliases (newaliases)", _sets(mode=Mode.ALIASES)),
    _honoured("-I", "the same as -bi", _sets(mode=Mode.ALIASES)),
    _honoured("-bv", "show where the addresses would go; send nothing", _sets(mode=Mode.VERIFY)),
    _honoured("-bt", "test addresses: route, sender, TLS, rewriting", _sets(mode=Mode.TEST)),
    _honoured("-bh", "show the health of the smarthosts (hoststat)", _sets(mode=Mode.HOST_STATUS)),
    _honoured("-bH", "end the rest of smarthosts in trouble (purgestat)", _sets(mode=Mode.PURGE_STATUS)),
    _honoured("-bC", "check the configuration", _sets(mode=Mode.CHECK)),
    _honoured("-bV", "show the version", _sets(mode=Mode.VERSION)),
    _honoured("-bq", "the same as -odq", _sets(mode=Mode.SUBMIT, delivery="queue-only")),
    _honoured("-bD", "run the daemon in the foreground", _sets(mode=Mode.DAEMON)),
    _honoured("-q", "make everything in the queue due now (runq)", _flush),
    _honoured("-qf", "the same, and wait until it was tried", _flush_and_wait),
    _honoured(
        "-qI",
        "only messages whose queue id contains TEXT; -q!I for the others",
        _filter("id"),
        "TEXT",
        _ATTACHED,
    ),
    _honoured("-qS", "only messages whose sender contains TEXT", _filter("sender"), "TEXT", _ATTACHED),
    _honoured("-qR", "only messages with a recipient that contains TEXT", _filter("recipient"), "TEXT", _ATTACHED),
    _honoured("-Q", "hold messages, as the -q filters choose them", _hold, "REASON", _ATTACHED),
    _honoured("-oi", "the same as -i", _ignore_dots),
    _honoured(
        "-od",
        "b: deliver in the background; i: the same; q or d: at the next flush, or after [retry] maximum",
        _delivery,
        "MODE",
        _ATTACHED,
    ),
    _honoured(
        "-oe", "q: refuse without words, by the exit status alone; m p w e: say why", _error_mode, "MODE", _ATTACHED
    ),
    _honoured("-ov", "the same as -v", _verbose),
    _honoured(
        "-O",
        "DeliveryMode, ErrorMode, IgnoreDots, MaxHopCount, Timeout.queuereturn, Verbose,"
        " requiretls and smtputf8 (yes or no); others are ignored",
        _long,
        "NAME=VALUE",
    ),
    _honoured("--config", "the same as -C", _config, "FILE"),
    _honoured("--format", "listing: postfix, sendmail or table", _format, "NAME"),
    _honoured("--json", "listing: JSON, one object a line", _sets(format="json")),
    _honoured("--version", "show the version", _sets(mode=Mode.VERSION)),
    _honoured("--help", "show this text", _sets(mode=Mode.HELP)),
    _ignored("-m", "the sender is never left out of an alias"),
    _ignored("-om", "the same as -m"),
    _ignored("-A", "there is one configuration for all", "CF", Value.REQUIRED),
    _ignored("-p", "the protocol is known by other means", "PROTOCOL", Value.REQUIRED),
    _ignored("-X", "traffic is in the log; no file is opened", "FILE", Value.REQUIRED, _warns("-X")),
    _ignored("-D", "no file is opened", "FILE", _ATTACHED, _warns("-D")),
    _ignored("-oA", "the aliases are those of the configuration", "FILE", _ATTACHED, _warns("-oA")),
    _ignored("-o", "all other short options of Sendmail", "OPTION", Value.REQUIRED),
    _ignored("-q15m", "the daemon keeps its own time; with -bD it may stand", "INTERVAL", _ATTACHED, _interval),
    _ignored("-qp5m", "the same", "INTERVAL", _ATTACHED, _interval),
    _ignored("-c", "historical"),
    _ignored("-s", "historical"),
    _ignored("-T", "historical"),
    _ignored("-x", "historical"),
    _ignored("-E", "historical", "TEXT", _ATTACHED),
    _ignored("-J", "historical", "TEXT", _ATTACHED),
    _refused("-bd", f"the service manager runs the daemon; {_UNIT}"),
    _refused("-bl", f"the service manager runs the daemon; {_UNIT}"),
    _refused("-bS", "batched SMTP is not spoken; use -bs"),
    _refused("-ba", "the ARPANET's protocol is not spoken; use -bs"),
    _refused("-bO", "there are no compile-time options; see -bV and `pysendmail check`"),
    _refused("-bz", "nothing needs freezing; leave it out"),
    _refused("-qG", "there are no queue groups; use -q"),
    _refused("-qL", "nothing is ever lost; see `pysendmail history`"),
    _refused("-qQ", "use `pysendmail queue list` and `pysendmail queue release ID`"),
    _refused("-M", "use `pysendmail queue remove|retry|hold|release ID`", "X", _ATTACHED),
    _refused("-S", "use -qS for messages of a sender", "TEXT", _ATTACHED),
    _refused("-a", "credentials belong into a file that the configuration names", "TEXT", _ATTACHED),
)

_BY_NAME = {option.name: option for option in OPTIONS}
# Letters whose second letter is part of the name.
_FAMILIES = {"b": Value.REQUIRED, "o": Value.REQUIRED, "q": Value.ATTACHED}
_MODES_OF_NAMES = {
    "mailq": Mode.LIST,
    "newaliases": Mode.ALIASES,
    "runq": Mode.FLUSH,
    "hoststat": Mode.HOST_STATUS,
    "purgestat": Mode.PURGE_STATUS,
}
_FILTERS = ("I", "S", "R")
_WITH_ADDRESSES = frozenset({Mode.SUBMIT, Mode.VERIFY, Mode.TEST})
_USAGE = {
    "mailq": "mailq [-v] [-C FILE] [--format postfix|sendmail|table] [--json]",
    "newaliases": "newaliases [-C FILE]",
    "runq": "runq",
    "hoststat": "hoststat",
    "purgestat": "purgestat",
    "rmail": "rmail ADDRESS...",
}


def help(name: str = "sendmail") -> str:
    """The text of --help: the usage under this name and the whole table."""
    usage = _USAGE.get(name, "sendmail [OPTION...] [--] ADDRESS...\n       sendmail [OPTION...] -t")
    lines = [f"usage: {usage}", "", "The message is read from standard input. See sendmail(8)."]
    for treatment in Treatment:
        lines += ["", f"{treatment.value.capitalize()}:"]
        lines += [f"  {_spelled(option):<20} {option.words}" for option in OPTIONS if option.treatment is treatment]
    return "\n".join(lines) + "\n"


def _spelled(option: Option) -> str:
    if option.name in ("-q15m", "-qp5m"):
        return option.name
    gap = "" if option.value is Value.ATTACHED else " "
    return f"{option.name}{gap}{option.argument}" if option.argument else option.name


# -- reading ------------------------------------------------------------------------------------------------


def parse(argv: Sequence[bytes]) -> Invocation:
    """What argv, with the program's name first, asks for; raises UsageError."""
    if len(argv) > MAX_ARGUMENTS or sum(map(len, argv)) > MAX_ARGV_OCTETS:
        raise UsageError(
            f"more than {MAX_ARGUMENTS} arguments or {MAX_ARGV_OCTETS} octets of them;"
            " put the recipients into the header and use -t"
        )
    if any(b"\0" in word for word in argv):
        raise UsageError("an argument contains a NUL; leave it out")
    words = [word.decode("utf-8", "surrogateescape") for word in argv]
    so_far = _named(words[0].rpartition("/")[2] if words else "sendmail")
    rest = iter(words[1:])
    operands: list[str] = []
    for word in rest:
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            operands.append(word)
            break
        read = _read_long if word.startswith("--") else _read_cluster
        so_far = read(so_far, word, rest)
    invocation = _with(so_far, recipients=(*operands, *rest))
    _check(invocation)
    return invocation


def _named(name: str) -> Invocation:
    """What the name under which we were called implies."""
    match name:
        case "smtpd":
            raise UsageError(f"smtpd is not there, mail from the network is not taken; {_UNIT}")
        case "rmail":
            return Invocation(name=name, dot_ends=False, error_mode="exit")
    return Invocation(name=printable(name, 40) or "sendmail", mode=_MODES_OF_NAMES.get(name, Mode.SUBMIT))


def _read_long(so_far: Invocation, word: str, rest: Iterator[str]) -> Invocation:
    name, equals, value = word.partition("=")
    option = _BY_NAME.get(name)
    if option is None:
        raise _unknown(so_far, name)
    if option.value is Value.NONE and equals:
        raise UsageError(f"option {name} takes no value; leave {printable(equals + value, 40)!r} out")
    if option.value is Value.REQUIRED and not equals:
        value = _next(option.name, rest)
    return option.apply(so_far, value)


def _read_cluster(so_far: Invocation, word: str, rest: Iterator[str]) -> Invocation:
    """`-ti`, `-oem`, `-fjoe@example.org`: letters, of which the last may have a value."""
    for position, letter in enumerate(word[1:], start=2):
        option = _BY_NAME.get(f"-{letter}")
        takes = _FAMILIES.get(letter) or (option.value if option else None)
        if takes is None:
            raise _unknown(so_far, f"-{letter}")
        value = word[position:]
        if option is not None and takes is Value.NONE:
            so_far = option.apply(so_far, "")
            continue
        if takes is Value.REQUIRED and not value:
            value = _next(f"-{letter}", rest)
        if letter in _FAMILIES:
            option, value = _of_family(so_far, letter, value)
        assert option is not None
        return option.apply(so_far, value)
    return so_far


def _of_family(so_far: Invocation, letter: str, value: str) -> tuple[Option, str]:
    """The option that -b, -o or -q makes with the letter after it, and what is left as its value."""
    first = value[1:2] if letter == "q" and value.startswith("!") else value[:1]
    option = _BY_NAME.get(f"-{letter}{first}")
    match letter:
        case "o":
            # Sendmail has fifty of them; whatever has no row of its own is ignored.
            return (option, value[1:]) if first and option else (_BY_NAME["-o"], value)
        case "b" if option is not None and len(value) == 1:
            return option, ""
        case "q" if value[:1].isdecimal() or value.startswith("p"):
            return _BY_NAME["-q15m"], value
        case "q" if option is not None and (first in _FILTERS or not value.startswith("!")):
            return option, value[1:] if first == "f" else value
    raise _unknown(so_far, f"-{letter}{value}")


def _next(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"option {name} needs a value; see --help")
    return value


def _unknown(so_far: Invocation, option: str) -> UsageError:
    return UsageError(f"option {printable(option, 40)} is unknown; see `{so_far.name} --help`")


def _check(asked: Invocation) -> None:
    """What options mean together."""
    if asked.recipients and asked.mode not in _WITH_ADDRESSES:
        what = printable(asked.recipients[0], 40)
        raise UsageError(f"{asked.mode.value} takes no addresses; leave {what!r} out, or see --help")
    if asked.mode is Mode.SUBMIT and not asked.recipients and not asked.read_recipients:
        raise UsageError("no recipients; give them as arguments, or put them into the header and use -t")
    if asked.read_recipients and asked.mode is not Mode.SUBMIT:
        raise UsageError(f"option -t is for a message on standard input, not for {asked.mode.value}; leave it out")
    if asked.format is not None and asked.mode is not Mode.LIST:
        raise UsageError("options --format and --json are for a listing; use them with mailq or -bp")
    if asked.mode is Mode.HOLD and not asked.filters:
        raise UsageError("option -Q: which messages? choose them with -qI, -qS or -qR")
    if asked.mode is Mode.VERIFY and not asked.recipients:
        raise UsageError("option -bv: which addresses? give them as arguments")
    # The owner of a configuration decides who delivers with its credentials; a caller only where to queue.
    if asked.config is not None and (option := _delivering(asked)):
        raise UsageError(f"option -C may choose where to queue, not deliver; leave {option} out")


def _delivering(asked: Invocation) -> str:
    """The option that would deliver at once, if there is one."""
    if asked.verbose and asked.mode is Mode.SUBMIT:
        return "-v"
    if asked.delivery == "interactive":
        return "-odi"
    return {Mode.FLUSH: "-q", Mode.DAEMON: "-bD"}.get(asked.mode, "")
