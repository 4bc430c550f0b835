"""pysendmail import: shown, then written, with the commands as they are installed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from rig.ca import Authority
from rig.instance import Instance
from rig.peer import Ordinary, PeerThread

GOLDEN = Path(__file__).parents[1] / "golden" / "import"


def test_it_shows_and_writes_nothing(tmp_path: Path) -> None:
    """The configuration on standard output, what was lost on standard error; no file is made."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    done = instance.run("pysendmail", "import", str(GOLDEN / "ssmtp" / "ssmtp.conf"))
    assert (done.returncode, instance.config.read_text()) == (0, before)
    assert b'host = "smtp.example.com"' in done.stdout
    assert f"pysendmail: {GOLDEN}/ssmtp/ssmtp.conf:24: TLS_CA_Dir: lost: ".encode() in done.stderr
    assert b"se#cret" not in done.stdout + done.stderr
    assert not (tmp_path / "main.password").exists()


def test_a_files_name_is_only_a_name(tmp_path: Path) -> None:
    """Whatever octets it has: none is a line of the configuration or moves a cursor, and none keeps it unwritten."""
    odd = os.fsdecode(b"msmtprc\xff\x1b[2J\n[queue]\n#")
    (tmp_path / odd).write_text("account default\nhost smtp.example.com\nauth on\nuser box\npassword sesame\ntls on\n")
    instance = Instance(tmp_path)
    instance.config.unlink()
    said = instance.pysendmail("import", "--from", "msmtp", str(tmp_path / odd), "--write")
    assert "\x1b" not in said and "[queue]" not in said.splitlines()
    assert instance.config.read_text() == said


def test_what_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    """73 with the difference; with --replace the old one is kept, and its [queue] is the new one's."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    command = ("import", "--write", str(GOLDEN / "ssmtp" / "ssmtp.conf"))
    done = instance.run("pysendmail", *command)
    assert (done.returncode, instance.config.read_text()) == (73, before)
    assert b"is there: --replace writes this" in done.stderr
    assert b"\n+[[smarthost]]\n" in done.stderr
    assert instance.run("pysendmail", *command, "--replace").returncode == 0
    password = tmp_path / "main.password"
    assert (password.read_text(), stat.S_IMODE(password.stat().st_mode)) == ("se#cret\n", 0o600)
    [kept] = tmp_path.glob("pysendmail.toml.*Z")
    assert kept.read_text() == before
    assert f'directory = "{instance.queue_directory}"' in instance.config.read_text()
    assert "error:" not in instance.pysendmail("check", code=0)


def test_mail_flows_with_what_was_imported(tmp_path: Path) -> None:
    """A machine of msmtp's: import, start, send: the smarthost sees the login and the sender that msmtp gave."""
    authority = Authority(tmp_path)
    with PeerThread(Ordinary(tls=authority.server(), auth="PLAIN", only="box@example.com")) as peer:
        instance = Instance(tmp_path)
        (tmp_path / "msmtprc").write_text(
            f"account default\nhost localhost\nport {peer.port}\nfrom box@example.com\ntls on\n"
            f"tls_trust_file {authority.file}\nauth on\nuser box\npassword open sesame\n"
        )
        instance.pysendmail("import", "--write", "--replace", str(tmp_path / "msmtprc"))
        with instance:
            instance.submit("bob@example.org")
            instance.wait_for("outcome", status="sent")
    assert peer.messages[0].sender.startswith("<box@example.com>")
    assert peer.exchanges == ["PLAIN AGJveABvcGVuIHNlc2FtZQ=="]


def test_what_cannot_be_used(tmp_path: Path) -> None:
    """No such file: 66. A result that pysendmail does not take: shown, said, 78, and not written."""
    instance = Instance(tmp_path)
    assert instance.run("pysendmail", "import", str(tmp_path / "main.cf")).returncode == 66
    shutil.copy(GOLDEN / "dma" / "dma.conf", tmp_path / "whose")
    done = instance.run("pysendmail", "import", str(tmp_path / "whose"))
    assert done.returncode == 64
    assert b"its name does not tell whose it is: --from postfix|msmtp|" in done.stderr
    (tmp_path / "odd").write_text("mailhub=not a host\n")
    done = instance.run("pysendmail", "import", "--from", "ssmtp", "--write", "--replace", str(tmp_path / "odd"))
    assert done.returncode == 78
    assert b'smarthost.host: "not a host" is not' in done.stderr
    assert list(tmp_path.glob("pysendmail.toml.*")) == []
