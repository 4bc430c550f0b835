"""cli: the `pysendmail` command: what an administrator types, and how answers look to a person (pysendmail(8)).

It asks the daemon over `control`, or over `submit` where that is not ours to use, and works on the queue itself
where no daemon runs and the caller may. Answers are JSON Lines; `--json` passes them on. Tables are drawn on a
terminal only; rich is imported for nothing else, and the daemon's parts only where there is no daemon to ask.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pysendmail import __version__, terminal
from pysendmail.exits import EX_CANTCREAT, EX_CONFIG, EX_IOERR, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.thin import client
from pysendmail.units import parse_time, time_or_null, words_for_duration

if TYPE_CHECKING:
    from pysendmail.config_file import Instance

Entry = dict[str, Any]
OUTCOMES = ("sent", "bounced", "expired", "discarded", "removed", "waiting")
DAY_S = 86400.0
CHART_SLOTS = 24
PROGRAMS = ("postfix", "msmtp", "nullmailer", "ssmtp", "dma")  # whose configuration `import` reads


class Failure(Exception):
    """An answer that is an error: exit code and words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every failure; argparse puts its usage before it."""
        self.exit(EX_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="pysendmail", description="The mail drop for machines that only send.")
    top.add_argument("-C", "--config", metavar="FILE", help="the instance's configuration")
    top.add_argument("--version", action="version", version=f"pysendmail {__version__}")
    verbs = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def verb(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.add_argument("-C", "--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub

    daemon = verb("daemon", "run the queue in the foreground", _daemon)
    daemon.add_argument("--once", action="store_true", help="drain what is due and exit")

    _queue_options(verb("queue", "work on queued messages", _queue))

    flush = verb("flush", "make everything due now", _flush)
    _choosing(flush)
    flush.add_argument("--wait", action="store_true", help="until all of it was tried")

    status = verb("status", "health: exit 0, 1 or 2", _status)
    status.add_argument("--json", action="store_true", help="one JSON object")

    _history_options(verb("history", "what became of past messages", _history))
    verb("top", "a live view of queue, rates and smarthosts", _top)

    backup = verb("backup", "copy the queue to a new file, while it is in use", _backup)
    backup.add_argument("file", metavar="FILE")

    restore = verb("restore", "put a copy in the queue's place; not while a daemon runs", _restore)
    restore.add_argument("file", metavar="FILE")
    restore.add_argument("--hold", action="store_true", help="hold all that waits in it first")
    restore.add_argument("--yes", action="store_true", help="without a question")

    verb("check", "look for what is wrong: configuration, permissions, database, names", _check)
    _import_options(verb("import", "another mail program's configuration as one of ours", _import))
    _setup_options(verb("setup", "from a mail address and a password to a message in the mailbox", _setup))
    _probe_options(verb("probe", "show what a smarthost offers; sends no mail", _probe))

    install = verb("install-client", "write the fast sendmail stub and its names", _install_client)
    install.add_argument("directory", metavar="DIR")
    install.add_argument("--force", action="store_true", help="replace files that are not ours")

    verb("demo", "a message from sendmail to a local smarthost, and one that bounces", _demo)
    return top


def _queue_options(queue: argparse.ArgumentParser) -> None:
    queue.add_argument(
        "verb",
        choices=("list", "show", "explain", "hold", "release", "remove", "retry", "expire"),
        metavar="VERB",
        help="list, show, explain, hold, release, remove, retry or expire",
    )
    queue.add_argument("ids", nargs="*", metavar="ID", help="queue ids")
    queue.add_argument("--all", action="store_true", help="every message that waits")
    _choosing(queue)
    queue.add_argument("--yes", action="store_true", help="do it to many messages without a question")
    queue.add_argument("--json", action="store_true", help="JSON Lines")


def _history_options(history: argparse.ArgumentParser) -> None:
    history.add_argument("ids", nargs="*", metavar="ID", help="queue ids")
    history.add_argument("--to", metavar="ADDR", help="messages to this address, or to @domain")
    history.add_argument("--from", metavar="ADDR", dest="sender", help="from this address, @domain, or <>")
    history.add_argument("--since", metavar="T", help="a duration (2h, 3d) or an RFC 3339 time")
    history.add_argument("--until", metavar="T", help="the same, for the end")
    history.add_argument("--outcome", choices=OUTCOMES, metavar="WORD", help=f"one of {', '.join(OUTCOMES)}")
    history.add_argument("--reason", metavar="TEXT", help="with this text in the last answer")
    history.add_argument("--chart", action="store_true", help="the last day's deliveries, deferrals and delays")
    history.add_argument("--bounces", action="store_true", help="the bounce records")
    history.add_argument("--json", action="store_true", help="JSON Lines")


def _import_options(importer: argparse.ArgumentParser) -> None:
    importer.add_argument("file", nargs="?", default="", metavar="FILE", help="its file (default: the one there is)")
    importer.add_argument("--from", dest="program", default="", choices=PROGRAMS, metavar="PROGRAM", help="whose it is")
    importer.add_argument("--write", action="store_true", help="write configuration and passwords")
    importer.add_argument("--replace", action="store_true", help="also where there is a configuration; it is kept")


def _setup_options(setup: argparse.ArgumentParser) -> None:
    setup.add_argument("--address", metavar="ADDR", help="your mail address")
    setup.add_argument("--host", metavar="HOST", help="the server that takes your mail")
    setup.add_argument("--port", type=int, metavar="PORT", help="its port (default: 587, or 465 with --tls-implicit)")
    setup.add_argument("--tls", choices=("may", "encrypt", "verify"), metavar="LEVEL", help="may, encrypt or verify")
    setup.add_argument("--tls-implicit", action="store_true", help="TLS from the first byte (default: on port 465)")
    setup.add_argument("--tls-ca-file", dest="ca_file", metavar="FILE", help="whose certificates to trust")
    setup.add_argument("--username", metavar="USER", help="for the login (default: the address)")
    setup.add_argument("--password-file", metavar="FILE", help="the password's file; - is standard input")
    setup.add_argument("--no-login", dest="login", action="store_false", help="the server wants no password")
    setup.add_argument("--keep-senders", action="store_true", help="do not send all mail as that one address")
    setup.add_argument("--to", metavar="ADDR", help="who gets the test, and local names' mail (default: the address)")
    setup.add_argument("--no-test", dest="test", action="store_false", help="send no message")
    setup.add_argument("--yes", action="store_true", help="ask nothing; a well-known provider's server is agreed to")
    setup.add_argument("--replace", action="store_true", help="change a configuration that is there; it is kept")


def _probe_options(probe: argparse.ArgumentParser) -> None:
    probe.add_argument("names", nargs="*", metavar="NAME", help="smarthosts (default: all)")
    probe.add_argument("--from", dest="sender", metavar="ADDR", help="ask whether mail from this sender is taken")
    probe.add_argument("--to", metavar="ADDR", help="with --from: the recipient to ask for (default: the same)")
    probe.add_argument("--forget", metavar="NAME", help="forget that TLS was seen there")
    probe.add_argument("--json", action="store_true", help="JSON Lines")


def _choosing(command: argparse.ArgumentParser) -> None:
    """The options that choose among the messages that wait; all that are given have to fit."""
    command.add_argument("--to", metavar="ADDR", help="to this address, or to @domain")
    command.add_argument("--from", metavar="ADDR", dest="sender", help="from this address, @domain, or <>")
    command.add_argument("--older", metavar="T", help="accepted so long ago (2h, 3d), or before an RFC 3339 time")
    command.add_argument("--reason", metavar="TEXT", help="that wait for a reason with this text in it")


def run() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):  # a locale without a letter is no reason to say nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = main(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        unheard = _unheard(error)
        code = code or unheard
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    try:
        options = parse(arguments)
    except SystemExit as error:
        return EX_USAGE if error.code else EX_OK
    try:
        return int(options.run(options))
    except Failure as error:
        print(error, file=sys.stderr)
        return error.code
    except client.Failure as error:
        print(f"pysendmail: {error.words}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _unheard(error)
    except Exception as error:
        from pysendmail.config_file import ConfigError  # costs more than asking a daemon does

        if not isinstance(error, ConfigError):
            raise
        print(_lines(error), file=sys.stderr)
        return EX_CONFIG


def _lines(error: Exception) -> str:
    """What is wrong, each line with our name."""
    return "\n".join(f"pysendmail: {line}" for line in str(error).splitlines())


def _unheard(error: OSError) -> int:
    """The exit code where standard output takes no more, and no more is said there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return EX_OK  # whoever read us has read enough
    print(f"pysendmail: {error.filename or 'the answer could not be written'}: {error.strerror}", file=sys.stderr)
    return EX_IOERR


@contextmanager
def _beside_what_counts() -> Iterator[None]:
    """For words that are not what a command is for: its work, or its exit code, is. Nobody may hear them."""
    try:
        yield
    except OSError as error:
        _unheard(error)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """As argparse does, and queue ids and names may stand behind options, too (bpo-14191)."""
    options, behind = parser().parse_known_args(arguments)
    several = next((getattr(options, name) for name in ("ids", "names") if hasattr(options, name)), None)
    if behind and (several is None or any(word.startswith("-") for word in behind)):
        parser().error(f"unrecognized arguments: {' '.join(behind)}")
    if several is not None:
        several += behind
    return options


def _instance(options: argparse.Namespace, *, to_write: bool = False) -> Instance:
    from pysendmail import config_file

    return config_file.locate(options.config, *client.trusted_environ(), to_write=to_write)


# -- asking --


def ask(options: argparse.Namespace, request: Entry) -> Iterator[Entry]:
    """The answer to a request, from the daemon or from the queue itself, when it is complete. Raises Failure."""
    entries: list[Entry] = []
    try:
        follow(options, request, entries.append)
    except Failure:
        yield from entries
        raise
    yield from entries


def follow(options: argparse.Namespace, request: Entry, show: Callable[[Entry], None]) -> bool:
    """The same, each entry as it comes. Returns whether there was a daemon to ask."""
    named = os.fsencode(options.config) if options.config else None
    try:
        socket_path = client.find_instance(named, *client.trusted_environ()).socket
    except client.Failure as error:
        raise Failure(error.code, f"pysendmail: {error.words}") from None
    argv = (b"pysendmail", json.dumps(request).encode())
    control = socket_path.rpartition(b"/")[0] + b"/control"
    for path in (control, socket_path):
        try:
            sock = client.connect(path)
        except OSError:
            continue
        answer = _Answer(show)
        try:
            code = client.converse(sock, argv, {}, answer.take)
        except client.Lost as lost:
            raise Failure(EX_TEMPFAIL, f"pysendmail: the daemon at {os.fsdecode(path)}: {lost}") from None
        if code:
            raise Failure(code, answer.error.decode("utf-8", "replace").rstrip("\n"))
        return True
    for entry in _ask_queue(options, request, os.fsdecode(socket_path)):
        show(entry)
    return False


class _Answer:
    """What the daemon says, cut into entries."""

    def __init__(self, show: Callable[[Entry], None]) -> None:
        self.error = bytearray()
        self._show = show
        self._begun = b""

    def take(self, kind: bytes, data: bytes) -> None:
        if kind == client.STDERR:
            self.error += data
            return
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._show(json.loads(line))


def _ask_queue(options: argparse.Namespace, request: Entry, socket_path: str) -> Iterator[Entry]:
    """Without a daemon."""
    import asyncio
    import sqlite3

    from pysendmail import config_file, direct, modes
    from pysendmail.control import ControlError
    from pysendmail.schema import SchemaError
    from pysendmail.spool import QueueError

    try:
        loaded = config_file.load_or_last_good(_instance(options))
    except config_file.ConfigError as error:
        raise Failure(EX_CONFIG, _lines(error)) from None

    async def collect() -> list[Entry]:
        desk, right = direct.control(loaded, socket_path)
        return [entry async for entry in desk.answer(right, request) if entry]

    try:
        yield from asyncio.run(collect())
    except ControlError as error:
        raise Failure(error.code, f"pysendmail: {error}") from None
    except sqlite3.Error as error:
        where = f"{loaded.config.queue.directory}/queue.db"
        undone = f": {modes.UNDONE}" if request["verb"] in _CHANGING else ""
        raise Failure(EX_TEMPFAIL, f"pysendmail: {where}: {error}{undone}; pysendmail check says what to do") from None
    except (QueueError, SchemaError) as error:
        raise Failure(EX_TEMPFAIL, f"pysendmail: {error}") from None
    except OSError as error:
        raise Failure(EX_TEMPFAIL, f"pysendmail: {error}; pysendmail check says what to do") from None


# -- commands --


def _daemon(options: argparse.Namespace) -> int:
    from pysendmail import daemon

    return daemon.serve(_instance(options), once=options.once)


def _flush(options: argparse.Namespace) -> int:
    request: Entry = {"verb": "flush", "filters": _filters(options)}
    if options.wait:
        return _flush_and_wait(options, request)
    if not follow(options, request, lambda entry: _print_flushed(entry["flushed"])):
        print("No daemon is running: nothing leaves before one does; --wait delivers it here.", file=sys.stderr)
    return EX_OK


def _print_flushed(flushed: str | int) -> None:
    words = {"all": "Everything is due now.", "own": "All your own messages are due now."}
    print(words[flushed] if isinstance(flushed, str) else f"{_messages(flushed)} due now.")


def _flush_and_wait(options: argparse.Namespace, request: Entry) -> int:
    """What is due now is tried by the daemon; where none runs, by this process."""
    outcomes: Counter[str] = Counter()
    expected = 0
    with terminal.Bar("Trying", shown=terminal.somebody_looks()) as bar:

        def show(entry: Entry) -> None:
            nonlocal expected
            if "flushed" in entry:
                expected = entry["recipients"]
                bar.expect(expected)
            elif entry["event"] == "outcome":
                outcomes[entry["status"]] += 1
                bar.step()

        try:
            follow(options, {**request, "wait": True}, show)
        except Failure as error:
            if error.code != EX_UNAVAILABLE:
                raise
            here = True  # no daemon; who may not work on the queue hears that from `ask`
        else:
            here = False
    if here:
        for entry in ask(options, request):
            _print_flushed(entry["flushed"])
        from pysendmail import daemon

        return daemon.serve(_instance(options), once=True)
    tried = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    print(f"Recipients: {expected}" + (f"; {tried}" if tried else ""))
    if sum(outcomes.values()) < expected:
        print("The others wait for a smarthost: pysendmail status says why")
    return EX_OK


NONE_CHOSEN = "No message that waits is chosen."
_CHANGING = frozenset({"hold", "release", "remove", "retry", "expire"})


def _queue(options: argparse.Namespace) -> int:
    filters = _filters(options)
    every = options.all or bool(filters)
    if options.ids and every:
        raise Failure(EX_USAGE, f"pysendmail: queue {options.verb}: queue ids, or options that choose, not both")
    if options.verb != "list" and not options.ids and not every:
        raise Failure(
            EX_USAGE,
            f"pysendmail: queue {options.verb}: name a queue id, --all, or choose by --to, --from, --older, --reason; "
            "mailq lists what waits",
        )
    request: Entry = {"verb": options.verb, "ids": options.ids, "all": every, "filters": filters}
    if options.verb in _CHANGING:
        return _change(options, request)
    answers = ask(options, request)
    if options.json:
        return _print_json(answers)
    answers = _or_say(answers, NONE_CHOSEN if filters else "The queue is empty.")
    match options.verb:
        case "list":
            if entries := list(answers):
                terminal.show_queue(entries)
        case "explain":
            for entry in answers:
                terminal.say(f"{entry['queue_id']} from <{entry['sender']}>, accepted {entry['accepted_at']}")
                terminal.say(*(f"  {words}" for words in entry["words"]))
        case _:
            from pysendmail import explain

            for entry in answers:
                _print_history(entry)
                terminal.say(f"  {explain.submitted(entry)}")
                terminal.say(*(f"    {line.expandtabs()}" for line in entry["header"].split("\r\n") if line))
    return EX_OK


def _or_say(answers: Iterator[Entry], words: str) -> Iterator[Entry]:
    """The answers; where there are none, a person is told so."""
    none = True
    for entry in answers:
        none = False
        yield entry
    if none:
        print(words)


def _change(options: argparse.Namespace, request: Entry) -> int:
    """Hold, release, remove, retry, expire: many messages only when that is what is meant."""
    many, person = request["all"], terminal.somebody_looks()
    total, done = None, 0
    if many and not person and not options.yes:
        raise Failure(
            EX_USAGE,
            f"pysendmail: queue {options.verb}: for all that are chosen it takes --yes where no terminal can ask: "
            "nothing was done",
        )
    if many and person:
        (counted,) = ask(options, {**request, "verb": "count"})
        total = counted["messages"]
        if not total:
            print(NONE_CHOSEN)
            return EX_OK
        if not options.yes and not terminal.confirmed(f"{options.verb.capitalize()} {_messages(total)}?"):
            print("Nothing was done.")
            return EX_OK
    quiet = many and person and not options.json  # thousands of lines tell nobody anything

    def show(entry: Entry) -> None:
        nonlocal done
        done += 1
        bar.step()
        with _beside_what_counts():
            if options.json:
                print(json.dumps(entry))
            elif not quiet:
                terminal.say(f"{entry['queue_id']}: {entry['done']}")

    with terminal.Bar(options.verb.capitalize(), total, shown=quiet) as bar:
        follow(options, request, show)
    if quiet:
        print(f"{options.verb.capitalize()}: {_messages(done)}")
    return EX_OK


def _filters(options: argparse.Namespace) -> list[Entry]:
    """The options that choose, as `control` takes them."""
    chosen = {"to": options.to, "from": options.sender, "reason": options.reason}
    if options.older is not None:
        chosen["before"] = str(_instant("--older", options.older))
    return [{"what": what, "text": text} for what, text in chosen.items() if text is not None]


def _instant(option: str, text: str) -> float:
    try:
        return parse_time(text, time.time())
    except ValueError as error:
        raise Failure(EX_USAGE, f"pysendmail: {option} {text}: {error}") from None


def _messages(number: int) -> str:
    return f"{number} message{'s' if number != 1 else ''}"


def _status(options: argparse.Namespace) -> int:
    from pysendmail.status import HEALTH, unknown

    try:
        report = next(iter(ask(options, {"verb": "status"})))
    except Failure as error:
        if error.code not in (EX_UNAVAILABLE, EX_TEMPFAIL, EX_CONFIG):
            raise
        error.code = HEALTH.index("critical")  # no daemon, no queue, or no configuration, whoever asks
        if options.json:
            print(json.dumps(unknown(*(line.removeprefix("pysendmail: ") for line in str(error).splitlines()))))
        raise
    with _beside_what_counts():
        if options.json:
            print(json.dumps(report))
        else:
            _print_status(_instance(options), report)
    return HEALTH.index(report["health"])


def _history(options: argparse.Namespace) -> int:
    request: Entry = {
        "verb": "history",
        "ids": options.ids,
        "to": options.to,
        "from": options.sender,
        "outcome": options.outcome,
        "reason": options.reason,
        "bounces": options.bounces,
    }
    if options.since:
        request["since"] = _instant("--since", options.since)
    if options.until:
        request["until"] = _instant("--until", options.until)
    if options.chart:
        return _chart(options, request)
    answers = ask(options, request)
    if options.json:
        return _print_json(answers)
    for entry in answers:
        if options.bounces:
            told = (
                f"told {entry['reported_to']} ({entry['report_queue_id']})"
                if entry["report_queue_id"]
                else entry["silence"]
            )
            terminal.say(
                f"{entry['at']} {entry['queue_id']} {entry['recipient']}: {entry['outcome']}: {entry['reply']}; {told}"
            )
        else:
            _print_history(entry)
    return EX_OK


def _chart(options: argparse.Namespace, asked: Entry) -> int:
    if any(asked[key] for key in asked.keys() - {"verb", "since"}):
        raise Failure(EX_USAGE, "pysendmail: history --chart: it shows all mail since a time; leave the others out")
    since = asked.get("since", time.time() - DAY_S)
    if since >= time.time():
        raise Failure(EX_USAGE, f"pysendmail: history --chart: --since {options.since}: that is still to come")
    answers = list(ask(options, {"verb": "traffic", "since": since, "slots": CHART_SLOTS}))
    if options.json:
        return _print_json(iter(answers))
    from pysendmail import chart

    look = terminal.look()
    for line in chart.draw(answers, width=look.columns, unicode=look.unicode, colour=look.colour):
        print(line)
    return EX_OK


def _top(options: argparse.Namespace) -> int:
    if not terminal.somebody_looks() or os.environ.get("TERM", "dumb") == "dumb":
        raise Failure(EX_USAGE, "pysendmail: top: it needs a terminal; pysendmail status is for all else")
    from pysendmail import top

    name = str(_instance(options).path)

    def view() -> top.View:
        now = time.time()
        try:
            (status,) = ask(options, {"verb": "status"})
            recent = {"verb": "traffic", "since": now - top.WINDOW_S, "slots": top.SLOTS}
            return top.View(
                now=now,
                name=name,
                status=status,
                traffic=list(ask(options, recent)),
                waiting=list(ask(options, {"verb": "list", "limit": terminal.look().rows})),
            )
        except Failure as error:
            return top.View(now=now, name=name, problem=str(error).removeprefix("pysendmail: "))

    return top.run(view)


def _backup(options: argparse.Namespace) -> int:
    from pysendmail import backup, config_file

    loaded = config_file.load_or_last_good(_instance(options))
    file = Path(options.file)
    try:
        with terminal.Bar("Copying", shown=terminal.somebody_looks()) as bar:
            waiting = backup.copy(loaded.config, file, bar.reach)
    except backup.BackupError as error:
        raise Failure(error.code, f"pysendmail: {error}") from None
    terminal.say(f"{file}: {file.stat().st_size} octets; {_messages(waiting)} waiting in it")
    return EX_OK


def _restore(options: argparse.Namespace) -> int:
    from pysendmail import backup, config_file
    from pysendmail.spool import QueueError

    if not options.yes and not terminal.somebody_looks():
        raise Failure(EX_USAGE, "pysendmail: restore: it takes --yes where no terminal can ask: nothing was done")
    loaded = config_file.load_or_last_good(_instance(options))
    try:
        with backup.Restoration(loaded.config, Path(options.file)) as restoration:
            newest = time_or_null(restoration.newest_at) or "nothing"
            terminal.say(
                f"{options.file}: {_messages(restoration.waiting)} waiting; the last it knows of: {newest}",
                "What has been delivered since then is not in it and would be sent again; --hold holds it all first.",
            )
            if restoration.waiting_now:
                terminal.say(
                    f"In the queue as it is now, {_messages(restoration.waiting_now)} waiting: "
                    "set aside, they are not delivered any more."
                )
            hold = options.hold or (
                not options.yes and bool(restoration.waiting) and terminal.confirmed("Hold all of it first?")
            )
            if not options.yes and not terminal.confirmed("Put it in the queue's place?"):
                print("Nothing was done.")
                return EX_OK
            if hold:
                restoration.hold_all()
            aside = restoration.finish(time.time())
    except backup.BackupError as error:
        raise Failure(error.code, f"pysendmail: {error}") from None
    except (QueueError, OSError) as error:
        raise Failure(EX_TEMPFAIL, f"pysendmail: {error}: nothing was done") from None
    print("Restored" + (", and held: pysendmail queue release lets it go" if hold else ""))
    if aside is not None:
        terminal.say(f"The queue that was there is now {aside}")
    return EX_OK


def _check(options: argparse.Namespace) -> int:
    from pysendmail import check

    findings = check.run(_instance(options))
    print(check.render(findings), end="")
    return check.exit_code(findings)


def _import(options: argparse.Namespace) -> int:
    from pysendmail import importing

    instance = _instance(options, to_write=True)
    try:
        imported = importing.run(instance, options.file, options.program)
        print(imported.text, end="")
        for line in importing.report(imported):
            print(f"pysendmail: {line}", file=sys.stderr)
        if imported.problems:
            return EX_CONFIG
        if options.write:
            for line in importing.write(instance, imported, replace=options.replace):
                print(f"pysendmail: {line}", file=sys.stderr)
    except importing.ImportFailed as error:
        raise Failure(error.code, f"pysendmail: {error}") from None
    return EX_OK


def _setup(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from pysendmail import setup

    wanted = setup.Wanted(**{field.name: getattr(options, field.name) for field in fields(setup.Wanted)})
    try:
        return setup.run(_instance(options, to_write=True), wanted, partial(ask, options))
    except setup.SetupFailed as error:
        raise Failure(error.code, f"pysendmail: setup: {error}") from None


def _probe(options: argparse.Namespace) -> int:
    names = [options.forget] if options.forget else options.names
    if options.to and options.sender is None:
        raise Failure(EX_USAGE, "pysendmail: probe: --to goes with --from")
    request = {"verb": "probe", "ids": names, "forget": bool(options.forget)}
    answers = ask(options, request | {"sender": options.sender, "recipient": options.to})
    code = EX_OK
    for entry in answers:
        if options.json:
            print(json.dumps(entry))
        elif entry.get("forgotten"):
            print(f"{entry['name']}: it is forgotten that TLS was seen there")
        else:
            _print_probe(entry)
        code = code if entry.get("ready", True) else EX_UNAVAILABLE
    return code


def _install_client(options: argparse.Namespace) -> int:
    from pysendmail import install

    try:
        installed = install.install_client(Path(options.directory), force=options.force)
    except install.InstallError as error:
        raise Failure(EX_CANTCREAT, f"pysendmail: {error}") from None
    for path in installed.paths:
        print(path)
    for warning in installed.warnings:
        print(f"pysendmail: {warning}", file=sys.stderr)
    return EX_OK


def _demo(options: argparse.Namespace) -> int:
    try:
        import aiosmtpd  # noqa: F401
        import trustme  # noqa: F401
    except ImportError:
        raise Failure(
            EX_UNAVAILABLE,
            f"pysendmail: demo needs aiosmtpd and trustme: {sys.executable} -m pip install 'pysendmail-mta[demo]'",
        ) from None
    from pysendmail import demo

    return demo.run()


# -- showing --


def _print_json(answers: Iterator[Entry]) -> int:
    for entry in answers:
        print(json.dumps(entry))
    return EX_OK


def _print_history(entry: Entry) -> None:
    who = f"from <{entry['sender']}> uid {entry['uid']}"
    if entry["kind"] != "mail":
        who += f", {entry['kind']} about {entry['about']}"
    terminal.say(f"{entry['queue_id']} {entry['accepted_at']} {who}, {entry['size']} octets")
    for recipient in entry["recipients"]:
        last = recipient["attempts"][-1] if recipient["attempts"] else None
        outcome = recipient["outcome"] or "waiting"
        when = f" {recipient['finished_at']}" if recipient["finished_at"] else ""
        count = len(recipient["attempts"])
        tries = f"{count} attempt{'s' if count != 1 else ''}"
        how = f" via {last['smarthost']} ({tries}): {last['reply']}" if last else ""
        terminal.say(f"  {recipient['address']}: {outcome}{when}{how}")


def _print_probe(entry: Entry) -> None:
    def show(title: str, *values: str | None) -> None:
        for value in values:
            terminal.say(f"  {title:<12} {value}")
            title = ""

    tls, auth, trouble, sender = entry["tls"], entry["auth"], entry["trouble"], entry["sender"]
    verdict = "mail can go there" if entry["ready"] else "mail cannot go there"
    terminal.say(f"{entry['smarthost']} ({entry['host']} port {entry['port']}): {verdict}")
    if trouble is not None:
        show("failed at", f"{trouble['stage']}, status {trouble['status']}: {trouble['reason']}")
    show("address", entry["address"] or "none reached")
    if entry["greeting"]:
        show("greeting", entry["greeting"])
    if entry["extensions"]:
        show("offers", *entry["extensions"])
    version = f"{tls['version']}, {tls['cipher']}" if tls["version"] else tls["result"]
    show("TLS", version, f"level {tls['level']}; certificate: {tls['check']}")
    for number, certificate in enumerate(tls["chain"]):
        show("certificate" if not number else "issued by", certificate["subject"] or "(no subject)")
        show("", f"for {', '.join(certificate['names'])}") if certificate["names"] else None
        days = certificate["days_left"]
        left = "" if days is None else f", {days} days left" if days >= 0 else f", expired {-days} days ago"
        show("", f"valid {certificate['not_before']} to {certificate['not_after']}{left}")
        show("", f"SHA-256 {certificate['sha256']}")
    if tls["chain"]:
        show("to pin it", f'tls_fingerprints = ["{tls["chain"][0]["sha256"]}"]')
    if auth["offered"]:
        show("logins", " ".join(auth["offered"]))
    if auth["username"]:
        show("AUTH", f"{auth['mechanism'] or 'none'} as {auth['username']}: {auth['result']}")
    if sender is not None:
        show("MAIL", f"FROM:<{sender['address']}>: {sender['mail']}")
        show("RCPT", f"TO:<{sender['recipient']}>: {sender['rcpt']}") if sender["rcpt"] else None
    for finding in entry["findings"]:
        terminal.say(f"  {finding['level']}: {finding['text']}; {finding['mend']}")


def _print_status(instance: Instance, report: Entry) -> None:
    print(f"{instance.path}: {report['health']}")
    oldest = f" (oldest {words_for_duration(report['oldest_age_s'])})" if report["oldest_age_s"] is not None else ""
    print(
        f"{report['queued']} queued{oldest}, {report['deferred']} deferred, {report['held']} held, "
        f"{report['in_flight']} on the way, {report['failed']} failed and kept"
    )
    if report["last_sent_at"]:
        print(f"last sent {report['last_sent_at']}")
    if report["scope"] == "own":
        print("These are your own messages: root, and the queue's owner, see all.")
    for smarthost in report["smarthosts"]:
        since = f" since {smarthost['since']}" if smarthost["since"] else ""
        reason = f": {smarthost['reason']}" if smarthost["reason"] else ""
        where = f"{smarthost['host']} port {smarthost['port']}"
        terminal.say(f"smarthost {smarthost['name']} ({where}): {smarthost['state']}{since}{reason}")
        facts = []
        if smarthost["limit"] is not None:
            facts.append(f"connections {smarthost['connections']} of {smarthost['limit']}")
        if smarthost["next_try_at"]:
            facts.append(f"tried again {smarthost['next_try_at']}")
        if smarthost["last_sent_at"]:
            facts.append(f"last sent {smarthost['last_sent_at']}")
        if smarthost["certificate_until"]:
            facts.append(f"certificate until {smarthost['certificate_until']}")
        if facts:
            terminal.say(f"  {', '.join(facts)}")
    terminal.say(*(f"! {warning}" for warning in report["warnings"]))
