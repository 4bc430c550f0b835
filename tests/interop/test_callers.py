"""Programs that send mail, from Debian's packages, with pysendmail as /usr/sbin/sendmail: what they call, what arrives.

Each is run as its users run it, by an ordinary user where it is an ordinary user's. README.md has the table.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from rig.machine import ALICE, LISTENER_PORT, MAX_MESSAGE, UIDS, Arrived, Machine

if os.environ.get("PYSENDMAIL_TEST_CALLERS") != "1":
    pytest.skip("the callers are tested by `make interop`", allow_module_level=True)

README = Path(__file__).with_name("README.md")
ADDRESSES = re.compile(r"(?<![\w-])\w+@\S+( \w+@\S+)*|(?<=-f)\w+@\S+")
NODEMAILER = "nodemailer@10.6.0"
TEXT = "hällo\n.\nthe end"  # eight bits, a lone dot, and often no newline at the end
EVERYBODY = ["bob@example.org", "carol@example.net", "secret@example.org"]  # To, Cc and Bcc
ALL = " ".join(EVERYBODY)
SEEN = {"To": "bob@example.org", "Cc": "carol@example.net"}
ATTACHMENT = bytes(range(256)) * 3


def write(machine: Machine, path: str, content: str | bytes, user: str = "alice") -> None:
    """A file of that user."""
    machine.path(path).write_bytes(content.encode() if isinstance(content, str) else content)
    machine.must("chown", f"{user}:", path)


def called(machine: Machine, *commands: str, by: Sequence[str] = ("alice",)) -> None:
    """sendmail was called by these users with these command lines, in any order, and README.md tells of them."""
    calls = machine.calls()
    assert sorted(call.argv for call in calls) == sorted(shlex.split(f"/usr/sbin/{command}") for command in commands)
    assert {call.uid for call in calls} == {UIDS[user] for user in by}
    for command in commands:
        assert f"`{ADDRESSES.sub('ADDRESS', command)}`" in README.read_text()


def check(arrived: Arrived, user: str, sender: str, recipients: Sequence[str], **fields: str) -> None:
    """The envelope, these fields (decoded), and what holds for every message; Message_ID is Message-ID."""
    assert (arrived.sender, arrived.recipients) == (sender, list(recipients))
    assert {name: arrived.field(name.replace("_", "-")) for name in fields} == fields
    ours = rf"by box\.example\.com \(pysendmail, from uid {UIDS[user]}\)"
    trace = rf"(from \S+ {ours} with ESMTP|{ours}) id [0-9A-Za-z]{{10,15}}; .*"
    assert re.fullmatch(trace, arrived.field("Received"))
    assert arrived.header.startswith(b"Received: ")
    assert parsedate_to_datetime(arrived.field("Date")).tzinfo
    assert re.fullmatch(r"<[^<>@\s]+@[^<>@\s]+>", arrived.field("Message-ID"))
    assert arrived.field("From")
    assert not {"bcc", "resent-bcc", "return-path", "content-length"} & {name.lower() for name in arrived.mime}
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|[^\r\n]{999}", arrived.content)


def text(arrived: Arrived) -> str:
    """The text part, decoded."""
    part = arrived.mime.get_body(("plain",))
    assert isinstance(part, EmailMessage)
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


def attachments(arrived: Arrived) -> list[tuple[str | None, bytes]]:
    return [(part.get_filename(), part.get_payload(decode=True)) for part in arrived.mime.iter_attachments()]


# -- jobs of the system --


def test_cron_mails_what_a_job_prints(machine: Machine) -> None:
    """The output goes to the job's owner, by his uid; MAILTO may be a list, and MAILFROM is what it says."""
    write(
        machine, "/root/tab", "MAILTO=bob@example.org,carol@example.net\nMAILFROM=cron@example.com\n@reboot echo hi\n"
    )
    write(machine, "/root/hers", "@reboot echo hällo; echo . ; printf 'the end' >&2\n")
    machine.must("crontab", "/root/tab")
    machine.must("crontab", "-u", "alice", "/root/hers")
    with machine.service("cron", "-f"):
        ours, hers = sorted([machine.arrived(1), machine.arrived(2)], key=lambda one: one.sender, reverse=True)
    check(
        ours,
        "root",
        "root@example.com",
        ["bob@example.org", "carol@example.net"],
        From="cron@example.com",
        To="bob@example.org, carol@example.net",
        Subject="Cron <root@box> echo hi",
    )
    check(hers, "alice", "alice@example.com", ["alice@example.com"], To="alice")
    assert b"\r\nFrom: root (Cron Daemon)\r\n" in hers.header
    assert text(hers) == "hällo\n.\nthe end\n"
    options = "-FCronDaemon -i -B8BITMIME -oem"
    recipients = "bob@example.org,carol@example.net"
    called(machine, f"sendmail {options} alice", f"sendmail {options} {recipients}", by=["alice", "root"])


def test_at_mails_what_a_job_prints(machine: Machine) -> None:
    """atd closes most of what a program expects, and has no MIME: eight bits arrive as they are."""
    with machine.service("atd", "-f"):
        machine.must("at", "now", user="alice", stdin="echo hällo; echo .; echo error >&2".encode())
        arrived = machine.arrived()
    check(arrived, "alice", "alice@example.com", ["alice@example.com"], From=f"{ALICE} <alice@example.com>", To="alice")
    assert arrived.field("Subject").startswith("Output from your job")
    assert arrived.body == "hällo\r\n.\r\nerror\r\n".encode()
    assert "BODY=8BITMIME" in arrived.parameters
    called(machine, "sendmail -i alice")


def test_sudo_tells_of_who_may_not(machine: Machine) -> None:
    """The user, who is not in sudoers, and the command; in root's name, by the uid that sudo calls us with."""
    machine.must("chpasswd", stdin=b"alice:secret\n")
    assert machine.run("sudo", "-S", "id", user="alice", stdin=b"secret\n").returncode == 1
    arrived = machine.arrived()
    check(arrived, "alice", "alice@example.com", ["admin@example.org"], To="root", From="alice")
    assert arrived.field("Subject") == "*** SECURITY information for box.example.com ***"
    assert b"alice : user NOT in sudoers ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id" in arrived.body
    called(machine, "sendmail -t")


def test_sudo_tells_of_a_bad_password(machine: Machine) -> None:
    """mail_badpass, which Debian's sudoers has."""
    machine.must("chpasswd", stdin=b"bob:secret\n")
    machine.path("/etc/sudoers.d/bob").write_text("bob ALL=(ALL) ALL\n")
    assert machine.run("sudo", "-S", "id", user="bob", stdin=b"wrong\n").returncode == 1
    arrived = machine.arrived()
    check(arrived, "bob", "bob@example.com", ["admin@example.org"], To="root", From="bob")
    assert b"bob : 1 incorrect password attempt ;" in arrived.body
    called(machine, "sendmail -t", by=["bob"])


def test_logwatch_mails_its_report(machine: Machine) -> None:
    """To an alias, through -t."""
    line = b"Nov 22 01:00:00 box sshd[1]: Failed password for root from 192.0.2.1 port 1 ssh2\n"
    machine.path("/var/log/auth.log").write_bytes(line)
    machine.must("logwatch", "--output", "mail", "--mailto", "root", "--range", "all", "--service", "sshd")
    arrived = machine.arrived()
    check(
        arrived,
        "root",
        "root@example.com",
        ["admin@example.org"],
        To="root",
        From="root",
        Subject="Logwatch for box (Linux)",
        Auto_Submitted="auto-generated",
    )
    assert "192.0.2.1: 1 Time" in text(arrived)
    called(machine, "sendmail -t", by=["root"])


def test_smartd_warns(machine: Machine) -> None:
    """Without a disk to watch: the script that smartd starts, as it does, on to Debian's runner and `mail`."""
    environment = {
        "SMARTD_MAILER": "/usr/share/smartmontools/smartd-runner",
        "SMARTD_ADDRESS": "root",
        "SMARTD_FAILTYPE": "EmailTest",
        "SMARTD_MESSAGE": "TEST EMAIL from smartd for device: /dev/sda",
        "SMARTD_DEVICE": "/dev/sda",
        "SMARTD_DEVICESTRING": "/dev/sda",
        "SMARTD_DEVICETYPE": "sat",
        "SMARTD_TFIRST": "Sun Nov 22 01:00:00 2026 UTC",
        "SMARTD_TFIRSTEPOCH": "1795309200",
    }
    done = machine.run("/usr/share/smartmontools/smartd_warning.sh", environment=environment)
    assert done.returncode == 0, done.stderr
    arrived = machine.arrived()
    check(
        arrived,
        "root",
        "root@example.com",
        ["admin@example.org"],
        Subject="SMART error (EmailTest) detected on host: box",
    )
    assert "TEST EMAIL from smartd" in text(arrived)
    called(machine, "sendmail -i -t", by=["root"])


def test_fail2ban_tells_of_a_ban(machine: Machine) -> None:
    """The action of its package: at the start of the jail, and for each address."""
    machine.path("/var/log/auth.log").touch()
    action = "sendmail[name=test, dest=admin@example.org, sender=fail2ban@example.com, sendername=Fail2Bän]"
    machine.path("/etc/fail2ban/jail.d/test.conf").write_text(
        "[sshd]\nenabled = false\n[test]\nenabled = true\nfilter = sshd\nbackend = polling\n"
        f"logpath = /var/log/auth.log\naction = {action}\n"
    )
    with machine.service("fail2ban-server", "-f", "start"):
        started = machine.arrived()
        machine.must("fail2ban-client", "set", "test", "banip", "192.0.2.1")
        banned = machine.arrived(2)
    machine.arrived(3)  # that it has stopped
    envelope = ("root", "fail2ban@example.com", ["admin@example.org"])
    check(started, *envelope, Subject="[Fail2Ban] test: started on box.example.com")
    check(banned, *envelope, Subject="[Fail2Ban] test: banned 192.0.2.1 from box.example.com")
    assert "\r\nFrom: Fail2Bän <fail2ban@example.com>\r\n".encode() in banned.header
    assert b"The IP 192.0.2.1 has just been banned by Fail2Ban" in banned.body
    called(machine, *["sendmail -f fail2ban@example.com admin@example.org"] * 3, by=["root"])


# -- programs of people --


def test_mutt(machine: Machine) -> None:
    """Names and text beyond ASCII, a blind copy, an attachment; the recipients come after --."""
    write(machine, "/home/alice/a.bin", ATTACHMENT)
    command = [
        "mutt",
        "-s",
        "Grüße",
        "-c",
        "Carol Ö <carol@example.net>",
        "-b",
        "secret@example.org",
        "-a",
        "a.bin",
        "--",
    ]
    machine.must(*command, "bob@example.org", user="alice", stdin=TEXT.encode())
    arrived = machine.arrived()
    check(
        arrived,
        "alice",
        "alice@example.com",
        EVERYBODY,
        From=f"{ALICE} <alice@example.com>",
        To="bob@example.org",
        Cc="Carol Ö <carol@example.net>",
        Subject="Grüße",
    )
    assert text(arrived) == TEXT
    assert attachments(arrived) == [("a.bin", ATTACHMENT)]
    called(machine, f"sendmail -oem -oi -- {ALL}")


def test_mutt_asks_for_reports(machine: Machine) -> None:
    """dsn_notify, dsn_return and an envelope sender of its own come to the smarthost."""
    settings = "set use_envelope_from envelope_from_address=box@example.com use_8bitmime dsn_return=hdrs"
    command = ["mutt", "-e", settings, "-e", "set dsn_notify=failure,success", "-s", "hello", "--", "bob@example.org"]
    machine.must(*command, user="alice", stdin=TEXT.encode())
    arrived = machine.arrived()
    check(arrived, "alice", "box@example.com", ["bob@example.org"], Subject="hello")
    assert {"BODY=8BITMIME", "RET=HDRS"} <= set(arrived.parameters)
    assert "NOTIFY=FAILURE,SUCCESS" in machine.smarthost.messages[0].recipients[0]
    line = "sendmail -oem -oi -B8BITMIME -f box@example.com -N failure,success -R hdrs -- bob@example.org"
    called(machine, line)


def test_s_nail(machine: Machine) -> None:
    """As mutt, with its own sender address: -r becomes From and the envelope's sender."""
    write(machine, "/home/alice/a.bin", ATTACHMENT)
    command = ["s-nail", "-r", "box@example.com", "-s", "Grüße", "-c", "carol@example.net", "-b", "secret@example.org"]
    machine.must(*command, "-a", "a.bin", "bob@example.org", user="alice", stdin=TEXT.encode())
    arrived = machine.arrived()
    check(arrived, "alice", "box@example.com", EVERYBODY, From="box@example.com", Subject="Grüße", **SEEN)
    assert text(arrived) == TEXT
    assert attachments(arrived) == [("a.bin", ATTACHMENT)]
    called(machine, f"sendmail -i -f box@example.com -- {ALL}")


def test_bsd_mailx(machine: Machine) -> None:
    """It knows no MIME for a header: the subject arrives in the eight bits that were typed."""
    command = ["bsd-mailx", "-s", "Grüße", "-c", "carol@example.net", "-b", "secret@example.org", "bob@example.org"]
    machine.must(*command, user="alice", stdin=TEXT.encode())
    arrived = machine.arrived()
    check(arrived, "alice", "alice@example.com", EVERYBODY, From=f"{ALICE} <alice@example.com>", **SEEN)
    assert "\r\nSubject: Grüße\r\n".encode() in arrived.header
    assert text(arrived) == TEXT + "\n"
    called(machine, "sendmail -i -t")


def test_mailutils(machine: Machine) -> None:
    """It names its own idea of the sender with -f; a lone dot ends what it reads, before it comes to us."""
    write(machine, "/home/alice/a.bin", ATTACHMENT)
    command = ["mail.mailutils", "-s", "Grüße", "-A", "a.bin", "-a", "Bcc: secret@example.org", "bob@example.org"]
    machine.must(*command, user="alice", stdin="hällo\n".encode())
    arrived = machine.arrived()
    recipients = ["secret@example.org", "bob@example.org"]  # as its header has them
    check(arrived, "alice", "alice@box.example.com", recipients, To="bob@example.org")
    assert "\r\nSubject: Grüße\r\n".encode() in arrived.header
    assert arrived.field("From") == f"{ALICE} <alice@box.example.com>"
    assert text(arrived) == "hällo\n"
    assert attachments(arrived) == [("a.bin", ATTACHMENT)]
    called(machine, "sendmail -oi -f alice@box.example.com -t")


def alpine(machine: Machine, sendmail_path: str) -> Arrived:
    """What arrives when alice has sent the message that her browser's mailto began."""
    settings = f"""\
personal-name=Alice Ä
user-domain=example.com
default-fcc=""
smtp-server=
sendmail-path={sendmail_path}
customized-hdrs=Bcc: secret@example.org
last-version-used=2.26
"""
    write(machine, "/home/alice/.pinerc", settings)
    write(machine, "/home/alice/.addressbook", "")
    url = "mailto:bob@example.org?cc=carol@example.net&subject=Gr%C3%BC%C3%9Fe&body=h%C3%A4llo%0A.%0Athe%20end"
    shown = machine.talk("alpine", "-url", url, user="alice", keys=[("the end", "\x18"), ("Send message", "y")])
    assert re.search(r"Message sent|Alpine finished", shown), re.sub(r"\x1b\[[\d;]*[A-Za-z]", " ", shown)[-600:]
    return machine.arrived()


def check_alpine(arrived: Arrived) -> None:
    check(
        arrived, "alice", "alice@example.com", EVERYBODY, From=f"{ALICE} <alice@example.com>", Subject="Grüße", **SEEN
    )
    assert text(arrived).splitlines() == TEXT.splitlines()


def test_alpine_with_a_command(machine: Machine) -> None:
    """sendmail-path: the message with its Bcc field through -t."""
    check_alpine(alpine(machine, "/usr/sbin/sendmail -oem -t -oi"))
    called(machine, "sendmail -oem -t -oi")


def test_alpine_speaks_smtp(machine: Machine) -> None:
    """Without any setting it speaks SMTP with `sendmail -bs`."""
    arrived = alpine(machine, "")
    check_alpine(arrived)
    assert arrived.field("Received").startswith("from localhost by box.example.com ")
    called(machine, "sendmail -bs -odb -oem")


def test_git_send_email(machine: Machine) -> None:
    """A patch with a name, a subject and a text beyond ASCII; the envelope has everybody, --bcc too."""
    script = """
        git config --global user.name 'Alice Ä' && git config --global user.email alice@example.com
        git init -q -b main repository && cd repository && printf 'ä\\n.\\n' >file && git add file
        git commit -q -m 'füge hinzu' && git send-email -1 --quiet --confirm=never --envelope-sender=box@example.com \
            --to='Bob Ö <bob@example.org>' --cc=carol@example.net --bcc=secret@example.org --suppress-cc=self
    """
    machine.must("sh", "-e", "-c", script, user="alice")
    arrived = machine.arrived()
    check(
        arrived,
        "alice",
        "box@example.com",
        EVERYBODY,
        From="Alice Ä <alice@example.com>",
        To="Bob Ö <bob@example.org>",
        Cc="carol@example.net",
        Subject="[PATCH] füge hinzu",
    )
    assert re.fullmatch(r"<\d{14}\.\d+-1-alice@example\.com>", arrived.field("Message-ID"))
    assert "\n+ä\n+.\n-- \n" in text(arrived)
    called(machine, f"sendmail -f box@example.com -i {ALL}")


# -- libraries --


def test_php_mail(machine: Machine) -> None:
    """mail() with its fifth argument, through the command that PHP has built in."""
    subject = (
        'mb_encode_mimeheader("Grüße")' if "mbstring" in machine.must("php", "-m") else '"=?UTF-8?Q?Gr=C3=BC=C3=9Fe?="'
    )
    headers = "From: Alice <alice@example.com>\\r\\nBcc: secret@example.org"
    code = f'exit(mail("bob@example.org", {subject}, "hällo\\n.\\nthe end", "{headers}", "-fbox@example.com") ? 0 : 1);'
    machine.must("php", "-r", code, user="alice")
    arrived = machine.arrived()
    recipients = ["bob@example.org", "secret@example.org"]
    check(
        arrived,
        "alice",
        "box@example.com",
        recipients,
        From="Alice <alice@example.com>",
        To="bob@example.org",
        Subject="Grüße",
    )
    assert arrived.body == "hällo\r\n.\r\nthe end\r\n".encode()
    called(machine, "sendmail -t -i -fbox@example.com")


def test_perl_mime_lite(machine: Machine) -> None:
    """Parts that it calls binary, with a Content-Length that is not in the message's own header."""
    write(machine, "/home/alice/a.bin", ATTACHMENT)
    write(
        machine,
        "/home/alice/send.pl",
        """use MIME::Lite;
        my $mail = MIME::Lite->new(From => 'alice@example.com', To => 'bob@example.org', Cc => 'carol@example.net',
            Bcc => 'secret@example.org', Subject => 'hello', Type => 'multipart/mixed');
        $mail->attach(Type => 'text/plain; charset=utf-8', Data => "h\\xc3\\xa4llo\\n.\\nthe end");
        $mail->attach(Type => 'application/octet-stream', Path => 'a.bin', Encoding => 'base64',
            Disposition => 'attachment');
        $mail->send or exit 1;""",
    )
    machine.must("perl", "send.pl", user="alice")
    arrived = machine.arrived()
    check(arrived, "alice", "alice@example.com", EVERYBODY, From="alice@example.com", Subject="hello", **SEEN)
    assert text(arrived) == TEXT
    assert attachments(arrived) == [("a.bin", ATTACHMENT)]
    called(machine, "sendmail -t -oi -oem -falice@example.com")


def test_perl_email_sender(machine: Machine) -> None:
    """Its transport Sendmail: the recipients are arguments, and the header names others."""
    code = r"""use Email::Sender::Simple qw(sendmail); use Email::Sender::Transport::Sendmail;
        sendmail("From: alice\@example.com\nTo: bob\@example.org\nSubject: hello\n\nh\xc3\xa4llo\n.\nthe end\n",
            {from => 'box@example.com', to => ['bob@example.org', 'secret@example.org'],
             transport => Email::Sender::Transport::Sendmail->new});"""
    machine.must("perl", "-e", code, user="alice")
    arrived = machine.arrived()
    check(
        arrived,
        "alice",
        "box@example.com",
        ["bob@example.org", "secret@example.org"],
        From="alice@example.com",
        To="bob@example.org",
        Subject="hello",
    )
    assert arrived.body == "hällo\r\n.\r\nthe end\r\n".encode()
    called(machine, "sendmail -i -f box@example.com -- bob@example.org secret@example.org")


@pytest.fixture(scope="module")
def nodemailer(debian_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The npm package, where Debian's node looks for packages."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("npm is missing: apt-get install npm")
    directory = tmp_path_factory.mktemp("npm")
    done = subprocess.run(
        [npm, "pack", "--silent", NODEMAILER], cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm could not fetch {NODEMAILER}: {done.stderr.strip()[-300:]}")
    (archive,) = directory.glob("*.tgz")
    unpack = ["tar", "-xf", str(archive), "-C", str(directory)]  # tarfile's filters are newer than Debian 12's Python
    subprocess.run(unpack, check=True)
    shutil.copytree(directory / "package", debian_machine.path("/usr/share/nodejs/nodemailer"))


@pytest.mark.usefixtures("nodemailer")
def test_nodemailer(machine: Machine) -> None:
    """Its sendmail transport; names, subject, text and an attachment's name beyond ASCII."""
    write(machine, "/home/alice/a.bin", ATTACHMENT)
    code = """require("nodemailer").createTransport({sendmail: true}).sendMail({
        from: "Alice Ä <alice@example.com>", to: "Bob Ö <bob@example.org>", bcc: "secret@example.org",
        subject: "Grüße", text: "hällo\\n.\\nthe end", attachments: [{filename: "ä.bin", path: "a.bin"}],
    }).catch(error => { console.error(error); process.exit(1) })"""
    machine.must("node", "-e", code, user="alice")
    arrived = machine.arrived()
    recipients = ["bob@example.org", "secret@example.org"]
    check(
        arrived,
        "alice",
        "alice@example.com",
        recipients,
        From="Alice Ä <alice@example.com>",
        To="Bob Ö <bob@example.org>",
        Subject="Grüße",
    )
    assert text(arrived) == TEXT
    assert attachments(arrived) == [("ä.bin", ATTACHMENT)]
    called(machine, f"sendmail -i -f alice@example.com {' '.join(recipients)}")


def test_smtplib_through_the_listener(machine: Machine) -> None:
    """A program that only knows SMTP, on loopback: its user is known all the same, and smtplib removes Bcc itself."""
    code = f"""import email.message, smtplib
message = email.message.EmailMessage()
message["From"], message["To"], message["Subject"] = "Alice Ä <alice@example.com>", "bob@example.org", "Grüße"
message["Bcc"] = "secret@example.org"
message.set_content("hällo\\n.\\nthe end", cte="8bit")
smtplib.SMTP("127.0.0.1", {LISTENER_PORT}).send_message(message)
"""
    machine.must("python3", "-c", code, user="alice")
    arrived = machine.arrived()
    check(
        arrived,
        "alice",
        "alice@example.com",
        ["bob@example.org", "secret@example.org"],
        From="Alice Ä <alice@example.com>",
        To="bob@example.org",
        Subject="Grüße",
    )
    assert "BODY=8BITMIME" in arrived.parameters
    assert text(arrived) == TEXT + "\n"


# -- what they show when sendmail refuses --

# One shell line each, with the body on standard input. Its exit code and words where sendmail exits with {code}.
SHOWN = {
    "mutt": ("mutt -s hello bob@example.org", "1", "child exited {code}"),
    "s-nail": ("s-nail -s hello bob@example.org", "4", "message not sent"),
    "bsd-mailx": ("bsd-mailx -s hello bob@example.org", "1", "sendmail process failed with error code {code}"),
    "mailutils": ("mail.mailutils -s hello bob@example.org", "1", "Process exited with a non-zero status"),
    "php": (
        """php -r 'exit(mail("bob@example.org", "hello", stream_get_contents(STDIN)) ? 0 : 1);'""",
        "1",
        "sendmail: ",
    ),
    "MIME::Lite": (
        """perl -MMIME::Lite -e 'MIME::Lite->new(From => q(a@example.com), To => q(bob@example.org),
            Data => join("", <STDIN>))->send'""",
        "{code}",
        "error closing /usr/sbin/sendmail",
    ),
    "Email::Sender": (
        """perl -MEmail::Sender::Simple=sendmail -e 'local $/; eval {
            sendmail("From: a\\@example.com\\nTo: bob\\@example.org\\n\\n" . <STDIN>) }; print $@->message; exit 3'""",
        "3",
        "error when closing pipe to sendmail",
    ),
    "git": (
        """git init -q r && cd r && git config user.name A && git config user.email a@example.com && cat >file &&
            git add file && git commit -qm hello && git send-email -1 --confirm=never --to=bob@example.org""",
        "{code}",
        "sendmail: ",
    ),
    "nodemailer": (
        """node -e 'require("nodemailer").createTransport({sendmail: true}).sendMail({from: "a@example.com",
            to: "bob@example.org", text: require("fs").readFileSync(0)}).catch(e => { console.log(e.message);
            process.exit(1) })'""",
        "1",
        "Sendmail exited with code {code}",
    ),
}


def check_shown(machine: Machine, user: str, body: str, code: int) -> None:
    """All of them at once: each ends with its exit code and words, and nothing arrives."""

    def run(name: str) -> subprocess.CompletedProcess[bytes]:
        home = f"d=$(mktemp -d) && export HOME=$d && cd $d && {body} | ( {SHOWN[name][0]} )"
        return machine.run("sh", "-c", home, user=user)

    with ThreadPoolExecutor() as threads:
        for name, done in zip(SHOWN, threads.map(run, SHOWN), strict=True):
            _, status, words = SHOWN[name]
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            assert done.returncode == int(status.format(code=code)), f"{name}: {done.returncode} {said}"
            assert words.format(code=code) in said, f"{name}: {said}"
    assert not machine.smarthost.messages


@pytest.mark.usefixtures("nodemailer")
def test_callers_show_that_the_user_may_not_send(machine: Machine) -> None:
    """77 ([access] authorized_submitters)."""
    check_shown(machine, "carol", "echo hello", 77)


@pytest.mark.usefixtures("nodemailer")
def test_callers_show_that_the_message_is_too_large(machine: Machine) -> None:
    """65, and none of them dies of a pipe that sendmail no longer reads."""
    check_shown(machine, "alice", f"yes hello | head -c {MAX_MESSAGE * 2}", 65)


@pytest.mark.usefixtures("nodemailer")
def test_callers_show_that_there_is_no_daemon(machine: Machine) -> None:
    """75: nothing was queued, and they may try again."""
    machine.stop_daemon()
    try:
        check_shown(machine, "bob", "echo hello", 75)
    finally:
        machine.daemon.start()
