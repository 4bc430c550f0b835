"""The thin client: `sendmail` and its other names. argv and stdin go to the daemon, the answer comes back.

What sendmail's options mean is known to the daemon alone. The client knows of them only what it cannot do
without: which configuration names the socket, whether standard input is read, and whether it can wait for its
end.

Promises:
- Exit 0 comes from the daemon or from `direct`, after the commit; nothing here invents it.
- Nothing is queued before Z, the frame for the end of input, has been sent whole. What goes wrong before
  that is "nothing was queued"; what goes wrong after it is asked about by the submission id, and only when
  that has no answer either does the client say "may have been queued" (75).
- A configuration that was named and cannot be read: 78. Unreadable standard input: 74. Death by SIGTERM or
  SIGINT while it is read: nothing was queued. One line on standard error for every failure.
- A closed or full output neither kills nor blocks a submission.
- A refusal does not break the caller's pipe: what he is still writing is read, within limits.

Start-up is the price of every cron line, hence the shape of this file: builtins only (`sys posix time _signal`,
`_socket`, `select` where it has to wait for two things, `errno` where nobody listens, `pwd` without $HOME), no
package import on the way to the socket, annotations without `typing`. A test holds `sys.modules` to that list, and
the constants of the frames to pysendmail.frames. Only where there is no daemon, and for the table of a listing on a
terminal, are `site` and other modules of ours loaded. Of the millisecond and a half that it takes beside the
interpreter's nine, its own code is a half: to load the rarer part of it only when needed would save a quarter of one.

Not done here: no TOML (only the line `socket = "..."`), no check of arguments, no rights: nothing is setuid.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # names for the annotations; loading them would cost a third of the start-up
    from collections.abc import Callable, Iterator, Sequence

# The frames, as in pysendmail.frames.
VERSION = 1
HELLO, ARGV, ENVIRONMENT, DATA, END, ASK = b"V", b"A", b"E", b"D", b"Z", b"Q"
STDOUT, STDERR, EXIT, UNKNOWN = b"1", b"2", b"X", b"U"
HEADER_OCTETS = 5
ID_OCTETS = 16
MAX_ARGV_OCTETS = 1 << 20
MAX_ARGUMENTS = 10_000
MAX_ENVIRONMENT_OCTETS = 4096
MAX_CHUNK = 256 << 10

DAEMON_IS_BACK = -1  # direct.run: a daemon has started meanwhile, and standard input begins anew
USAGE, IOERR, TEMPFAIL, CONFIG = 64, 74, 75, 78  # sysexits

SYSTEM_CONFIG = b"/etc/pysendmail/pysendmail.toml"
SYSTEM_SOCKET = b"/run/pysendmail/submit"
VARIABLES = (b"NAME",)  # what sendmail honours of the environment, beside our own PYSENDMAIL_CONFIG
MAX_VALUE_OCTETS = 1024  # a longer one is no name: it stays here
MAX_CLAIM_OCTETS = 1000  # of a file in /proc

RESTART_S = 5.0  # how long a daemon may take to restart, or to have room in its backlog
PAUSE_S = 0.05  # between two tries to connect
TRIES = 3  # what is lost before the daemon has it all is handed over again so often
ANSWER_S = 60.0  # without any sign of life once all has been sent; each frame, also an empty one, starts it anew
ASK_S = 10.0  # for the answer to "what became of it?"
OUTPUT_S = 5.0  # for somebody to read our output; listings wait as long as their reader takes
DRAIN_S = 5.0  # after a refusal, for what the caller is still writing
DRAIN_QUIET_S = 1.0  # who pauses so long has noticed, or has nothing more to say

BUFFER = 1 << 20  # of standard input before connecting: a slow writer holds no connection
READ = 64 << 10  # what a pipe holds
MAX_CONFIG_OCTETS = 1 << 20
MAX_SOCKET_OCTETS = 107  # sun_path less its NUL: no daemon can listen on a longer one
PIPE_BUF = 4096  # a write of so much does not block where poll says that there is room

# Only so much of sendmail's command line as it takes to find -C, -v, -i and the mode; a test holds it to
# pysendmail.argv.
TAKES_VALUE = b"ABCFLNORVXbefhopr"  # the rest of the word, or the next word
TAKES_REST = b"DEJMQSadq"  # the rest of the word only, which may be empty
LONG_TAKES_VALUE = (b"--config", b"--format")
QUIET_NAMES = (b"mailq", b"newaliases", b"runq", b"hoststat", b"purgestat")  # read no standard input
QUIET_MODES = b"pPivhHCVDdlOazS"  # -bX, those that the daemon refuses included
DIALOGUE_MODES = b"st"  # -bX


class Failure(Exception):
    """The end, with an exit code and the words for standard error."""

    def __init__(self, code: int, words: str) -> None:
        self.code = code
        self.words = words


class Unreadable(Failure):
    """A configuration that cannot be opened or read."""


class Lost(Exception):
    """The connection ended, or fell silent, without an exit code."""


# --- argv and instance


class Request:
    """What argv says to the client itself."""

    __slots__ = (
        "argv", "config", "debug", "dialogue", "dot_ends", "here", "layout", "lists", "name", "reads", "smtp",
        "verbose",
    )  # fmt: skip

    def __init__(self, argv: "Sequence[bytes]") -> None:
        self.argv = argv
        self.name = argv[0].rpartition(b"/")[2] if argv else b"sendmail"
        self.config: bytes | None = None
        self.reads = self.name not in QUIET_NAMES
        self.lists = self.name == b"mailq"
        self.layout = b""  # of a listing
        self.dialogue = self.smtp = False
        self.here = False  # no daemon can do it for us
        self.debug = False
        self.dot_ends = self.name != b"rmail"
        self.verbose = False
        self._scan()

    def _scan(self) -> None:
        words = iter(self.argv[1:])
        for word in words:
            if word[:1] != b"-" or word in (b"-", b"--"):
                return  # like getopt under POSIX: the first recipient ends the options
            if word[:2] == b"--":
                self._long(word, words)
            else:
                self._cluster(word, words)

    def _long(self, word: bytes, words: "Iterator[bytes]") -> None:
        name, equals, value = word.partition(b"=")
        if name in LONG_TAKES_VALUE and not equals:
            value = next(words, b"")
        if name == b"--config":
            self.config = value
        elif name == b"--format":
            self.layout = value
        elif name == b"--json":
            self.layout = b"json"
        elif name in (b"--version", b"--help"):
            self._quiet()
            self.lists = False

    def _cluster(self, word: bytes, words: "Iterator[bytes]") -> None:
        at = 1
        while at < len(word):
            option = word[at : at + 1]
            at += 1
            if option in TAKES_VALUE:
                self._valued(option, word[at:] or next(words, b""))
                return
            if option in TAKES_REST:
                interval = at < len(word) and word[at] in b"p0123456789"  # -q15m: changes nothing in a dialogue
                filters = word[at:].removeprefix(b"!")[:1] in (b"I", b"R", b"S")
                self.debug |= option == b"d"
                self.lists &= option not in b"qQ" or (option == b"q" and (interval or filters))
                if option == b"Q" or (option == b"q" and not (self.dialogue and interval)):
                    self._quiet()
                return
            if option == b"i":
                self.dot_ends = False
            elif option == b"v":
                self.verbose = True
            elif option == b"I":
                self._quiet()
                self.lists = False

    def _valued(self, option: bytes, value: bytes) -> None:
        if option == b"C":
            self.config = value
        elif option == b"b":
            self.reads = value[:1] not in QUIET_MODES
            self.dialogue = value[:1] in DIALOGUE_MODES
            self.smtp = value[:1] == b"s"
            self.lists = value == b"p"
            self.here = value in (b"C", b"D")
        elif option == b"o":
            self._switch(b"-o" + value[:1], value[1:])
        elif option == b"O":
            name, _, setting = value.partition(b"=")
            self._switch(b"-O" + name.strip().lower(), setting.strip())

    def _switch(self, name: bytes, value: bytes) -> None:
        true = value[:1].lower() not in (b"f", b"n", b"0")
        if name in (b"-oi", b"-Oignoredots"):
            self.dot_ends = not true
        elif name in (b"-ov", b"-Overbose"):
            self.verbose = true

    @property
    def table(self) -> bool:
        """A listing that is a table on a terminal, as pysendmail.mailq.is_table."""
        return self.lists and self.layout in (b"", b"table")

    def _quiet(self) -> None:
        self.reads = self.dialogue = self.smtp = False


class Instance:
    """Which queue: the configuration in use (None: the system's own, which may be missing) and its socket."""

    __slots__ = ("config", "socket")

    def __init__(self, config: bytes | None, socket: bytes) -> None:
        self.config = config
        self.socket = socket


def find_instance(named: bytes | None, environ: "dict[bytes, bytes]", uid: int) -> Instance:
    """-C, $PYSENDMAIL_CONFIG, the user's own file, the system's: in this order.

    An empty name counts as none. Failure(78) if a file that was named, or the user's own, cannot be read.
    """
    own = user_config(uid, environ) if uid else None
    named = named or environ.get(b"PYSENDMAIL_CONFIG")
    if named:
        default = user_socket(uid, environ) if own and absolute(named) == own else SYSTEM_SOCKET
        return Instance(named, configured_socket(named) or default)
    if own and exists(own):
        return Instance(own, configured_socket(own) or user_socket(uid, environ))
    try:
        return Instance(None, configured_socket(SYSTEM_CONFIG) or SYSTEM_SOCKET)
    except Unreadable:  # missing, or none of the caller's business
        return Instance(None, SYSTEM_SOCKET)


def claims() -> "dict[bytes, bytes]":
    """What this process is of, for people who wonder later (pysendmail.origin). Who cannot tell claims nothing."""
    found = {}
    for name, path, begin in (
        (b"PYSENDMAIL_COMMAND", b"/proc/%d/comm" % posix.getppid(), b""),
        (b"PYSENDMAIL_CGROUP", b"/proc/self/cgroup", b"0::"),
    ):
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
            text = posix.read(fd, MAX_CLAIM_OCTETS)
            posix.close(fd)
        except OSError:
            continue
        for line in text.split(b"\n"):
            if line[: len(begin)] == begin:
                found[name] = line[len(begin) :]
                break
    return found


def trusted_environ() -> "tuple[dict[bytes, bytes], int]":
    """The environment and the uid that may choose an instance.

    In a set-id program they are those of whoever started it, who must not choose where its mail goes, or what
    its rights are used for: only -C and the system's configuration are left.
    """
    if posix.getuid() != posix.geteuid() or posix.getgid() != posix.getegid():
        return {}, 0
    return posix.environ, posix.getuid()


def user_config(uid: int, environ: "dict[bytes, bytes]") -> bytes | None:
    """Where this user's own configuration would be; None for a uid without a home."""
    directory = environ.get(b"XDG_CONFIG_HOME", b"")
    if directory[:1] != b"/":  # the XDG specification: a relative path is to be ignored
        home = environ.get(b"HOME", b"")
        if home[:1] != b"/":
            import pwd

            try:
                home = to_bytes(pwd.getpwuid(uid).pw_dir)
            except KeyError:
                return None
        directory = home + b"/.config"
    return directory + b"/pysendmail/pysendmail.toml"


def user_socket(uid: int, environ: "dict[bytes, bytes]") -> bytes:
    directory = environ.get(b"XDG_RUNTIME_DIR", b"")
    return (directory if directory[:1] == b"/" else b"/run/user/%d" % uid) + b"/pysendmail/submit"


def exists(path: bytes) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def absolute(path: bytes) -> bytes:
    """os.path.abspath, without loading os.path."""
    parts: list[bytes] = []
    for part in (path if path[:1] == b"/" else posix.getcwdb() + b"/" + path).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def configured_socket(path: bytes) -> bytes | None:
    """The socket that a configuration names. Unreadable or Failure, both 78."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
        try:
            if posix.fstat(fd).st_mode & 0o170000 != 0o100000:
                raise OSError("it is not a file")
            text = b""
            while len(text) < MAX_CONFIG_OCTETS and (more := posix.read(fd, READ)):
                text += more
        finally:
            posix.close(fd)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Unreadable(
            CONFIG, f"cannot read the configuration {shown(path)} ({reason(error)}); nothing was queued"
        ) from None
    socket = socket_line(text)
    if socket is not None and socket[:1] != b"/":
        raise Failure(CONFIG, f"{shown(path)}: the socket is no absolute path; nothing was queued")
    return socket


def socket_line(text: bytes) -> bytes | None:
    """The first line that reads socket = "...". config_file refuses a file that says it otherwise."""
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        key, equals, value = line.partition(b"=")
        if equals and key.strip(b" \t") == b"socket":
            before, quote, rest = value.partition(b'"')
            inner, closed, _ = rest.partition(b'"')
            if quote and closed and not before.strip(b" \t") and b"\\" not in inner:
                return inner
    return None


# --- standard input and output


def steady_descriptors() -> None:
    """0, 1 and 2 are open, so that neither the socket nor the queue becomes somebody's standard output."""
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            try:
                posix.open(b"/dev/null", posix.O_RDWR)  # takes the lowest number that is free: this one
                posix.set_inheritable(fd, True)
            except OSError as error:
                raise Failure(TEMPFAIL, f"cannot open /dev/null ({reason(error)}); nothing was queued") from None


def wait_for(fd: int, *, to_write: bool = False, seconds: float | None = None) -> bool:
    """False when `seconds` are over."""
    import select

    poller = select.poll()
    poller.register(fd, select.POLLOUT if to_write else select.POLLIN)
    return bool(poller.poll(None if seconds is None else max(0.0, seconds) * 1000))


class Output:
    """Standard output and error. What cannot be written is dropped: the exit code tells what matters.

    A submission does not wait for a reader of its output for long; a listing or a dialogue does.
    """

    __slots__ = ("_dead", "_patient", "kept", "said")

    def __init__(self, patient: bool) -> None:
        self._patient = patient
        self.said = False  # something on standard output
        self.kept: list[bytes] | None = None  # standard output, if it is not for showing as it is
        self._dead: set[int] = set()

    def show(self, kind: bytes, data: bytes) -> None:
        fd = 1 if kind == STDOUT else 2
        self.said |= fd == 1 and bool(data)
        if fd == 1 and self.kept is not None:
            self.kept.append(data)
            return
        if fd not in self._dead and not emit(fd, data, None if self._patient and fd == 1 else OUTPUT_S):
            self._dead.add(fd)


def emit(fd: int, data: bytes, patience: float | None) -> bool:
    """False if nobody takes it, or not within `patience` seconds."""
    deadline = None if patience is None else time.monotonic() + patience
    while data:
        if not wait_for(fd, to_write=True, seconds=None if deadline is None else deadline - time.monotonic()):
            return False
        try:
            data = data[posix.write(fd, data[:PIPE_BUF]) :]
        except BlockingIOError:
            continue
        except OSError:
            return False
    return True


def no_greeting() -> None:
    """What a client of -bs reads instead of the greeting (RFC 5321 §3.1), rather than nothing."""
    emit(1, b"421 4.3.0 no service now; standard error says why\r\n", OUTPUT_S)


def drain() -> None:
    """Drop what the caller is still writing into a pipe: SIGPIPE would kill most callers before they see our exit code.

    Within limits: he may write without end, or keep the pipe open until we are gone.
    """
    deadline = time.monotonic() + DRAIN_S
    try:
        if posix.fstat(0).st_mode & 0o170000 not in (0o010000, 0o140000):  # a pipe, a socket
            return
        while (left := deadline - time.monotonic()) > 0 and wait_for(0, seconds=min(left, DRAIN_QUIET_S)):
            if not posix.read(0, READ):
                return
    except OSError:
        pass


class Source:
    """Standard input, kept while it is small enough to be sent a second time."""

    __slots__ = ("_kept", "_tail", "ended", "size", "whole")

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._tail = b"\n"
        self.size = 0
        self.whole = True  # all that has been read is still here
        self.ended = False

    def fill(self, dot_ends: bool) -> None:
        """Up to the end, or to what is enough to begin with: a buffer full, or a line that is a lone dot."""
        while not self.ended and self.size <= BUFFER:
            chunk = self.read()
            if dot_ends and self.has_lone_dot(chunk):
                return

    def read(self) -> bytes:
        """The next piece, b"" at the end. Failure(74) if it cannot be read."""
        while True:
            try:
                chunk = posix.read(0, READ)
                break
            except BlockingIOError:  # whoever shares our input made it so
                wait_for(0)
            except OSError as error:
                raise Failure(IOERR, f"cannot read standard input ({reason(error)}); nothing was queued") from error
        self.ended = not chunk
        self.size += len(chunk)
        if self.whole:
            self._kept.append(chunk)
        return chunk

    def begin(self) -> "list[bytes]":
        """All that was read so far, to be sent first. What does not fit the buffer is not kept any longer."""
        kept = self._kept
        if self.size > BUFFER:
            self.forget()
        return kept

    def forget(self) -> None:
        self.whole = False
        self._kept = []

    def chunks(self) -> "Iterator[bytes]":
        """All of it, for whoever reads it in this process."""
        kept = self.begin()
        self.forget()
        yield from filter(None, kept)
        while chunk := b"" if self.ended else self.read():
            yield chunk

    def has_lone_dot(self, chunk: bytes) -> bool:
        """Roughly, and rather too often: it only decides that the daemon gets to see it now."""
        seen = self._tail + chunk
        self._tail = seen[-3:]
        return b"\n.\n" in seen or b"\n.\r" in seen


class Given(Source):
    """Input that is here already, or none: descriptor 0 is not touched."""

    __slots__ = ()

    def __init__(self, data: bytes = b"") -> None:
        super().__init__()
        self._kept = [data[at : at + READ] for at in range(0, len(data), READ)]
        self.ended = True


# --- the conversation


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def opening(submission_id: bytes, argv: "Sequence[bytes]", environment: "dict[bytes, bytes]") -> bytes:
    """V, A and E."""
    variables = b"".join(b"%b=%b\0" % item for item in environment.items())
    return (
        frame(HELLO, bytes((VERSION,)) + submission_id)
        + frame(ARGV, b"".join(word + b"\0" for word in argv))
        + (frame(ENVIRONMENT, variables) if variables else b"")
    )


def connect(path: bytes) -> "_socket.socket":
    """A connected socket that does not block (EAGAIN: the backlog is full). OSError as the kernel says it."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Talk:
    """One connection: what is still to be sent, and the answer as it comes in.

    `show` gets every STDOUT and STDERR payload at once.
    """

    __slots__ = ("_came", "_closing", "_deaf", "_out", "_show", "_sock", "complete")

    def __init__(self, sock: "_socket.socket", show: "Callable[[bytes, bytes], None]") -> None:
        self._sock = sock
        self._show = show
        self._out = bytearray()
        self._came = bytearray()
        self._closing = False  # our last frame is on its way
        self._deaf = False  # the daemon takes no more from us, but may have answered
        self.complete = False  # our last frame has gone, whole

    def submit(self, start: bytes, source: Source) -> int:
        """Everything, and its exit code. Lost if there is none; Failure(74) if the input fails."""
        self._out += start
        for chunk in source.begin():
            self._put(chunk)
        if source.ended and not self._closing:
            self._put(b"")
        while not (self._closing or self._deaf):
            answer = self._exchange(source)
            if answer is not None:
                return answer[0]
        return self._finish((EXIT,))[0]

    def ask(self, submission_id: bytes, seconds: float) -> int | None:
        """The exit code of that submission, None if nothing is known of it. Lost if there is no answer."""
        self._out += frame(HELLO, bytes((VERSION,)) + submission_id) + frame(ASK)
        answer = self._finish((EXIT, UNKNOWN), time.monotonic() + seconds)
        return answer[0] if answer else None

    def close(self) -> None:
        self._sock.close()

    def _exchange(self, source: Source) -> bytes | None:
        """One turn while standard input is open. The daemon must not be slow; whoever writes to us may be."""
        import select

        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN | (select.POLLOUT if self._out else 0))
        if len(self._out) < MAX_CHUNK:
            poller.register(0, select.POLLIN)
        ready = dict(poller.poll(ANSWER_S * 1000 if self._out else None))
        if not ready:
            raise Lost("it has stopped reading")
        event = ready.get(self._sock.fileno(), 0)
        if event & ~select.POLLOUT:
            answer = self._receive((EXIT,), 0.0)
            if answer is not None:
                return answer
        if 0 in ready:
            self._put(source.read())
            if source.size > BUFFER:
                source.forget()
        self._send()
        return None

    def _put(self, chunk: bytes) -> None:
        """Standard input's next piece, b"" for its end."""
        self._out += frame(DATA, chunk) if chunk else frame(END)
        self._closing = not chunk

    def _finish(self, ends: "Sequence[bytes]", deadline: float | None = None) -> bytes:
        """Send the rest and wait for the end."""
        self._send()
        while True:
            seconds = ANSWER_S if deadline is None else deadline - time.monotonic()
            if seconds <= 0:
                raise Lost("it did not answer in time")
            if self._out:
                self._wait_for_both(seconds)
                self._send()
                seconds = 0.0
            answer = self._receive(ends, seconds)
            if answer is not None:
                return answer

    def _wait_for_both(self, seconds: float) -> None:
        import select

        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN | select.POLLOUT)
        if not poller.poll(seconds * 1000):
            raise Lost("it has stopped reading")

    def _send(self) -> None:
        self._sock.settimeout(0)
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                return
            except OSError:  # EPIPE: it has said all it wants to say, which we go on to read
                self._out.clear()
                self._deaf = True
                return
            del self._out[:sent]
        self.complete = self._closing

    def _receive(self, ends: "Sequence[bytes]", seconds: float) -> bytes | None:
        """What has come, shown; the payload of the last frame, or None if that is not there yet."""
        self._sock.settimeout(seconds)
        try:
            data = self._sock.recv(READ)
        except BlockingIOError:
            return None
        except TimeoutError:
            raise Lost("it did not answer in time") from None
        except OSError as error:
            raise Lost(reason(error)) from None
        if not data:
            raise Lost("it closed the connection")
        self._came += data
        return self._frames(ends)

    def _frames(self, ends: "Sequence[bytes]") -> bytes | None:
        came = self._came
        while len(came) >= HEADER_OCTETS:
            kind, size = bytes(came[:1]), int.from_bytes(came[1:HEADER_OCTETS], "big")
            known = kind in (STDOUT, STDERR) or kind in ends
            if not known or size > MAX_CHUNK or (kind == EXIT and size != 1) or (kind == UNKNOWN and size):
                raise Lost("it answered with something else than our protocol")
            if len(came) < HEADER_OCTETS + size:
                break
            payload = bytes(came[HEADER_OCTETS : HEADER_OCTETS + size])
            del came[: HEADER_OCTETS + size]
            if kind in ends:
                return payload
            self._show(kind, payload)
        return None


def talk(
    socket_path: bytes, argv: "Sequence[bytes]", environment: "dict[bytes, bytes]", stdin: bytes = b""
) -> "tuple[int, bytes, bytes]":
    """One whole conversation for a program of ours: exit code, standard output, standard error.

    OSError if nobody listens there, Lost if there is no exit code. Nothing is tried twice.
    """
    texts: dict[bytes, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
    code = converse(connect(socket_path), argv, environment, lambda kind, data: texts[kind].extend(data), stdin)
    return code, bytes(texts[STDOUT]), bytes(texts[STDERR])


def converse(
    sock: "_socket.socket",
    argv: "Sequence[bytes]",
    environment: "dict[bytes, bytes]",
    show: "Callable[[bytes, bytes], None]",
    stdin: bytes = b"",
) -> int:
    """The same over a connection, which is closed in the end; `show` gets each STDOUT and STDERR as it comes."""
    conversation = Talk(sock, show)
    try:
        return conversation.submit(opening(posix.urandom(ID_OCTETS), argv, environment), Given(stdin))
    finally:
        conversation.close()


# --- one command


class Command:
    """A run of sendmail, or of one of its other names."""

    __slots__ = ("_environment", "_instance", "_output", "_request", "_source", "_submission_id")

    def __init__(self, argv: "Sequence[bytes]", environ: "dict[bytes, bytes]", uid: int) -> None:
        request = self._request = Request(argv)
        self._instance = find_instance(request.config, environ, uid)
        self._environment = {
            name: value
            for name in VARIABLES
            if (value := environ.get(name)) is not None and len(value) <= MAX_VALUE_OCTETS
        }
        if request.reads:
            self._environment.update(claims())
        self._submission_id = posix.urandom(ID_OCTETS)
        self._output = Output(patient=request.dialogue or not request.reads)
        self._source = Source() if request.reads else Given()

    def run(self) -> int:
        """The exit code. Failure where it is ours to say what went wrong."""
        request, source = self._request, self._source
        self._check_bounds()
        if not (request.dialogue or request.verbose or not request.reads or posix.isatty(0)):
            source.fill(request.dot_ends)
        if request.debug:
            self._say_where()
        if request.here:
            return self._directly()
        start = opening(self._submission_id, self._asked_for(), self._environment)
        for left in reversed(range(TRIES)):
            sock = self._reach()
            if sock is None:
                done = self._directly()
                if done != DAEMON_IS_BACK:
                    return done
                source = self._source = Source()  # all that was read is standard input again
                source.fill(request.dot_ends)
                sock = self._reach()
                if sock is None:
                    raise self._nothing("it comes and goes")
            conversation = Talk(sock, self._output.show)
            try:
                done = conversation.submit(start, source)
                if not done and self._output.kept is not None:
                    self._show_table(b"".join(self._output.kept))
                return done
            except Lost as lost:
                why = str(lost)
            finally:
                conversation.close()
            if request.dialogue:
                raise self._failure(f"{why}; only what it has acknowledged is queued")
            if conversation.complete:
                if not request.reads:
                    raise self._failure(f"{why}; try again later")
                code = self._ask(why)
                if code is not None:
                    return code
            if not left or not source.whole:
                break
            time.sleep(PAUSE_S)  # a daemon that is killed closes one socket after the other
        raise self._nothing(why)

    def _asked_for(self) -> "Sequence[bytes]":
        """What the daemon is told: for a table on our terminal it gives us the facts."""
        request = self._request
        if not request.table or not posix.isatty(1):
            return request.argv
        self._output.kept = []
        argv = request.argv[:-1] if request.argv[-1] == b"--" else request.argv
        return [*argv, b"--json"]

    def _show_table(self, listing: bytes) -> None:
        config = self._instance.config
        if config is not None and config != SYSTEM_CONFIG:
            say(self._request.argv, f"the queue of {shown(config)}")
        load_package()
        import json

        from pysendmail import terminal

        terminal.show_queue([json.loads(line) for line in listing.splitlines()])
        flush_streams()

    @property
    def owes_greeting(self) -> bool:
        """Whether an SMTP client has not heard anything yet. `direct` speaks for itself."""
        return self._request.smtp and not self._output.said

    def _say_where(self) -> None:
        config = shown(self._instance.config or SYSTEM_CONFIG)
        say(self._request.argv, f"configuration {config}, socket {shown(self._instance.socket)}")

    def _check_bounds(self) -> None:
        argv = self._request.argv
        if len(argv) > MAX_ARGUMENTS or sum(map(len, argv)) + len(argv) > MAX_ARGV_OCTETS:
            raise Failure(USAGE, "too many arguments; nothing was queued, send to fewer recipients at a time")

    def _reach(self) -> "_socket.socket | None":
        """A connection to the daemon; None where there is no daemon, or who calls takes its place."""
        if not self._request.reads and (control := self._control()) is not None:
            return control
        socket, deadline, asked = self._instance.socket, time.monotonic() + RESTART_S, False
        if len(socket) > MAX_SOCKET_OCTETS:
            return None
        while True:
            try:
                return connect(socket)
            except OSError as error:
                failed = error
            import errno  # its tables take a tenth of a millisecond

            if failed.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                return None
            if failed.errno == errno.ECONNREFUSED and not asked:
                asked = True
                if self._takes_over():
                    return None
            elif failed.errno not in (errno.ECONNREFUSED, errno.EAGAIN):
                raise self._nothing(reason(failed))
            if time.monotonic() >= deadline:
                if failed.errno == errno.EAGAIN:
                    raise self._nothing("it is too busy")
                if self._request.reads and self._is_anothers():
                    raise self._nothing("it does not run")
                return None
            time.sleep(PAUSE_S)

    def _control(self) -> "_socket.socket | None":
        """The owner's own socket, where work on the queue is on all of it; None for everybody else."""
        try:
            return connect(self._control_path())
        except OSError:
            return None

    def _control_path(self) -> bytes:
        return self._instance.socket.rpartition(b"/")[0] + b"/control"

    def _ask(self, why: str) -> int | None:
        """What became of a submission that was sent whole; None if nothing was queued."""
        deadline = time.monotonic() + ASK_S
        while (left := deadline - time.monotonic()) > 0:
            conversation = None
            try:
                conversation = Talk(connect(self._instance.socket), self._output.show)
                return conversation.ask(self._submission_id, left)
            except (OSError, Lost):
                time.sleep(min(PAUSE_S, left))
            finally:
                if conversation is not None:
                    conversation.close()
        raise self._failure(f"{why}; the message may have been queued, look at mailq before sending it again")

    def _nothing(self, why: str) -> Failure:
        return self._failure(f"{why}; nothing was queued, try again later")

    def _failure(self, words: str) -> Failure:
        return Failure(TEMPFAIL, f"the daemon at {shown(self._instance.socket)}: {words}")

    # Without a daemon: the rest of the package, in this process.

    def _config(self) -> str | None:
        return None if self._instance.config is None else to_text(self._instance.config)

    def _is_anothers(self) -> bool:
        """Whether we are neither root nor the queue's owner, whose `control` is: we may not write his queue.

        To hear that from `direct`, all who wait for a restart would load the package at once, and take from the daemon
        the time that it needs to come back.
        """
        try:
            return posix.geteuid() not in (0, posix.stat(self._control_path()).st_uid)
        except OSError:
            return False

    def _takes_over(self) -> bool:
        """Whether the daemon is dead and we may write its queue. Any doubt means waiting for the daemon."""
        try:
            if self._is_anothers():
                return False
            load_package()
            from pysendmail import direct

            return bool(direct.takes_over(self._config()))
        except Exception:
            return False

    def _directly(self) -> int:
        socket = shown(self._instance.socket)
        try:
            load_package()
            from pysendmail import direct
        except ImportError as error:
            raise Failure(
                TEMPFAIL, f"no daemon at {socket}, and no way without it ({error}); nothing was queued"
            ) from None
        self._output.said = True
        code = direct.run(
            tuple(self._request.argv),
            self._environment,
            self._source.chunks(),
            self._submission_id,
            self._config(),
            to_text(self._instance.socket),
        )
        flush_streams()
        return code


def load_package() -> None:
    """Make `pysendmail` and what it needs importable: not from the current directory, nor from inside it."""
    thin = __file__.rpartition("/")[0]
    parent = thin.rpartition("/")[0].rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != thin]
    # Before what `site` adds: the package that this client came with, not another that the interpreter has installed.
    if parent not in sys.path:
        sys.path.append(parent)
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # it was closed when the interpreter started, see steady_descriptors
            setattr(sys, name, open(fd, "w", closefd=False))  # noqa: SIM115 - it stays open


def flush_streams() -> None:
    """What `direct` has printed: _exit would drop it. Nobody there to read it is no failure."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib is not loaded for this
            stream.flush()
        except (OSError, ValueError):
            pass


# --- text and the way out


def to_bytes(text: str) -> bytes:
    """os.fsencode, without loading os."""
    return text.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def to_text(path: bytes) -> str:
    return path.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def shown(path: bytes) -> str:
    """For an error message: one line, whatever the name holds."""
    return ascii(path)[2:-1]


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def say(argv: "Sequence[bytes]", words: str) -> None:
    name = argv[0].rpartition(b"/")[2] if argv else b"sendmail"
    emit(2, name + b": " + words.replace("\n", " ").encode("utf-8", "backslashreplace") + b"\n", OUTPUT_S)


def main() -> None:
    """The stub's entry point. Leaves by _exit: tearing the interpreter down costs a millisecond or two."""
    argv = [to_bytes(word) for word in sys.argv]
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # die by it, rather than with a traceback
    code = TEMPFAIL
    command = None
    try:
        steady_descriptors()
        command = Command(argv, *trusted_environ())
        code = command.run()
    except Failure as failure:
        code = failure.code
        say(argv, failure.words)
    except Exception as error:  # of ours or of `direct`: say so, and let the caller try again
        reads = Request(argv).reads
        fate = "; the message may have been queued, look at mailq before sending it again" if reads else ""
        say(argv, f"internal error ({type(error).__name__}: {error}){fate}")
    if code == TEMPFAIL and command is not None and command.owes_greeting:
        no_greeting()
    if code and (request := Request(argv)).reads and not request.dialogue:
        drain()
    posix._exit(code)


def run() -> None:
    """The entry point of the scripts that pip writes."""
    main()
