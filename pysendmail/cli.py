"""cli: the `pysendmail` command: what an administrator types, and how answers look to a person (pysendmail(8)).

It asks the daemon over `control`, or over `submit` where that is not ours to use, and works on the queue itself
where no daemon runs and the caller may. Answers are JSON Lines; `--json` passes them on. Tables are drawn on a
terminal only; rich is imported for nothing else, and the daemon's parts only where there is no daemon to ask.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pysendmail import __version__, terminal
from pysendmail.exits import EX_CANTCREAT, EX_CONFIG, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.thin import client
from pysendmail.units import parse_time

if TYPE_CHECKING:
    from pysendmail.config_file import Instance

Entry = dict[str, Any]
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

    queue = verb("queue", "work on queued messages", _queue)
    queue.add_argument(
        "verb",
        choices=("list", "show", "explain", "hold", "release", "remove", "retry", "expire"),
        metavar="VERB",
        help="list, show, explain, hold, release, remove, retry or expire",
    )
    queue.add_argument("ids", nargs="*", metavar="ID", help="queue ids")
    queue.add_argument("--all", action="store_true", help="every message that waits")
    queue.add_argument("--json", action="store_true", help="JSON Lines")

    verb("flush", "make everything due now", _flush)

    status = verb("status", "health: exit 0, 1 or 2", _status)
    status.add_argument("--json", action="store_true", help="one JSON object")

    history = verb("history", "what became of past messages", _history)
    history.add_argument("ids", nargs="*", metavar="ID", help="queue ids")
    history.add_argument("--to", metavar="ADDR", help="messages to this address")
    history.add_argument("--since", metavar="T", help="a duration (2h, 3d) or an RFC 3339 time")
    history.add_argument("--bounces", action="store_true", help="the bounce records")
    history.add_argument("--json", action="store_true", help="JSON Lines")

    verb("check", "look for what is wrong: configuration, permissions, database, names", _check)

    importer = verb("import", "another mail program's configuration as one of ours", _import)
    importer.add_argument("file", nargs="?", default="", metavar="FILE", help="its file (default: the one there is)")
    importer.add_argument("--from", dest="program", default="", choices=PROGRAMS, metavar="PROGRAM", help="whose it is")
    importer.add_argument("--write", action="store_true", help="write configuration and passwords")
    importer.add_argument("--replace", action="store_true", help="also where there is a configuration; it is kept")

    setup = verb("setup", "from a mail address and a password to a message in the mailbox", _setup)
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

    probe = verb("probe", "show what a smarthost offers; sends no mail", _probe)
    probe.add_argument("names", nargs="*", metavar="NAME", help="smarthosts (default: all)")
    probe.add_argument("--from", dest="sender", metavar="ADDR", help="ask whether mail from this sender is taken")
    probe.add_argument("--to", metavar="ADDR", help="with --from: the recipient to ask for (default: the same)")
    probe.add_argument("--forget", metavar="NAME", help="forget that TLS was seen there")
    probe.add_argument("--json", action="store_true", help="JSON Lines")

    install = verb("install-client", "write the fast sendmail stub and its names", _install_client)
    install.add_argument("directory", metavar="DIR")
    install.add_argument("--force", action="store_true", help="replace files that are not ours")

    verb("demo", "a message from sendmail to a local smarthost, and one that bounces", _demo)
    return top


def run() -> None:
    """The entry point."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    try:
        options = parser().parse_args(arguments)
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
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has read enough
        return EX_OK
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from pysendmail.config_file import ConfigError  # costs more than asking a daemon does

        if not isinstance(error, ConfigError):
            raise
        for line in str(error).splitlines():
            print(f"pysendmail: {line}", file=sys.stderr)
        return EX_CONFIG


def _instance(options: argparse.Namespace, *, to_write: bool = False) -> Instance:
    from pysendmail import direct

    return direct.locate(options.config, to_write=to_write)


# -- asking --


def ask(options: argparse.Namespace, request: Entry, *, everything: bool = True) -> Iterator[Entry]:
    """The answer to a request, from the daemon or from the queue itself. Raises Failure."""
    named = os.fsencode(options.config) if options.config else None
    socket_path = client.find_instance(named, *client.trusted_environ()).socket
    argv = (b"pysendmail", json.dumps(request).encode())
    control = socket_path.rpartition(b"/")[0] + b"/control"
    for path in (control, socket_path):
        try:
            code, output, error = client.talk(path, argv, {})
        except OSError:
            continue
        except client.Lost as lost:
            raise Failure(EX_TEMPFAIL, f"pysendmail: the daemon at {os.fsdecode(path)}: {lost}") from None
        yield from (json.loads(line) for line in output.splitlines())
        if code:
            raise Failure(code, error.decode("utf-8", "replace").rstrip("\n"))
        return
    yield from _ask_queue(options, request, os.fsdecode(socket_path))


def _ask_queue(options: argparse.Namespace, request: Entry, socket_path: str) -> Iterator[Entry]:
    """Without a daemon."""
    import asyncio
    import sqlite3

    from pysendmail import config_file, direct
    from pysendmail.control import ControlError
    from pysendmail.schema import SchemaError
    from pysendmail.spool import QueueError

    loaded = config_file.load_or_last_good(_instance(options))

    async def collect() -> list[Entry]:
        desk, right = direct.control(loaded, socket_path)
        return [entry async for entry in desk.answer(right, request)]

    try:
        yield from asyncio.run(collect())
    except ControlError as error:
        raise Failure(error.code, f"pysendmail: {error}") from None
    except sqlite3.Error as error:
        where = f"{loaded.config.queue.directory}/queue.db"
        raise Failure(EX_TEMPFAIL, f"pysendmail: {where}: {error}; pysendmail check says what to do") from None
    except (QueueError, SchemaError, OSError) as error:
        raise Failure(EX_TEMPFAIL, f"pysendmail: {error}") from None


# -- commands --


def _daemon(options: argparse.Namespace) -> int:
    from pysendmail import daemon

    return daemon.serve(_instance(options), once=options.once)


def _flush(options: argparse.Namespace) -> int:
    for entry in ask(options, {"verb": "flush"}):
        print("Everything is due now." if entry["flushed"] == "all" else "All your own messages are due now.")
    return EX_OK


def _queue(options: argparse.Namespace) -> int:
    if options.verb != "list" and not options.ids and not options.all:
        raise Failure(EX_USAGE, f"pysendmail: queue {options.verb}: name a queue id, or --all; mailq lists them")
    answers = ask(options, {"verb": options.verb, "ids": options.ids, "all": options.all})
    if options.json:
        return _print_json(answers)
    match options.verb:
        case "list":
            terminal.show_queue(list(answers))
        case "explain":
            for entry in answers:
                print(f"{entry['queue_id']} from <{entry['sender']}>, accepted {entry['accepted_at']}")
                for words in entry["words"]:
                    print(f"  {words}")
        case "show":
            for entry in answers:
                _print_history(entry)
                print("\n".join(f"    {line}" for line in entry["header"].splitlines()))
        case _:
            for entry in answers:
                print(f"{entry['queue_id']}: {entry['done']}")
    return EX_OK


def _status(options: argparse.Namespace) -> int:
    from pysendmail.status import HEALTH, unknown

    try:
        report = next(iter(ask(options, {"verb": "status"})))
    except Failure as error:
        if error.code not in (EX_UNAVAILABLE, EX_TEMPFAIL):
            raise
        error.code = HEALTH.index("critical")  # no daemon, or no queue, whoever asks
        if options.json:
            print(json.dumps(unknown(str(error).removeprefix("pysendmail: "))))
        raise
    if options.json:
        print(json.dumps(report))
    else:
        _print_status(_instance(options), report)
    return HEALTH.index(report["health"])


def _history(options: argparse.Namespace) -> int:
    request: Entry = {"verb": "history", "ids": options.ids, "to": options.to, "bounces": options.bounces}
    if options.since:
        try:
            request["since"] = parse_time(options.since, time.time())
        except ValueError as error:
            raise Failure(EX_USAGE, f"pysendmail: --since {options.since}: {error}") from None
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
            print(
                f"{entry['at']} {entry['queue_id']} {entry['recipient']}: {entry['outcome']}: {entry['reply']}; {told}"
            )
        else:
            _print_history(entry)
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
    print(f"{entry['queue_id']} {entry['accepted_at']} {who}, {entry['size']} octets")
    for recipient in entry["recipients"]:
        last = recipient["attempts"][-1] if recipient["attempts"] else None
        outcome = recipient["outcome"] or "waiting"
        when = f" {recipient['finished_at']}" if recipient["finished_at"] else ""
        count = len(recipient["attempts"])
        tries = f"{count} attempt{'s' if count != 1 else ''}"
        how = f" via {last['smarthost']} ({tries}): {last['reply']}" if last else ""
        print(f"  {recipient['address']}: {outcome}{when}{how}")


def _print_probe(entry: Entry) -> None:
    def show(title: str, *values: str | None) -> None:
        for value in values:
            print(f"  {title:<12} {value}")
            title = ""

    tls, auth, trouble, sender = entry["tls"], entry["auth"], entry["trouble"], entry["sender"]
    verdict = "mail can go there" if entry["ready"] else "mail cannot go there"
    print(f"{entry['smarthost']} ({entry['host']} port {entry['port']}): {verdict}")
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
        print(f"  {finding['level']}: {finding['text']}; {finding['mend']}")


def _print_status(instance: Instance, report: Entry) -> None:
    print(f"{instance.path}: {report['health']}")
    oldest = f", the oldest for {report['oldest_age_s']:.0f} s" if report["oldest_age_s"] is not None else ""
    print(
        f"{report['queued']} queued{oldest}; {report['deferred']} deferred, {report['held']} held, "
        f"{report['in_flight']} on the way, {report['failed']} failed and kept"
    )
    if report["last_sent_at"]:
        print(f"last sent {report['last_sent_at']}")
    for smarthost in report["smarthosts"]:
        since = f" since {smarthost['since']}" if smarthost["since"] else ""
        reason = f": {smarthost['reason']}" if smarthost["reason"] else ""
        print(f"smarthost {smarthost['name']}: {smarthost['state']}{since}{reason}")
    for warning in report["warnings"]:
        print(f"! {warning}")
