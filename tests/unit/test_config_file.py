"""pysendmail.toml to a Config: which file, what it says, and every way in which it can be wrong."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import config as config_module
from pysendmail.config import Config, Kind, Smarthost
from pysendmail.config_file import (
    CLIENT_SOCKET_LINE,
    LAST_GOOD,
    MAX_FILE_OCTETS,
    ConfigError,
    Instance,
    load,
    load_last_good,
    load_or_last_good,
    locate,
    parse,
    queue_directory_of_broken,
    save_last_good,
)
from pysendmail.thin.client import socket_line

FILE = Path("/etc/pysendmail/pysendmail.toml")


def read(text: str) -> Config:
    return parse(text, Instance(path=FILE), machine_name=lambda: "box.example.com", mail_name=lambda: "")


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(text)
    lines = str(raised.value).split("\n")
    assert len(raised.value.problems) == len(lines)
    return [line.removeprefix(f"{FILE}:") for line in lines]


def smarthost(text: str) -> Smarthost:
    return read(f"[[smarthost]]\nhost = 'smtp.example.com'\n{text}").smarthost[0]


# What a good file says

GOOD: dict[str, tuple[str, str, object]] = {
    "no file: the machine's name": ("", "hostname", "box.example.com"),
    "no file: domain is the hostname": ("", "domain", "box.example.com"),
    "hostname given, domain follows": ("hostname = 'a.example'", "domain", "a.example"),
    "domain that is not ASCII": ("domain = 'bücher.example'", "domain", "xn--bcher-kva.example"),
    "address literal as hostname": ("hostname = '[192.0.2.1]'", "hostname", "[192.0.2.1]"),
    "no smarthost": ("", "smarthost", ()),
    "file for messages": ("", "file", FILE),
    "default directory": ("", "queue.directory", Path("/var/lib/pysendmail")),
    "duration": ("[queue]\nlifetime = '1h30m'", "queue.lifetime", 5400.0),
    "duration 0 as text": ("[queue]\nwarn_after = '0'", "queue.warn_after", 0.0),
    "duration 0 as number": ("[queue]\nwarn_after = 0", "queue.warn_after", 0.0),
    "size": ("[queue]\nmax_message_size = '10MiB'", "queue.max_message_size", 10 << 20),
    "dotted key": ("queue.lifetime = '2d'", "queue.lifetime", 172800.0),
    "inline table": ("queue = {lifetime = '2d'}", "queue.lifetime", 172800.0),
    "whole number as factor": ("[retry]\nfactor = 3", "retry.factor", 3.0),
    "from": ("[rewrite]\nfrom = 'qualify'", "rewrite.from_", "qualify"),
    "listen": (
        "[daemon]\nlisten = ['127.0.0.1:2525', '[::1]:2525']",
        "daemon.listen",
        ("127.0.0.1:2525", "[::1]:2525"),
    ),
    "control beside socket": ('[daemon]\nsocket = "/x/submit"', "daemon.control", Path("/x/control")),
    "catch_all": ("[aliases]\ncatch_all = 'a@b.example'", "aliases.catch_all", "a@b.example"),
    "no aliases": ("[aliases]\nfile = ''", "aliases.file", ""),
    "masquerade": ("[rewrite]\nmasquerade = ['a.example']", "rewrite.masquerade", ("a.example",)),
    "BOM-less comment only": ("# nothing\n", "smarthost", ()),
}


@pytest.mark.parametrize(("text", "path", "expected"), GOOD.values(), ids=GOOD.keys())
def test_value(text: str, path: str, expected: object) -> None:
    """A key's value arrives in the unit and form that Config promises."""
    value: Any = read(text)
    for name in path.split("."):
        value = getattr(value, name)
    assert expected == value


SMARTHOSTS: dict[str, tuple[str, str, object]] = {
    "name is the host": ("", "name", "smtp.example.com"),
    "port": ("", "port", 587),
    "may without credentials": ("", "tls", "may"),
    "verify with credentials": ("username = 'box'", "tls", "verify"),
    "what is written holds, credentials or not": ("username = 'box'\ntls = 'may'", "tls", "may"),
    "an empty username is none": ("username = ''", "tls", "may"),
    "implicit TLS on 465": ("port = 465", "tls_implicit", True),
    "implicit TLS on 465 denied": ("port = 465\ntls_implicit = false", "tls_implicit", False),
    "no implicit TLS elsewhere": ("", "tls_implicit", False),
    "no rate": ("rate = ''", "rate", None),
    "rate": ("rate = '30/m'", "rate", (30, 60.0)),
    "rate a day": ("rate = '500/d'", "rate", (500, 86400.0)),
    "mechanisms in any case": ("username = 'u'\nauth = ['plain', 'Login', 'PLAIN']", "auth", ("PLAIN", "LOGIN")),
    "fingerprint as openssl prints it": (
        f"tls = 'fingerprint'\ntls_fingerprints = ['{':'.join(['AB'] * 32)}']",
        "tls_fingerprints",
        ("ab" * 32,),
    ),
    "from": ("from = 'force'\nforce_from = 'a@b.example'", "from_", "force"),
    "command with equal words": (
        "username = 'u'\npassword_command = ['x', '-v', '-v']",
        "password_command",
        ("x", "-v", "-v"),
    ),
}


@pytest.mark.parametrize(("text", "name", "expected"), SMARTHOSTS.values(), ids=SMARTHOSTS.keys())
def test_smarthost(text: str, name: str, expected: object) -> None:
    """A smarthost's keys, and the defaults that depend on its other keys."""
    assert expected == getattr(smarthost(text), name)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("[::1]", "::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
    ],
)
def test_host(host: str, expected: str) -> None:
    """A host is a name or an address, in the form that the resolver and the certificate need; the name follows it."""
    found = read(f"[[smarthost]]\nhost = '{host}'").smarthost[0]
    assert (expected, expected) == (found.host, found.name)


def test_names_are_not_asked_when_given() -> None:
    """A file that names host and domain costs no look-up."""

    def never() -> str:
        raise AssertionError("asked")

    config = parse(
        "hostname = 'a.example'\ndomain = 'b.example'", Instance(path=FILE), machine_name=never, mail_name=never
    )
    assert (config.hostname, config.domain) == ("a.example", "b.example")


def test_mail_name_goes_before_hostname() -> None:
    """domain is /etc/mailname where there is one."""
    config = parse("", Instance(path=FILE), machine_name=lambda: "box.example.com", mail_name=lambda: "example.com")
    assert (config.hostname, config.domain) == ("box.example.com", "example.com")


def test_the_example_of_the_manual_order() -> None:
    """Smarthosts and routes keep the order of the file."""
    text = "".join(f"[[smarthost]]\nhost = '{name}.example'\nname = '{name}'\n" for name in "cab")
    text += "[[route]]\nsender = '*@X.example'\nsmarthost = ['b', 'a']\n"
    config = read(text)
    assert [host.name for host in config.smarthost] == ["c", "a", "b"]
    assert config.route[0].smarthost == ("b", "a")
    assert config.route[0].recipient == "*"


# What is wrong with a bad one

HOST = "[[smarthost]]\nhost = 'a.example'\n"
PINS = "tls_fingerprints = ['" + "0" * 64 + "']\n"
# text, what the one line of the error begins with ("LINE: KEY: "), a word that must stand in it
BAD: dict[str, tuple[str, str, str]] = {
    "syntax": ("a = 1\n[queue\n", "2: ", "not TOML"),
    "no quotes": ("[queue]\nlifetime = 5d\n", "2: queue.lifetime: ", "quotes"),
    "no quotes, a word": ("[rewrite]\nfrom = keep\n", "2: rewrite.from: ", "quotes"),
    "no value": ("[queue]\nlifetime =\n", "2: queue.lifetime: ", "not TOML"),
    "text that never ends": ("[queue]\ndirectory = '''x\n[retry]\n", "2: queue.directory: ", "not TOML"),
    "key twice": ("hostname = 'a'\nhostname = 'b'\n", "2: hostname: ", "not TOML"),
    "table twice": ("[queue]\n[retry]\n[queue]\n", "3: queue: ", "not TOML"),
    "unknown key": ("[queue]\nlifetme = '5d'\n", "2: queue.lifetme: ", 'did you mean "lifetime"?'),
    "unknown key above the tables": ("hostnam = 'x'\n", "1: hostnam: ", 'did you mean "hostname"?'),
    "unknown table": ("[quue]\n", "1: quue: ", 'did you mean "queue"?'),
    "unknown list": ("[[smarthosts]]\n", "1: smarthosts: ", 'did you mean "smarthost"?'),
    "key of another table": ("lifetime = '5d'\n", "1: lifetime: ", "[queue]"),
    "key of the top in a table": ("[queue]\ndomain = 'x'\n", "2: queue.domain: ", "at the top of the file"),
    "a field that the file has not": ("file = '/x'\n", "1: file: ", "[aliases]"),
    "the Python name of a key": ("[rewrite]\nfrom_ = 'keep'\n", "2: rewrite.from_: ", 'did you mean "from"?'),
    "quoted unknown key": ("[queue]\n'a b' = 1\n", '2: queue."a b": ', "no such key"),
    "wrong type: number for text": ("hostname = 5\n", "1: hostname: ", "quotes"),
    "wrong type: text for number": ("[queue]\nmax_recipients = '10'\n", "2: queue.max_recipients: ", "whole number"),
    "wrong type: true for number": ("[queue]\nmax_recipients = true\n", "2: queue.max_recipients: ", "whole number"),
    "wrong type: fraction for number": ("[queue]\nmax_recipients = 1.5\n", "2: queue.max_recipients: ", "whole number"),
    "wrong type: text for switch": (f"{HOST}auth_in_clear = 'yes'\n", "3: smarthost.auth_in_clear: ", "true or false"),
    "wrong type: text for list": (f"{HOST}auth = 'PLAIN'\n", "3: smarthost.auth: ", "list"),
    "wrong type: number in list": (f"{HOST}auth = [1]\n", "3: smarthost.auth: ", "list"),
    "wrong type: date": ("[queue]\nlifetime = 2026-01-01\n", "2: queue.lifetime: ", "a date or time"),
    "wrong type: text for table": ("queue = 'x'\n", "1: queue: ", "[queue]"),
    "wrong type: list for table": ("[[queue]]\n", "1: queue: ", "single brackets"),
    "wrong type: table for list": ("[smarthost]\nhost = 'x'\n", "1: smarthost: ", "[[smarthost]]"),
    "wrong type: text in list of tables": ("smarthost = [\n'x']\n", "2: smarthost: ", "[[smarthost]]"),
    "number without quotes where there is a choice": (
        f"{HOST}tls_minimum = 1.3\n",
        "3: smarthost.tls_minimum: ",
        '"1.3"',
    ),
    "duration without unit": ("[queue]\nlifetime = 5\n", "2: queue.lifetime: ", "5d"),
    "duration with unit of nobody": ("[queue]\nlifetime = '5 days'\n", "2: queue.lifetime: ", "5d"),
    "duration 0 where it makes no sense": ("[timeout]\nconnect = '0'\n", "2: timeout.connect: ", "out of bounds"),
    "duration of centuries": ("[queue]\nlifetime = '9999d'\n", "2: queue.lifetime: ", "3650d"),
    "size with unit of nobody": ("[queue]\nreserve = '5 Megs'\n", "2: queue.reserve: ", "MiB"),
    "size of nothing": ("[queue]\nmax_message_size = '1B'\n", "2: queue.max_message_size: ", "out of bounds"),
    "port 0": (f"{HOST}port = 0\n", "3: smarthost.port: ", "65535"),
    "port 65536": (f"{HOST}port = 65536\n", "3: smarthost.port: ", "65535"),
    "factor below 1": ("[retry]\nfactor = 0.5\n", "2: retry.factor: ", "from 1"),
    "factor infinite": ("[retry]\nfactor = inf\n", "2: retry.factor: ", "not a number"),
    "jitter of 1": ("[retry]\njitter = 1.0\n", "2: retry.jitter: ", "0.9"),
    "maximum below first": ("[retry]\nfirst = '2h'\nmaximum = '1h'\n", "3: retry.maximum: ", "first"),
    "bad hostname": ("hostname = 'a b'\n", "1: hostname: ", "not a domain"),
    "bad hostname, newline": ('hostname = "a\\nb"\n', "1: hostname: ", "\\x0a"),
    "hostname with final dot": ("hostname = 'a.example.'\n", "1: hostname: ", "final dot"),
    "empty hostname": ("hostname = ''\n", "1: hostname: ", "not a domain"),
    "address as domain": ("domain = '@example.com'\n", "1: domain: ", "not a domain"),
    "bad address literal": ("hostname = '[x]'\n", "1: hostname: ", "address literal"),
    "host missing": ("[[smarthost]]\nport = 25\n", "1: smarthost.host: ", "missing"),
    "host with port": ("[[smarthost]]\nhost = 'a.example:25'\n", "2: smarthost.host: ", "port = ..."),
    "host with scheme": ("[[smarthost]]\nhost = 'smtp://a.example'\n", "2: smarthost.host: ", "not a domain"),
    "host: half an address": ("[[smarthost]]\nhost = '192.0.2'\n", "2: smarthost.host: ", "not an address"),
    "name with a slash": (f"{HOST}name = '../x'\n", "3: smarthost.name: ", "not a name"),
    "names twice": (f"{HOST}{HOST}port = 26\n", "3: smarthost.name: ", "line 1"),
    "TLS level of nobody": (f"{HOST}tls = 'required'\n", "3: smarthost.tls: ", '"verify"'),
    "TLS level nearly": (f"{HOST}tls = 'encrypted'\n", "3: smarthost.tls: ", 'did you mean "encrypt"?'),
    "implicit TLS with none": (f"{HOST}tls_implicit = true\ntls = 'none'\n", "3: smarthost.tls_implicit: ", "none"),
    "port 465 with none": (f"{HOST}port = 465\ntls = 'none'\n", "4: smarthost.tls: ", "tls_implicit = false"),
    "fingerprint without pins": (f"{HOST}tls = 'fingerprint'\n", "3: smarthost.tls: ", "tls_fingerprints"),
    "pins without fingerprint": (f"{HOST}{PINS}", "3: smarthost.tls_fingerprints: ", '"fingerprint"'),
    "SHA-1 pin": (
        f"{HOST}tls='fingerprint'\ntls_fingerprints = ['{'0' * 40}']\n",
        "4: smarthost.tls_fingerprints: ",
        "SHA-1",
    ),
    "relative CA file": (f"{HOST}tls_ca_file = 'ca.pem'\n", "3: smarthost.tls_ca_file: ", "absolute"),
    "file and command": (
        f"{HOST}username = 'u'\npassword_file = '/x'\npassword_command = ['x']\n",
        "5: smarthost.password_command: ",
        "password_file",
    ),
    "file without username": (f"{HOST}password_file = '/x'\n", "3: smarthost.password_file: ", "username"),
    "command without username": (f"{HOST}password_command = ['x']\n", "3: smarthost.password_command: ", "username"),
    "auth without username": (f"{HOST}auth = ['PLAIN']\n", "3: smarthost.auth: ", "username"),
    "command as text": (
        f"{HOST}username='u'\npassword_command = 'pass x'\n",
        "4: smarthost.password_command: ",
        "list",
    ),
    "mechanism of nobody": (f"{HOST}username='u'\nauth = ['NTLM']\n", "4: smarthost.auth: ", "CRAM-MD5"),
    "username with newline": (f'{HOST}username = "a\\nb"\n', "3: smarthost.username: ", "control"),
    "rate without unit": (f"{HOST}rate = '30'\n", "3: smarthost.rate: ", "30/m"),
    "rate of 0": (f"{HOST}rate = '0/m'\n", "3: smarthost.rate: ", "30/m"),
    "rate as number": (f"{HOST}rate = 30\n", "3: smarthost.rate: ", "quotes"),
    "force without force_from": ("[rewrite]\nfrom = 'force'\n", "2: rewrite.from: ", "force_from"),
    "force for one without force_from": (f"{HOST}from = 'force'\n", "3: smarthost.from: ", "force_from"),
    "force for all, one without force_from": (f"{HOST}[rewrite]\nfrom = 'force'\n", "4: rewrite.from: ", "force_from"),
    "force_from without a domain": (f"{HOST}force_from = 'box'\n", "3: smarthost.force_from: ", "domain"),
    "force_from no address": (f"{HOST}force_from = 'a b@c.example'\n", "3: smarthost.force_from: ", "not an address"),
    "route to nobody": (
        f"{HOST}[[route]]\nsmarthost = ['b.example']\n",
        "4: route.smarthost: ",
        'did you mean "a.example"?',
    ),
    "route without any smarthost": (
        "[[route]]\nsmarthost = ['x']\n",
        "2: route.smarthost: ",
        "no [[smarthost]] at all",
    ),
    "route to none": ("[[route]]\nsmarthost = []\n", "2: route.smarthost: ", "empty"),
    "route as text": (f"{HOST}[[route]]\nsmarthost = 'a.example'\n", "4: route.smarthost: ", "list"),
    "route without smarthost": ("[[route]]\nsender = '*'\n", "1: route.smarthost: ", "missing"),
    "empty pattern": (
        f"{HOST}[[route]]\nsmarthost = ['a.example']\nsender = ''\n",
        "5: route.sender: ",
        '"*" is everything',
    ),
    "listen to the network": ("[daemon]\nlisten = ['0.0.0.0:2525']\n", "2: daemon.listen: ", "loopback"),
    "listen without port": ("[daemon]\nlisten = ['127.0.0.1']\n", "2: daemon.listen: ", "127.0.0.1:2525"),
    "listen on a name": ("[daemon]\nlisten = ['localhost:25']\n", "2: daemon.listen: ", "127.0.0.1:2525"),
    "relative directory": ("[queue]\ndirectory = 'queue'\n", "2: queue.directory: ", "absolute"),
    "home directory": ("[queue]\ndirectory = '~/queue'\n", "2: queue.directory: ", "~"),
    "socket's path too long": (f'[daemon]\nsocket = "/{"x" * 110}/submit"\n', "2: daemon.socket: ", "too long"),
    "socket called control": ('[daemon]\nsocket = "/run/control"\n', "2: daemon.socket: ", "another name"),
    "socket that the client cannot read: quotes": (
        "[daemon]\nsocket = '/x/submit'\n",
        "2: daemon.socket: ",
        "would not find",
    ),
    "socket that the client cannot read: dotted": (
        'daemon.socket = "/x/submit"\n',
        "1: daemon.socket: ",
        "would not find",
    ),
    "another table's socket": ('[queue]\nsocket = "/x"\n', "2: queue.socket: ", "[daemon]"),
    "user with a space": (
        "[access]\nauthorized_submitters = ['a b']\n",
        "2: access.authorized_submitters: ",
        "user name",
    ),
    "policy of nobody": ("[access]\nsender_policy = 'on'\n", "2: access.sender_policy: ", '"enforce"'),
    "postmaster empty": ("[bounce]\npostmaster = ''\n", "2: bounce.postmaster: ", "empty"),
    "bounce sender without domain": ("[bounce]\nsender = 'x'\n", "2: bounce.sender: ", "domain"),
    "a number beyond all bounds": (f"[queue]\nmax_recipients = {'9' * 5000}\n", "2: queue.max_recipients: ", ""),
}


@pytest.mark.parametrize(("text", "begins", "word"), BAD.values(), ids=BAD.keys())
def test_error_names_file_line_and_key(text: str, begins: str, word: str) -> None:
    """One mistake gives one line, which begins with file, line and key and says what to do."""
    (line,) = errors(text)
    assert line.startswith(begins)
    assert word in line
    assert len(line) < 400


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    """Several mistakes in several tables come in one error, a line each."""
    text = "hostnam = 'x'\n[retry]\njitter = 2\n[queue]\nlifetime = 5\nreserv = '1B'\n[[smarthost]]\nport = 0\n"
    assert [line.partition(":")[0] for line in errors(text)] == ["1", "3", "5", "6", "7", "8"]


def test_mistakes_in_one_smarthost_do_not_make_others_up() -> None:
    """A smarthost with a bad port is still there for the route that names it."""
    (line,) = errors("[[smarthost]]\nhost = 'a.example'\nport = 'x'\n[[route]]\nsmarthost = ['a.example']\n")
    assert line.startswith("3: smarthost.port: ")


@pytest.mark.parametrize(
    "text",
    [
        f"{HOST}password = 'hunter2'",
        f"{HOST}username = 'u'\npassword_file = 'hunter2'",
        f"{HOST}username = 'u'\npassword_command = 'hunter2'",
        f"{HOST}username = 'u'\npassword_file = ['hunter2']",
        f"{HOST}username = ['hunter2']",
        f"{HOST}username = 'u'\npassword = hunter2",
        '"""\npassword = \'hunter2\'\n"""',
    ],
)
def test_no_secret_in_an_error(text: str) -> None:
    """A password written where none belongs is not repeated in the error."""
    assert "hunter2" not in "".join(errors(text))


def test_error_text_is_printable() -> None:
    """Escape sequences in the file do not reach the terminal."""
    assert "\x1b" not in "".join(errors('hostname = "\\u001b[2J"\n"\\u001b" = 1\n'))


def test_every_field_has_a_form_in_the_file() -> None:
    """Each key of config.py has a reader: a new one cannot be forgotten."""
    tables = [Config, *(t for t in vars(config_module).values() if is_dataclass(t) and t not in (Config, Kind))]
    assert len(tables) > 10
    for table in tables:
        for name, hint in get_type_hints(table, include_extras=True).items():
            if get_origin(hint) is Annotated:
                assert isinstance(get_args(hint)[1], Kind), name
    read("")
    assert {"file"} == {f.name for f in fields(Config)} - set(
        re.findall(
            r"\w+",
            "hostname domain queue daemon access retry smarthost timeout route aliases rewrite headers bounce alarm "
            "metrics",
        )
    )


@given(
    st.lists(
        st.sampled_from(["socket", " ", "\t", "=", '"', "'", "/x", "\\", "#", "\r", "\n", "[daemon]"]), max_size=12
    )
)
def test_client_and_loader_find_the_same_socket(pieces: list[str]) -> None:
    """The line that this module takes for the client's is the one that the client takes, in any text."""
    text = "".join(pieces)
    match = CLIENT_SOCKET_LINE.search(text)
    assert socket_line(text.encode()) == (match[1].encode() if match else None)


# The file itself


def test_missing_default_file_is_all_defaults(tmp_path: Path) -> None:
    """Without a file there is an instance all the same, without a smarthost."""
    assert load(Instance(path=tmp_path / "none.toml")).smarthost == ()


def test_missing_named_file_is_an_error(tmp_path: Path) -> None:
    """A file that somebody named must be there."""
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        load(Instance(path=tmp_path / "none.toml", explicit=True))


def test_not_utf_8(tmp_path: Path) -> None:
    """A file in another encoding is refused with the line of the first bad octet."""
    file = tmp_path / "x.toml"
    file.write_bytes(b"# fine\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"x\.toml:2: it is not UTF-8"):
        load(Instance(path=file))


def test_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    """An editor's byte order mark is no error, and counts as no line."""
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xef\xbb\xbfhostname = 'a.example'\n")
    assert load(Instance(path=file)).hostname == "a.example"


def test_not_a_file(tmp_path: Path) -> None:
    """A directory or a FIFO is refused at once, without waiting for a writer."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ConfigError, match="not a file"):
            load(Instance(path=path))


def test_too_large(tmp_path: Path) -> None:
    """A file beyond the bound is refused before it is parsed."""
    file = tmp_path / "x.toml"
    file.write_bytes(b"#" * (MAX_FILE_OCTETS + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(Instance(path=file))


# Which file

USER = Path(".config/pysendmail/pysendmail.toml")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    file = tmp_path / USER
    file.parent.mkdir(parents=True)
    file.touch()
    return tmp_path


def test_own_file_makes_a_user_instance(home: Path) -> None:
    """A user with a file of his own has an instance of his own, with its queue and socket."""
    found = locate(None, {"HOME": str(home)}, 1000)
    assert (
        Instance(
            path=home / USER,
            user=True,
            queue_directory=home / ".local/state/pysendmail",
            socket=Path("/run/user/1000/pysendmail/submit"),
        )
        == found
    )


def test_xdg_directories(home: Path) -> None:
    """The XDG variables move file, queue and socket."""
    environ = {
        "HOME": "/nowhere",
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": "/s",
        "XDG_RUNTIME_DIR": "/r",
    }
    found = locate(None, environ, 1000)
    assert (home / USER, Path("/s/pysendmail"), Path("/r/pysendmail/submit")) == (
        found.path,
        found.queue_directory,
        found.socket,
    )


def test_home_from_passwd(home: Path) -> None:
    """cron and daemons run without HOME: then passwd has it."""
    assert locate(None, {}, 1000, lambda _uid: str(home)).user


def test_unknown_uid_has_the_system_instance() -> None:
    """A uid without an entry in passwd (a container) is no error."""

    def nobody(_uid: int) -> str:
        raise KeyError

    assert Instance(path=FILE) == locate(None, {}, 4242, nobody)


def test_root_has_the_system_instance(home: Path) -> None:
    """Root never has an instance of his own, whatever lies in his home."""
    assert Instance(path=FILE) == locate(None, {"HOME": str(home)}, 0)


def test_no_own_file_is_the_system_instance(tmp_path: Path) -> None:
    """A user without a file of his own uses the machine's."""
    assert Instance(path=FILE) == locate(None, {"HOME": str(tmp_path)}, 1000)


def test_argument_goes_before_the_environment(home: Path) -> None:
    """-C wins over $PYSENDMAIL_CONFIG, which wins over the user's own file."""
    environ = {"HOME": str(home), "PYSENDMAIL_CONFIG": "/env.toml"}
    assert Instance(path=Path("/arg.toml"), explicit=True) == locate("/arg.toml", environ, 1000)
    assert Instance(path=Path("/env.toml"), explicit=True) == locate(None, environ, 1000)
    assert locate(None, {**environ, "PYSENDMAIL_CONFIG": ""}, 1000).user


def test_naming_ones_own_file_is_still_ones_own_instance(home: Path) -> None:
    """-C with the path that would have been found anyway changes nothing but that it must exist."""
    found = locate(str(home / USER), {"HOME": str(home)}, 1000)
    assert found.user and found.explicit


def test_relative_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is one from the current directory, made absolute for messages."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "x.toml" == locate("x.toml", {}, 0).path


def test_relative_xdg_is_ignored(home: Path) -> None:
    """XDG: relative paths in these variables are invalid."""
    assert locate(None, {"HOME": str(home), "XDG_CONFIG_HOME": "conf"}, 1000).user


# The last good copy


def test_last_good_survives(tmp_path: Path) -> None:
    """The copy that was saved is the configuration that comes back, named by the file it stands for; 0600."""
    instance = Instance(path=FILE, queue_directory=tmp_path)
    save_last_good("hostname = 'a.example'\n", tmp_path)
    save_last_good("hostname = 'b.example'\n", tmp_path)
    found = load_last_good(tmp_path, instance)
    assert (found.hostname, found.file) == ("b.example", FILE)
    assert os.listdir(tmp_path) == [LAST_GOOD]
    assert stat.S_IMODE((tmp_path / LAST_GOOD).stat().st_mode) == 0o600


def test_save_after_a_crash_in_the_middle(tmp_path: Path) -> None:
    """What a crash left half written is neither used nor in the way; a link in its place is not followed."""
    (tmp_path / "other").write_text("other")
    (tmp_path / f"{LAST_GOOD}.new").symlink_to(tmp_path / "other")
    save_last_good("hostname = 'a.example'\n", tmp_path)
    assert (tmp_path / "other").read_text() == "other"
    assert load_last_good(tmp_path, Instance(path=FILE)).hostname == "a.example"


def test_no_last_good_is_a_config_error(tmp_path: Path) -> None:
    """Without a copy the error says so."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_last_good(tmp_path, Instance(path=FILE))


def test_broken_file_gives_the_last_good_one(tmp_path: Path) -> None:
    """A broken file gives way to the last good one, with the reason; the queue's directory is found in it."""
    file, queue = tmp_path / "x.toml", tmp_path / "queue"
    queue.mkdir()
    good = f"[queue]\ndirectory = '{queue}'\n"
    save_last_good(good, queue)
    file.write_text(f"{good}lifetime = 5d\n")
    loaded = load_or_last_good(Instance(path=file))
    assert (queue, good) == (loaded.config.queue.directory, loaded.text)
    assert loaded.error is not None and "x.toml:3: queue.lifetime" in str(loaded.error)
    file.write_text(good)
    assert load_or_last_good(Instance(path=file)).error is None


def test_broken_file_without_a_last_good_one(tmp_path: Path) -> None:
    """With no copy the error of the file itself comes out."""
    file = tmp_path / "x.toml"
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"x\.toml:1: x: there is no such key"):
        load_or_last_good(Instance(path=file, queue_directory=tmp_path))


def test_the_copy_of_another_queue_is_none(tmp_path: Path) -> None:
    """Copied along with a queue, or put there by its owner: it leads root, who reads it, to no other directory."""
    file, queue = tmp_path / "x.toml", tmp_path / "queue"
    queue.mkdir()
    save_last_good("[queue]\ndirectory = '/etc'\n", queue)
    file.write_text(f"[queue]\ndirectory = '{queue}'\nlifetime = 5d\n")
    with pytest.raises(ConfigError, match=r"x\.toml:3: queue\.lifetime"):
        load_or_last_good(Instance(path=file))


def test_a_named_file_that_is_missing_does_not_start_another_queue(tmp_path: Path) -> None:
    """The good copy beside the system's queue is the system's; -C with a wrong name must not run that."""
    save_last_good("hostname = 'system.example'\n", tmp_path)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_or_last_good(Instance(path=tmp_path / "missing.toml", explicit=True, queue_directory=tmp_path))


DIRECTORIES = {
    "in its table": ("[queue]\ndirectory = '/q' # x\nlifetime = 5d\n", Path("/q")),
    "after the mistake": ('a = b\n[queue]\ndirectory = "/q"\n', Path("/q")),
    "dotted": ("queue.directory = '/q'\nx\n", Path("/q")),
    "of a valid text": ("queue = {directory = '/q'}\nunknown = 1\n", Path("/q")),
    "another table's": ("[x]\ndirectory = '/q'\ny\n", None),
    "dotted in another table": ("[x]\nqueue.directory = '/q'\ny\n", None),
    "relative": ("[queue]\ndirectory = 'q'\n", None),
    "not text": ("[queue]\ndirectory = 5\n", None),
    "none": ("", None),
    "queue is no table": ("queue = 5\n", None),
    "commented out": ("[queue]\n#directory = '/q'\ny\n", None),
}


@pytest.mark.parametrize(("text", "expected"), DIRECTORIES.values(), ids=DIRECTORIES.keys())
def test_queue_directory_of_a_broken_file(text: str, expected: Path | None) -> None:
    """Where the last good copy lies is found in a file that cannot be used."""
    assert expected == queue_directory_of_broken(text)
