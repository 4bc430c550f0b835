"""demo: `pysendmail demo`: one message that arrives and one that bounces, by the real commands, on this machine.

Everything is in a temporary directory and is what a real instance has: a configuration, the `sendmail` that
install-client writes, the queue, the daemon. Only the smarthost is not: aiosmtpd, which shares no code with us, in a
thread, on a free loopback port, with STARTTLS and a certificate from an authority made for the occasion.

Promises: 0 is returned only if all that was shown really happened, else 1 after a sentence that says what did not;
nothing leaves the machine; daemon and directory are gone in the end, also after Ctrl-C, SIGTERM and SIGHUP. It waits
for events, the daemon's log lines and arrivals at the smarthost, each at most PATIENCE_S.
"""

from __future__ import annotations

import asyncio
import email
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.smtp import SMTP, Envelope, Session
from rich.console import Console
from rich.text import Text

from pysendmail import install

# For any one event; on a machine so slow that this is not enough nobody would have waited either.
PATIENCE_S = 30.0
# The daemon stops within 25 s, however its connections are.
STOP_S = 30.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The longest name of a socket is 107 octets; ours lies below the directory for temporary files.
MAX_TEMPORARY = 60
# Our own sentences are no wider, however wide the terminal is.
WIDTH = 80

SMARTHOST = "demo"
KNOWN, UNKNOWN = "ada@example.org", "nobody@example.org"
REFUSAL = f"550 5.1.1 <{UNKNOWN}>: there is nobody of this name here"
BODY = "All files of /home are saved.\n"
BODY_REFUSED = "Nobody will read this.\n"

CONFIGURATION = """\
hostname = "box.example.com"
domain = "example.com"

[queue]
directory = "{directory}/queue"

[daemon]
socket = "{directory}/submit"

[aliases]
file = ""  # not this machine's

[[smarthost]]
name = "{name}"
host = "localhost"
port = {port}
tls = "verify"
tls_ca_file = "{directory}/ca.pem"
"""


def run() -> int:
    """The whole demonstration; returns the exit code."""
    for number in STOPPING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: what follows cleans up
    show = Show()
    parent = tempfile.gettempdir()
    if len(parent) > MAX_TEMPORARY:
        parent = "/tmp"  # noqa: S108 - mkdtemp makes the directory, and nobody else may enter it
    try:
        with tempfile.TemporaryDirectory(prefix="pysendmail-demo-", dir=parent) as name:
            _demonstrate(show, Path(name))
    except NotSo as error:
        print(f"pysendmail: demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:  # no room for the directory, or for what is shown
        print(f"pysendmail: demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pysendmail: demo: interrupted; everything is stopped and removed", file=sys.stderr)
        raise
    return 0


class NotSo(Exception):
    """Something that the demonstration tells did not happen."""


# -- the story --


def _demonstrate(show: Show, directory: Path) -> None:
    show.heading("pysendmail demo")
    show.say(
        f"""One message that arrives, and one that bounces. No mail leaves this machine. Everything is in
        {directory}, which is removed at the end."""
    )
    news = News()
    with _smarthost(news, directory / "ca.pem") as port:
        stage = Stage(directory, news)
        configuration = CONFIGURATION.format(directory=directory, name=SMARTHOST, port=port)
        stage.set_up(configuration)
        show.heading("1. A smarthost, and the configuration that names it")
        show.say(
            f"""The smarthost is aiosmtpd on a free port of this machine. It takes mail after STARTTLS only, and it does
            not know {UNKNOWN}. $PYSENDMAIL_CONFIG names this configuration for the commands that follow:"""
        )
        show.block(configuration)
        _accepted(show, stage)
        with stage.daemon():
            first = _delivered(show, stage)
            report = _bounced(show, stage)
            _remembered(show, stage, report)
        odd = [line for line in news.log if not line.startswith("event=") or line.startswith("event=bug")]
        _must(not odd, "the daemon had trouble that was not shown:\n" + "\n".join(odd))
    show.heading("That was all")
    show.say(
        f"""One message was accepted with no daemon running and delivered over {first.tls}. One was refused, and its
        sender was told why. The queue is empty, and the daemon has stopped."""
    )
    show.say("For mail of your own: README.md, sendmail(8), pysendmail(8) and pysendmail.toml(5).")


def _accepted(show: Show, stage: Stage) -> None:
    show.heading("2. sendmail accepts a message; no daemon is running yet")
    text = f"To: Ada <{KNOWN}>\nSubject: Backup done\n\n{BODY}"
    show.command("sendmail -t", text)
    stage.submit(text)
    show.say("Its exit code was 0: the message is safe on the disk. It waits in the queue:")
    listing = stage.command("mailq")
    show.command("mailq")
    show.block(listing)
    _must(KNOWN in listing, f"mailq does not list the message to {KNOWN}:\n{listing}")


def _delivered(show: Show, stage: Stage) -> Arrival:
    """The first message, as it arrived."""
    show.heading("3. The daemon delivers it")
    show.command("pysendmail daemon &")
    line = stage.outcome("status=sent")
    arrival = stage.arrival(1)
    show.say("What the daemon logs about it:")
    show.block(line)
    show.say(
        f"""At the smarthost it arrived over {arrival.tls} ({arrival.cipher}), from <{arrival.sender}> to
        <{arrival.recipients[0]}>:"""
    )
    show.block(arrival.text)
    header, _, body = arrival.text.partition("\n\n")
    added = [line.partition(":")[0] for line in header.splitlines() if not line.startswith((" ", "To:", "Subject:"))]
    _must(
        arrival.recipients == (KNOWN,) and sorted(added) == ["Date", "From", "Message-ID", "Received"] and body == BODY,
        f"the message arrived otherwise than it was sent:\n{arrival.text}",
    )
    _must(f"tls={arrival.tls} " in line, f"the smarthost saw {arrival.tls}, the daemon something else: {line}")
    show.say(f"pysendmail added {', '.join(added[:-1])} and {added[-1]}. The queue is empty again:")
    show.command("mailq")
    show.block(stage.empty_queue())
    return arrival


def _bounced(show: Show, stage: Stage) -> Arrival:
    """The report on the second message, as it arrived."""
    show.heading("4. A message that cannot be delivered comes back")
    text = f"To: {UNKNOWN}\nSubject: Is anybody there?\n\n{BODY_REFUSED}"
    show.command("sendmail -t", text)
    stage.submit(text)
    show.say("This time the daemon took it, and tried at once. The smarthost refused the recipient:")
    line = stage.outcome("status=bounced")
    show.block(line)
    stage.outcome("status=sent", count=2)
    report = stage.arrival(2)
    show.say(f"So a bounce went back to the sender, <{report.recipients[0]}>, by the same way. As it arrived:")
    message = email.message_from_bytes(report.content)  # read by code that is not ours
    header, _, body = report.text.partition("\n\n")
    parts = [part.partition("\n\n")[2] for part in body.split(f"--{message.get_boundary()}")[1:-1]]
    _must(
        message.get_content_type() == "multipart/report" and len(parts) == 3 and report.sender == "",
        f"the second message at the smarthost is not a bounce:\n{report.text}",
    )
    words, status, _ = parts
    _must(REFUSAL in words and "Status: 5.1.1" in status, f"the bounce does not give the reason:\n{report.text}")
    show.block(f"{header}\n\n{words}")
    show.say("That is its part for people. Its part for programs:")
    show.block(status)
    return report


def _remembered(show: Show, stage: Stage, report: Arrival) -> None:
    show.heading("5. What became of them is remembered")
    show.command("pysendmail history")
    show.block(stage.command("pysendmail", "history"))
    entries = [json.loads(line) for line in stage.command("pysendmail", "history", "--json").splitlines()]
    outcomes = [(recipient["address"], recipient["outcome"]) for entry in entries for recipient in entry["recipients"]]
    wanted = [(KNOWN, "sent"), (UNKNOWN, "bounced"), (report.recipients[0], "sent")]
    _must(outcomes == wanted, f"the history is {outcomes}, not {wanted}")
    stage.empty_queue()


def _must(condition: bool, words: str) -> None:
    if not condition:
        raise NotSo(words)


# -- the stage: a whole instance in a directory --


class News:
    """What has happened so far: the daemon's log, and arrivals. Written by threads, waited for by the story."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.arrivals: list[Arrival] = []
        self._ended = False
        self._changed = threading.Condition()

    def logged(self, line: str) -> None:
        with self._changed:
            self.log.append(line)
            self._changed.notify_all()

    def arrived(self, arrival: Arrival) -> None:
        with self._changed:
            self.arrivals.append(arrival)
            self._changed.notify_all()

    def ended(self) -> None:
        """The daemon says nothing more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, what: str, happened: Callable[[], bool]) -> None:
        """Return when it has happened; NotSo with the log when the daemon ends, or takes too long."""
        with self._changed:
            self._changed.wait_for(lambda: happened() or self._ended, PATIENCE_S)
            log = "\n".join(self.log)
            _must(happened(), f"this did not happen: {what}. The daemon's log:\n{log or '(nothing)'}")


class Stage:
    """The instance: its directory, its commands and its daemon."""

    def __init__(self, directory: Path, news: News) -> None:
        self._directory = directory
        self._news = news
        configuration = directory / "pysendmail.toml"
        # So that each command is just what it is shown to be, without `-C FILE`.
        self._environment = {**os.environ, "PYSENDMAIL_CONFIG": str(configuration)}
        self._configuration = configuration

    def set_up(self, configuration: str) -> None:
        # Before root's daemon makes it: that one would give it to the user pysendmail, who cannot get here.
        (self._directory / "queue").mkdir(mode=0o700)
        self._configuration.write_text(configuration)
        (self._directory / "bin").mkdir()
        try:
            install.install_client(self._directory / "bin")
        except install.InstallError as error:
            raise NotSo(str(error)) from None

    def command(self, name: str, *arguments: str, text: str = "") -> str:
        """What a command printed. `sendmail` and its names are the stub's, `pysendmail` is the one that runs us."""
        program = _own_program() if name == "pysendmail" else str(self._directory / "bin" / name)
        try:
            with _process(
                [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment
            ) as process:
                output, errors = process.communicate(text, timeout=PATIENCE_S)
        except PermissionError:
            raise NotSo(
                f"{program} cannot be run: no program may be run there; another directory: TMPDIR=/dir pysendmail demo"
            ) from None
        except subprocess.TimeoutExpired:
            raise NotSo(f"{name} did not end within {PATIENCE_S:.0f} s") from None
        _must(process.returncode == 0, f"{name} ended with exit code {process.returncode}: {errors.strip()}")
        return output

    def submit(self, text: str) -> None:
        self.command("sendmail", "-t", text=text)

    def empty_queue(self) -> str:
        listing = self.command("mailq")
        _must("queue is empty" in listing, f"the queue is not empty:\n{listing}")
        return listing

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """The daemon, from its `start` line on; stopped in the end."""
        with _process(
            [_own_program(), "daemon"], stdin=subprocess.DEVNULL, stdout=None, env=self._environment
        ) as process:
            reader = threading.Thread(target=self._read_log, args=(process,), daemon=True)
            reader.start()
            try:
                self._news.wait("the daemon starts", lambda: bool(self._lines("event=start")))
                yield
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
        reader.join()
        _must(process.returncode == 0, f"the daemon ended with exit code {process.returncode}")

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self._news.logged(line.rstrip("\n"))
        self._news.ended()

    def _lines(self, *words: str) -> list[str]:
        return [line for line in self._news.log if set(words) <= set(line.split(" "))]

    def outcome(self, status: str, *, count: int = 1) -> str:
        """The daemon's line on the `count`-th outcome of this kind."""
        self._news.wait(f"an outcome with {status}", lambda: len(self._lines("event=outcome", status)) >= count)
        return self._lines("event=outcome", status)[count - 1]

    def arrival(self, number: int) -> Arrival:
        self._news.wait(f"message {number} arrives", lambda: len(self._news.arrivals) >= number)
        return self._news.arrivals[number - 1]


@contextmanager
def _process(
    command: Sequence[str], *, stdin: int, stdout: int | None, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process that is not there any more in the end."""
    process = None
    try:
        with _uninterrupted():
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env, text=True, errors="replace"
            )
        yield process
    finally:
        if process is not None:
            process.kill()  # does nothing to one that has ended
            process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A signal that comes meanwhile is obeyed at the end: a process half started would be nobody's."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in handlers.items():
        if handler is signal.default_int_handler:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt


def _own_program() -> str:
    """The `pysendmail` that was called."""
    return os.path.abspath(sys.argv[0])


# -- the smarthost --


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message as the smarthost got it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    tls: str
    cipher: str

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace").replace("\r\n", "\n")


class Handler:
    """aiosmtpd's hooks: it takes everything but mail to UNKNOWN."""

    def __init__(self, news: News) -> None:
        self._news = news

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Sequence[str]
    ) -> str:
        if address == UNKNOWN:
            return REFUSAL
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        connection: Mapping[str, Any] = session.ssl or {}
        content = envelope.original_content or b""
        self._news.arrived(
            Arrival(
                sender=(envelope.mail_from or "").strip("<>"),
                recipients=tuple(envelope.rcpt_tos),
                content=content,
                tls=connection["ssl_object"].version(),
                cipher=connection["cipher"][0],
            )
        )
        return "250 2.0.0 thank you"


@contextmanager
def _smarthost(news: News, ca_file: Path) -> Iterator[int]:
    """It listens, with a loop and a thread of its own; the port."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))  # listens from here on: nobody has to wait for the thread
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(
            lambda: SMTP(Handler(news), loop=loop, hostname="localhost", tls_context=context, require_starttls=True),
            sock=listener,
        )
    )
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# -- showing --


class Show:
    """What a person sees: headings, sentences, commands and, indented, what came out of them. Colour on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._width = max(self._console.width, 40)

    def heading(self, text: str) -> None:
        self._print("", Text(text, style="bold"), Text("-" * len(text), style="bold"))

    def say(self, text: str) -> None:
        words = " ".join(text.split())
        self._print(
            "", *textwrap.wrap(words, min(self._width, WIDTH) - 1, break_long_words=False, break_on_hyphens=False)
        )

    def command(self, command: str, stdin: str = "") -> None:
        self._print("", Text(f"  $ {command}", style="bold green"))
        if stdin:
            self._indented(stdin, "  | ", "green")

    def block(self, text: str) -> None:
        """Text from elsewhere: as it is, its long lines broken between words."""
        self._print("")
        self._indented(text, "    ", "cyan")

    def _indented(self, text: str, indent: str, style: str) -> None:
        for line in text.rstrip("\n").split("\n"):
            margin = " " * (len(line) - len(line.lstrip()))
            pieces = textwrap.wrap(
                line,
                self._width - len(indent) - 1,
                subsequent_indent=f"{margin}  ",
                break_long_words=False,
                break_on_hyphens=False,
                drop_whitespace=True,
            )
            for piece in pieces or [""]:
                self._print(Text(f"{indent}{piece}".rstrip(), style=style))

    def _print(self, *lines: Text | str) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)
