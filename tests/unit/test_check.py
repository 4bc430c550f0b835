"""`pysendmail check`: what it finds, with file, key and mend, and what it leaves in peace."""

from __future__ import annotations

import os
import pwd
import sqlite3
import threading
from pathlib import Path

import pytest

from pysendmail import check, schema, spool
from pysendmail.check import Finding, Level, Owner
from pysendmail.config import Config
from pysendmail.config_file import Instance, parse, save_last_good
from rig.store import config

NAMES = "hostname = 'box.example.com'\ndomain = 'example.com'\n"
HOST = "[[smarthost]]\nhost = '127.0.0.1'\n"
FAR = "[[smarthost]]\nhost = '192.0.2.1'\n"


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    directory = tmp_path / "queue"
    directory.mkdir(mode=0o700)
    return directory


def instance(tmp_path: Path, text: str) -> Instance:
    """An instance that has nothing wrong with it but what `text` adds."""
    file = tmp_path / "x.toml"
    file.write_text(f"{NAMES}aliases.file = ''\n{text}")
    file.chmod(0o644)
    return Instance(path=file, explicit=True, queue_directory=tmp_path / "queue")


def parsed(text: str) -> Config:
    return parse(text, Instance(path=Path("/x.toml")))


def important(findings: list[Finding]) -> list[str]:
    """Without notes, and without what depends on the disk that the tests run on."""
    return [str(f) for f in findings if f.level is not Level.NOTE and "is on tmpfs" not in f.text]


def test_nothing_to_find(tmp_path: Path, queue: Path) -> None:
    """A sound instance gives no finding and exit code 0."""
    found = check.run(instance(tmp_path, HOST))
    assert important(found) == []
    assert check.exit_code(found) == 0
    assert check.render([]) == "nothing found\n"


# text after the names, what the finding begins with, a word in it
CONFIGURATION = {
    "no smarthost": ("", "error: /x.toml: smarthost: ", "cannot leave"),
    "credentials that can never be used": (
        f"{HOST}username='u'\npassword_file='/x'\ntls='none'\n",
        "error: ",
        "auth_in_clear",
    ),
    "credentials in clear across the network": (
        f"{FAR}username='u'\npassword_file='/x'\ntls='none'\nauth_in_clear=true\n",
        "warning: /x.toml: smarthost 192.0.2.1: auth_in_clear: ",
        "cross the network",
    ),
    "credentials for whoever asks": (f"{FAR}username='u'\npassword_file='/x'\ntls='may'\n", "warning: ", '"verify"'),
    "mail in clear": (f"{FAR}tls='none'\n", "warning: /x.toml: smarthost 192.0.2.1: tls: ", "everybody"),
    "implicit TLS where there is none": (f"{FAR}port=587\ntls_implicit=true\n", "warning: ", "465"),
    "force_from without force": (f"{HOST}force_from='a@b.example'\n", "warning: ", 'from = "force"'),
    "force_from of all without force": (
        f"{HOST}[rewrite]\nforce_from='a@b.example'\n",
        "warning: /x.toml: rewrite.force_from: ",
        'from = "force"',
    ),
    "a provider that takes one address": (
        "[[smarthost]]\nhost='smtp.gmail.com'\nusername='u'\npassword_file='/x'\n",
        "note: /x.toml: smarthost smtp.gmail.com: from: ",
        'from = "force"',
    ),
    "no source of the password": (f"{HOST}username='u'\n", "note: ", "smarthost.127.0.0.1.password"),
    "certificate that nobody sees": (f"{HOST}tls='none'\ntls_client_certificate='/x'\n", "warning: ", "never shown"),
    "a route behind one that takes all": (
        f"{HOST}[[route]]\nsmarthost=['127.0.0.1']\n[[route]]\nsmarthost=['127.0.0.1']\n",
        "warning: /x.toml: route: ",
        "never used",
    ),
    "notice after the end": (
        f"{HOST}[queue]\nlifetime='1h'\n",
        "warning: /x.toml: queue.warn_after: ",
        "expires before",
    ),
}


@pytest.mark.parametrize(("text", "begins", "word"), CONFIGURATION.values(), ids=CONFIGURATION.keys())
def test_configuration_that_cannot_be_meant(text: str, begins: str, word: str) -> None:
    """A combination of keys that is allowed but does not work has one finding, with its mend."""
    config = parsed(NAMES + text)
    (found,) = [*check.of_smarthosts(config), *check.of_routes(config), *check.of_names(config)]
    assert str(found).startswith(begins)
    assert word in str(found)
    assert found.mend


SOUND = {
    "credentials in clear on this machine": f"{HOST}username='u'\npassword_file='/x'\ntls='none'\nauth_in_clear=true\n",
    "in clear on this machine": f"{HOST}tls='none'\n",
    "credentials and a checked certificate": f"{FAR}username='u'\npassword_file='/x'\n",
    "force": f"{HOST}from='force'\nforce_from='a@b.example'\n",
    "force of all for one": f"{HOST}from='force'\n[rewrite]\nforce_from='a@b.example'\n",
    "qualify": f"{HOST}[rewrite]\nfrom='qualify'\nmasquerade=['a.example']\n",
    "no notices": f"{HOST}[queue]\nlifetime='1h'\nwarn_after='0'\n",
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND.keys())
def test_configuration_that_is_sound(text: str) -> None:
    """What works as it is written is left in peace."""
    config = parsed(NAMES + text)
    assert [*check.of_smarthosts(config), *check.of_routes(config), *check.of_names(config)] == []


def test_names(tmp_path: Path) -> None:
    """A machine without a domain, or with everybody's, is told what becomes of root."""
    file = tmp_path / "aliases"
    text = f"hostname = 'box'\ndomain = 'gmail.com'\n[aliases]\nfile = '{file}'\n"
    first, second = check.of_names(parsed(text))
    assert (first.key, second.key, second.level) == ("hostname", "domain", check.Level.ERROR)
    assert "mail for root is refused" in str(second)
    sound = text.replace("box", "a.b")
    assert list(check.of_names(parsed(f"{sound}catch_all = 'a@b.example'\n"))) == []
    file.write_text("root: a@b.example\n")
    (found,) = check.of_names(parsed(sound))
    assert found.level is check.Level.WARNING and "local names without alias are refused" in str(found)
    (found,) = check.of_names(parsed(f"{sound}catch_all = 'a@b.example'\n[rewrite]\nmasquerade = ['b.lan']\n"))
    assert found.key == "rewrite.masquerade"


def test_broken_file(tmp_path: Path, queue: Path) -> None:
    """Every mistake is a finding with its line; what the last good copy shows is looked at all the same."""
    broken = instance(tmp_path, "lifetime = '5d'\nretries = 3\n")
    found = check.run(broken)
    assert [f"error: {broken.path}:4: lifetime: ", f"error: {broken.path}:5: retries: "] == [
        str(f).split("there is")[0] for f in found
    ]
    assert check.exit_code(found) == 78
    save_last_good(NAMES, queue)
    found = check.run(broken)
    assert [f.key for f in found if f.level is Level.ERROR] == ["lifetime", "retries", "smarthost"]
    assert any(f.file.endswith("pysendmail.toml.good") for f in found)


def test_missing_file(tmp_path: Path) -> None:
    """A named file that is not there is an error."""
    (found,) = check.run(Instance(path=tmp_path / "none.toml", explicit=True, queue_directory=tmp_path))
    assert "there is no such file" in str(found)


def test_permissions(tmp_path: Path, queue: Path) -> None:
    """What others could read or write has a finding each, with the command that mends it."""
    x = instance(tmp_path, HOST)
    x.path.chmod(0o666)
    queue.chmod(0o755)
    (queue / "notes").touch()
    (queue / "notes").chmod(0o640)
    (queue / "mine").touch()
    (queue / "mine").chmod(0o600)
    found = important(check.run(x))
    assert len(found) == 3
    assert f"chmod go-w {x.path}" in found[0]
    assert f"chmod 0700 {queue}" in found[1]
    assert f"chmod 0600 {queue}/notes" in found[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another(tmp_path: Path, queue: Path) -> None:
    """A file of root's in the queue's directory, or a configuration that the daemon cannot read, is an error."""
    x = instance(tmp_path, HOST)
    (queue / "queue.lock").touch(mode=0o600)
    os.chown(queue, 4242, 4242)
    x.path.chmod(0o600)
    found = important(check.run(x))
    assert len(found) == 2
    assert "the daemon (uid 4242) cannot read it" in found[0]
    assert f"chown 4242:4242 {queue}/queue.lock" in found[1]


def test_queue_that_is_a_file(tmp_path: Path) -> None:
    """A file in place of the directory is an error."""
    (tmp_path / "queue").touch()
    assert "it is not a directory" in "".join(important(check.run(instance(tmp_path, HOST))))


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /srv rw - nfs4 server:/srv rw
23 22 8:2 / /srv/local rw shared:2 master:1 - xfs /dev/sdb rw
24 21 0:21 / /with\\040space rw - fuse.sshfs x rw
25 21 0:22 / /twice rw - ext4 x rw
26 25 0:23 / /twice rw - tmpfs x rw
broken
"""
FILE_SYSTEMS = {
    "the root": ("/var/lib/pysendmail", "ext4"),
    "a mount": ("/srv/queue", "nfs4"),
    "the mount itself": ("/srv", "nfs4"),
    "a name that only begins like it": ("/srv2/queue", "ext4"),
    "a mount within": ("/srv/local/queue", "xfs"),
    "a name with a space": ("/with space/queue", "fuse.sshfs"),
    "one mount over another": ("/twice/queue", "tmpfs"),
}


@pytest.mark.parametrize(("path", "expected"), FILE_SYSTEMS.values(), ids=FILE_SYSTEMS.keys())
def test_file_system(path: str, expected: str) -> None:
    """The mount that holds the queue is the innermost, and of two at one place the later."""
    assert expected == check.file_system_of(Path(path), MOUNTS)


def test_file_system_unknown() -> None:
    """Without /proc nothing is said."""
    assert check.file_system_of(Path("/x"), "") == ""


def test_database(queue: Path) -> None:
    """None, a sound one, a newer one, one that is none; looking at it leaves no file behind."""
    assert list(check.of_database(queue)) == []
    file = queue / "queue.db"
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    schema.ensure(database)
    assert list(check.of_database(queue)) == []
    database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.commit()
    database.close()
    assert os.listdir(queue) == ["queue.db"]
    (found,) = check.of_database(queue)
    assert "a newer pysendmail" in found.text
    assert os.listdir(queue) == ["queue.db"]
    file.write_bytes(b"no database at all" * 100)
    (found,) = check.of_database(queue)
    assert (found.level, found.text[:13]) == (Level.ERROR, "it is damaged")


def test_a_queue_that_its_owner_cannot_open(queue: Path) -> None:
    """Modes that shut the owner out, and something else in the database's place, with the command that mends it."""
    file = queue / "queue.db"
    wanted = config(queue)
    file.touch(mode=0o400)
    queue.chmod(0o500)
    found = [(finding.text, finding.mend) for finding in check.of_queue_directory(wanted)]
    queue.chmod(0o700)
    assert found[:2] == [
        ("mode 0500: its owner, who writes the queue, cannot", f"chmod 0700 {queue}"),
        ("mode 0400: its owner, who writes the queue, cannot", f"chmod 0600 {file}"),
    ]
    file.unlink()
    file.mkdir()
    (finding,) = check.of_database(queue)
    assert (finding.level, finding.text) == (Level.ERROR, "it is not a file")


OWNER = Owner(os.geteuid(), os.getegid())


def test_secrets(tmp_path: Path) -> None:
    """A password that others can read, one that is missing, and a program that is not there are errors."""
    (tmp_path / "good").write_text("x")
    (tmp_path / "good").chmod(0o400)
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    text = "".join(
        f"[[smarthost]]\nhost='127.0.0.1'\nname='{name}'\nusername='u'\npassword_file='{tmp_path / name}'\n"
        for name in ("good", "open", "none")
    )
    text += f"{HOST}username='u'\npassword_command=['/no/such/program', 'hunter2']\n"
    found = list(check.of_secrets(parsed(text), OWNER))
    assert [f.key.split(":")[0].removeprefix("smarthost ") for f in found] == ["open", "none", "127.0.0.1"]
    assert {Level.ERROR} == {f.level for f in found}
    assert "hunter2" not in check.render(found)


def test_queue_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first start root judges for the user to whom the daemon will give the queue, not for itself."""
    monkeypatch.setattr(spool, "SERVICE_USER", "daemon")
    expected = pwd.getpwnam("daemon").pw_uid if os.geteuid() == 0 else os.geteuid()
    password = tmp_path / "p"
    password.write_text("x")
    password.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(password, expected, 0)
    text = f"{HOST}username='u'\npassword_file='{password}'\ntls_minimum='1.2'\n"
    assert important(check.run(instance(tmp_path, text))) == []
    password.unlink()
    (finding,) = [str(f) for f in check.run(instance(tmp_path, text)) if f.level is Level.ERROR]
    assert finding.endswith(
        f": password_file: {password}: No such file or directory; write the password into it, as its only line; "
        f"then chown {expected} {password}, chmod 0400 {password}"
    )


def test_password_of_root_for_another(tmp_path: Path) -> None:
    """A password that only root can read is none for a daemon that is not root."""
    (tmp_path / "p").write_text("x")
    (tmp_path / "p").chmod(0o600)
    owner = Owner(4242, 4242)
    assert list(check.of_secrets(parsed(f"{HOST}username='u'\npassword_file='{tmp_path}/p'\n"), owner))


def test_certificates(tmp_path: Path) -> None:
    """Files that are no certificates or no keys are errors, before a session fails on them."""
    (tmp_path / "ca").write_text("nothing")
    (tmp_path / "ca").chmod(0o644)
    (tmp_path / "key").write_text("nothing")
    (tmp_path / "key").chmod(0o600)
    files = f"tls_ca_file='{tmp_path}/ca'\ntls_client_certificate='{tmp_path}/key'\n"
    assert [f.key.split(": ")[1] for f in check.of_secrets(parsed(HOST + files), OWNER)] == [
        "tls_ca_file",
        "tls_client_certificate",
    ]
    (tmp_path / "key").chmod(0o644)
    assert any("others can read the key" in f.text for f in check.of_secrets(parsed(HOST + files), OWNER))


def test_certificates_that_are_good(tmp_path: Path) -> None:
    """A real authority and a real certificate with its key have no finding."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca")
    authority.issue_cert("box.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "key")
    (tmp_path / "ca").chmod(0o644)
    (tmp_path / "key").chmod(0o600)
    files = f"tls_ca_file='{tmp_path}/ca'\ntls_client_certificate='{tmp_path}/key'\n"
    assert list(check.of_secrets(parsed(HOST + files), OWNER)) == []


def test_resolution() -> None:
    """A name without an address is a warning, for mail waits meanwhile; an address is not looked up."""
    config = parsed(f"{HOST}[[smarthost]]\nhost='a.example'\n[[smarthost]]\nhost='b.example'\n")
    (found,) = check.of_resolution(config, lambda host, port: "no such name" if host == "b.example" else "")
    assert (found.level, '"b.example" has no address now: no such name' in found.text) == (Level.WARNING, True)


def test_resolution_that_hangs() -> None:
    """A resolver that does not answer holds up nothing."""
    never = threading.Event()
    config = parsed("[[smarthost]]\nhost='a.example'\n[[smarthost]]\nhost='b.example'\n")
    found = list(check.of_resolution(config, lambda host, port: str(never.wait(60)), wait_s=0.05))
    never.set()
    assert [f.text.split(": ")[1] for f in found] == ["no answer within 0.05 s"] * 2


def test_every_finding_has_its_mend(tmp_path: Path, queue: Path) -> None:
    """Of an instance where much is wrong; aliases too."""
    aliases = tmp_path / "aliases"
    aliases.write_text("root\na: :include:/nowhere\n")
    text = f"{FAR}username='u'\ntls='may'\npassword_file='/none'\ntls_ca_file='/none'\ntls_client_certificate='/none'\n"
    made = instance(tmp_path, text)
    made.path.write_text(made.path.read_text().replace("aliases.file = ''", f"aliases.file = '{aliases}'"))
    made.path.chmod(0o666)
    queue.chmod(0o777)
    found = check.run(made)
    assert len(found) > 7
    assert [str(finding) for finding in found if not finding.mend] == []


def test_aliases(tmp_path: Path) -> None:
    """Each line of the aliases that does not do what it says is a warning with file and line."""
    file = tmp_path / "aliases"
    file.write_text("a: |x\nb: c\nc: b\n")
    found = [str(f) for f in check.of_aliases(parsed(f"[aliases]\nfile='{file}'\n"), OWNER)]
    assert [f"warning: {file}:{line}: {name}: " for line, name in ((1, "a"), (2, "b"), (3, "c"))] == [
        text[: len(f"warning: {file}:1: a: ")] for text in found
    ]


def test_who_can_read(tmp_path: Path) -> None:
    """Owner, group and others are judged as the kernel does it: the first that fits decides."""
    file = tmp_path / "x"
    file.touch()
    uid, gid = file.stat().st_uid, file.stat().st_gid
    file.chmod(0o044)
    assert Owner(uid, 0).can_read(file.stat()) is (uid == 0)
    assert Owner(4242, gid).can_read(file.stat())
    file.chmod(0o404)
    assert not Owner(4242, gid).can_read(file.stat())
    assert not Owner(4242, 1, frozenset({gid})).can_read(file.stat())
    assert Owner(4242, 4242).can_read(file.stat())


# -- alarm and metrics --


@pytest.mark.parametrize(
    ("text", "key", "word"),
    [
        ("[alarm]\ncommand=['no-such-program', 'hunter2']\n", "alarm.command", "no program no-such-program"),
        ("[alarm]\ncommand=['/no/such/program']\n", "alarm.command", "no program /no/such/program"),
        ("[alarm]\nfile='/no/such/notice'\n", "alarm.file", "/no/such: No such file or directory"),
        ("[metrics]\nfile='/etc/passwd/m.prom'\n", "metrics.file", "/etc/passwd: it is not a directory"),
        ("[metrics]\nfile='/proc/m.prom'\n", "metrics.file", "the daemon (uid 77) cannot write there"),
    ],
)
def test_what_could_not_tell_anybody(text: str, key: str, word: str) -> None:
    """An alarm that cannot be told, metrics that cannot be written: said before they are needed."""
    (found,) = check.of_telling(parsed(text), Owner(77, 77))
    assert (found.level, found.key) == (Level.WARNING, key)
    assert word in found.text and "hunter2" not in str(found)


def test_what_tells_as_it_should(tmp_path: Path) -> None:
    """A program by its name or its path, directories of one's own or of one's group."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o770)
    text = f"[alarm]\ncommand=['sh']\nfile='{directory}/notice'\n[metrics]\nfile='{directory}/m.prom'\n"
    for owner in (Owner(os.getuid(), 77), Owner(77, directory.stat().st_gid)):
        assert list(check.of_telling(parsed(text), owner)) == []


def test_metrics_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be installed is named."""
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    (found,) = check.of_telling(parsed("[metrics]\nlisten=['127.0.0.1:9624']\n"), Owner(77, 77))
    assert found.key == "metrics" and "pysendmail-mta[metrics]" in found.mend
