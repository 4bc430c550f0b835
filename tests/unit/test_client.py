"""What the thin client decides before it connects: its reading of argv, and which instance."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysendmail import argv, frames, mailq
from pysendmail.argv import Mode, UsageError, Value
from pysendmail.install import OTHER_NAMES, PROGRAM
from pysendmail.thin import client
from pysendmail.thin.client import Failure, Given, Request, Source, absolute, find_instance, socket_line
from rig.command_lines import OPTIONS


@example("sendmail", ["-tx", "-O", "-Oi"])  # the value of -O, once taken for -oi
@example("mailq", ["-Oi"])  # once taken for -oi
@example("sendmail", ["-bs", "-q"])  # once taken for -q15m
@settings(max_examples=500)
@given(st.sampled_from((PROGRAM, *OTHER_NAMES)), OPTIONS)
def test_the_client_reads_argv_as_the_daemon_does(name: str, words: list[str]) -> None:
    """Whatever the daemon would accept, both agree on file, input, dots and dialogue."""
    raw = [os.fsencode(word) for word in (f"/usr/sbin/{name}", *words)]
    request = Request(raw)
    try:
        asked = argv.parse(raw)
    except UsageError:
        return  # refused, whatever the client makes of it
    assert request.config == (None if asked.config is None else os.fsencode(asked.config))
    assert request.reads == (asked.mode in (Mode.SUBMIT, Mode.SMTP, Mode.TEST))
    assert request.dialogue == (asked.mode in (Mode.SMTP, Mode.TEST))
    assert (request.dot_ends, request.verbose) == (asked.dot_ends, asked.verbose)
    assert request.table == mailq.is_table(asked)


def test_the_client_knows_which_options_take_a_value() -> None:
    """Its letters are those of the table."""
    single = {o.name[1]: o.value for o in argv.OPTIONS if len(o.name) == 2 and o.name[1] not in "boq"}
    assert set(client.TAKES_VALUE.decode()) == {
        letter for letter, value in single.items() if value is Value.REQUIRED
    } | {"b", "o"}
    assert set(client.TAKES_REST.decode()) == {
        letter for letter, value in single.items() if value is Value.ATTACHED
    } | {"q"}
    long = {o.name for o in argv.OPTIONS if o.name.startswith("--") and o.value is not Value.NONE}
    assert {name.decode() for name in client.LONG_TAKES_VALUE} == long


@given(st.lists(st.binary(max_size=6).map(lambda word: word.replace(b"\0", b"")), min_size=1, max_size=6))
def test_no_argv_upsets_the_client(words: list[bytes]) -> None:
    """Any octets: the daemon finds the words for what is wrong with them."""
    Request(words)


@pytest.mark.parametrize(
    "name",
    [name for name in vars(client) if name.isupper() and hasattr(frames, name)],
)
def test_the_client_has_the_constants_of_frames(name: str) -> None:
    """Its copy of the protocol is the protocol."""
    assert getattr(client, name) == getattr(frames, name)


def test_no_constant_of_the_protocol_is_missing() -> None:
    """Types and bounds that the client needs are named alike on both sides."""
    names = "VERSION HELLO ARGV ENVIRONMENT DATA END ASK STDOUT STDERR EXIT UNKNOWN HEADER_OCTETS ID_OCTETS"
    bounds = "MAX_ARGV_OCTETS MAX_ARGUMENTS MAX_ENVIRONMENT_OCTETS MAX_CHUNK"
    assert all(hasattr(module, name) for module in (client, frames) for name in f"{names} {bounds}".split())
    assert argv.MAX_ARGUMENTS == frames.MAX_ARGUMENTS
    assert client.ANSWER_S >= 3 * frames.ALIVE_S
    assert len(client.VARIABLES) * (client.MAX_VALUE_OCTETS + 64) <= frames.MAX_ENVIRONMENT_OCTETS


def test_the_clients_frames_are_frames() -> None:
    """What the client writes, the daemon's decoder reads."""
    opening = client.opening(bytes(16), [b"sendmail", b""], {b"NAME": b"A"})
    got = frames.Decoder().feed(opening + client.frame(client.DATA, b"x") + client.frame(client.END))
    assert [frame.kind for frame in got] == [b"V", b"A", b"E", b"D", b"Z"]
    assert frames.parse_hello(got[0].payload) == (1, bytes(16))
    assert frames.parse_argv(got[1].payload) == (b"sendmail", b"")
    assert frames.parse_environment(got[2].payload) == {b"NAME": b"A"}


@given(st.lists(st.sampled_from([b".", b"\n", b"\r", b"x"]), max_size=12), st.data())
def test_a_lone_dot_is_seen_across_any_cut(octets: list[bytes], data: st.DataObject) -> None:
    """A line that is a dot, ended by LF or CRLF, is never overlooked, wherever the pieces end."""
    text = b"".join(octets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    source = Source()
    edges = [0, *cuts, len(text)]
    seen = [source.has_lone_dot(text[a:b]) for a, b in itertools.pairwise(edges)]
    lone = any(line.rstrip(b"\r") == b"." for line in text.split(b"\n")[:-1])
    assert any(seen) or not lone


def test_given_input_is_cut_into_pieces() -> None:
    """Data of any size fits the frames."""
    source = Given(b"x" * (3 * client.READ + 1))
    assert [len(chunk) for chunk in source.chunks()] == [client.READ] * 3 + [1]


# Which instance


@given(st.text(alphabet="/.ab", max_size=12))
def test_absolute_is_abspath(path: str) -> None:
    """As os.path has it, but for its two leading slashes of POSIX."""
    expected = os.path.abspath("/" + path.lstrip("/") if path.startswith("//") else path)
    assert absolute(os.fsencode(path)).decode() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('socket = "/a"', "/a"),
        ('\ufeffsocket = "/a"', "/a"),
        ('[daemon]\n\tsocket="/a"# why\nsocket = "/b"', "/a"),
        ('hostname = "x"\r\n socket = "/a b"\r\n', "/a b"),
        ('# socket = "/a"', None),
        ('sockets = "/a"', None),
        ('x = 1 # socket = "/a"', None),
        ("socket = '/a'", None),
        ('socket = "/a\\u0041"', None),
        ('socket = "/a', None),
        ("socket", None),
        ("", None),
    ],
)
def test_the_line_that_names_the_socket(text: str, expected: str | None) -> None:
    """One form, which config_file insists on; everything else is no such line."""
    assert socket_line(text.encode()) == (None if expected is None else expected.encode())


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the system's configuration."""
    path = tmp_path / "etc.toml"
    monkeypatch.setattr(client, "SYSTEM_CONFIG", os.fsencode(path))
    return path


def own_file(home: Path, text: str = "") -> Path:
    path = home / ".config/pysendmail/pysendmail.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def found(named: bytes | None, environ: dict[str, str], uid: int) -> tuple[bytes | None, bytes]:
    instance = find_instance(named, {os.fsencode(k): os.fsencode(v) for k, v in environ.items()}, uid)
    return instance.config, instance.socket


def test_the_systems_instance_needs_no_file(system: Path, tmp_path: Path) -> None:
    """Without any configuration it is the system's socket, for root and for a user without a file."""
    for uid in (0, 1000):
        assert found(None, {"HOME": str(tmp_path)}, uid) == (None, b"/run/pysendmail/submit")


def test_the_systems_file_may_name_another_socket(system: Path, tmp_path: Path) -> None:
    """A readable default file counts; one that cannot be read is none of the caller's business."""
    system.write_text('socket = "/run/other"\n')
    assert found(None, {"HOME": str(tmp_path)}, 1000) == (None, b"/run/other")
    system.unlink()
    system.mkdir()
    assert found(None, {}, 0) == (None, b"/run/pysendmail/submit")


def test_a_users_own_file_makes_his_own_instance(system: Path, tmp_path: Path) -> None:
    """The socket below $XDG_RUNTIME_DIR, or where systemd would have it; never for root."""
    own = own_file(tmp_path)
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/x"}
    assert found(None, env, 1000) == (os.fsencode(own), b"/run/x/pysendmail/submit")
    assert found(None, env | {"XDG_RUNTIME_DIR": "x"}, 1000)[1] == b"/run/user/1000/pysendmail/submit"
    assert found(None, env, 0) == (None, b"/run/pysendmail/submit")
    own.write_text('socket = "/tmp/mine"\n')
    assert found(None, env, 1000)[1] == b"/tmp/mine"


def test_xdg_config_home_moves_the_users_file(system: Path, tmp_path: Path) -> None:
    """But a relative one is as good as none."""
    own = own_file(tmp_path)
    env = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    assert found(None, env, 1000)[0] == os.fsencode(own)
    assert found(None, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ".config"}, 1000)[0] == os.fsencode(own)


def test_home_comes_from_passwd_when_unset(system: Path) -> None:
    """Cron and others start programs with an empty environment; an unknown uid has no file."""
    import pwd

    entry = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    expected = os.fsencode(entry.pw_dir) + b"/.config/pysendmail/pysendmail.toml"
    assert client.user_config(entry.pw_uid, {}) == expected
    assert client.user_config(4_000_000_000, {}) is None


def test_a_named_file_wins(system: Path, tmp_path: Path) -> None:
    """-C before the environment, both before the user's own; an empty name is none."""
    own_file(tmp_path)
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    first.write_text('socket = "/one"\n')
    second.write_text("")
    env = {"HOME": str(tmp_path), "PYSENDMAIL_CONFIG": str(second)}
    assert found(os.fsencode(first), env, 1000) == (os.fsencode(first), b"/one")
    assert found(b"", env, 1000) == (os.fsencode(second), b"/run/pysendmail/submit")
    assert found(None, env, 0)[0] == os.fsencode(second)


def test_naming_ones_own_file_changes_nothing(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is spelled, it is the per-user instance, with its defaults."""
    own = own_file(tmp_path)
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/x"}
    monkeypatch.chdir(tmp_path)
    for named in (own, "./.config/pysendmail/../pysendmail/./pysendmail.toml"):
        assert found(os.fsencode(named), env, 1000)[1] == b"/run/x/pysendmail/submit"


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "NUL"])
def test_a_named_file_that_cannot_be_read_is_78(kind: str, tmp_path: Path) -> None:
    """At once, without waiting for somebody to write into it."""
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(Failure, match="nothing was queued") as failure:
        find_instance(os.fsencode(path) + (b"\0" if kind == "NUL" else b""), {}, 0)
    assert failure.value.code == 78


def test_a_relative_socket_is_78(tmp_path: Path) -> None:
    """It would depend on the current directory."""
    path = tmp_path / "x.toml"
    path.write_text('socket = "submit"\n')
    with pytest.raises(Failure) as failure:
        find_instance(os.fsencode(path), {}, 0)
    assert (failure.value.code, "absolute" in failure.value.words) == (78, True)
