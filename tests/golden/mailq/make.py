"""Make the golden listings beside this file from the real programs: Debian's Postfix and Sendmail. By hand, as root.

    apt-get install postfix; apt-get download sendmail-bin libwrap0; dpkg -x each of them into ROOT
    python3 tests/golden/mailq/make.py ROOT

postfix.json is `postqueue -j`, postfix.txt `postqueue -p` of the same queue, in UTC: our layout, given the first, has
to print the second. sendmail.txt is what `sendmail -bp` makes of the queue files written here (format: Sendmail's
Operations Guide, appendix B), which tests/unit/test_mailq.py describes as entries. Nothing is sent: Postfix's transport
defers everything, Sendmail only lists. The programs' versions are in versions.txt.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
UTC = {**os.environ, "TZ": "UTC"}
LONG = "with.a.very.long.local.part.that.goes.on.and.on@a.very.long.domain.name.example"
ARRIVED = 1_795_910_926

MAIN = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = /dev/stdout
myhostname = box.example.com
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
enable_long_queue_ids = yes
transport_maps = texthash:{home}/transport
default_transport = retry:4.3.0 later
"""
MASTER = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""
TRANSPORT = f"""\
refused.example retry:4.4.1 connect to relay.example.net[192.0.2.1]:587: Connection refused
long.example retry:4.0.0 {"x" * 90}
"""
# (sender, recipients, octets of the body)
MESSAGES = (
    ("alice@example.com", ["bob@refused.example"], 100),
    ("", ["a@later.example", "b@later.example", "c@refused.example", "d@long.example"], 5000),
    (f"alice.{LONG}", [f"bob.{LONG}"], 123456),
    ("hold@example.com", ["e@later.example"], 10),
)


def postfix(home: Path) -> None:
    for name in ("conf", "queue", "data"):
        (home / name).mkdir()
    home.chmod(0o755)
    shutil.chown(home / "data", "postfix")
    (home / "conf/main.cf").write_text(MAIN.format(home=home))
    (home / "conf/master.cf").write_text(MASTER)
    (home / "transport").write_text(TRANSPORT)
    conf = str(home / "conf")
    master = subprocess.Popen(["postfix", "-c", conf, "start-fg"], env=UTC, stdin=subprocess.DEVNULL)
    try:
        while not (home / "queue/public/showq").exists():
            time.sleep(0.1)
        (HERE / "postfix_empty.txt").write_bytes(run("postqueue", "-c", conf, "-p"))
        for sender, recipients, size in MESSAGES:
            command = ["/usr/sbin/sendmail", "-C", conf, "-f", sender, "--", *recipients]
            subprocess.run(command, input=b"Subject: x\n\n" + b"x" * 70 + b"\n" + b"y\n" * (size // 2), check=True)
        while sum(len(e["recipients"]) for e in queue(conf) if e["queue_name"] == "deferred") < 7:
            time.sleep(0.2)
        held = next(e["queue_id"] for e in queue(conf) if e["sender"] == "hold@example.com")
        run("postsuper", "-c", conf, "-h", held)
        (HERE / "postfix.json").write_bytes(run("postqueue", "-c", conf, "-j"))
        (HERE / "postfix.txt").write_bytes(run("postqueue", "-c", conf, "-p"))
    finally:
        # The master is a child of a script; it ends its own children.
        os.kill(int((home / "queue/pid/master.pid").read_text()), signal.SIGTERM)
        master.wait(30)


def queue(conf: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in run("postqueue", "-c", conf, "-j").splitlines()]


CF = """\
V10/Berkeley
O QueueDirectory={queue}
O DontBlameSendmail=Safe,GroupWritableDirPathSafe
Djbox.example.com
Mlocal, P=/bin/true, F=l, A=true
Mprog, P=/bin/true, F=l, A=true
M*file*, P=[FILE], F=l, A=FILE $u
M*include*, P=/dev/null, F=l, A=INCLUDE
Ssendmail
"""
# queue id: (sender, recipients, reason, octets, body type)
SENDMAIL = {
    "0uZ4M1qZabcd": (
        "alice@example.com",
        ["bob@example.org", "carol@example.org"],
        "Deferred: 451 4.3.0 later",
        12,
        "",
    ),
    "0uZ4M1qZabce": ("", ["bob@example.org"], "", 123456789, ""),
    "0uZ4M1qZabcf": (f"alice.{LONG}", [f"bob.{LONG}"], "x" * 90, 3, "8BITMIME"),
    "0uZ4M1qZabcg": ("alice@example.com", ["bob@example.org"], "", 7, "8BITMIME"),
}


def sendmail(home: Path, root: Path) -> None:
    mail = home / "mqueue"
    mail.mkdir(mode=0o700)
    (home / "cf").write_text(CF.format(queue=mail))
    program = home / "sendmail"
    shutil.copy(root / "usr/libexec/sendmail/sendmail", program)  # not set-gid: LD_LIBRARY_PATH is needed
    program.chmod(0o755)
    libraries = {**UTC, "LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}

    def listing() -> bytes:
        # Where the machine's own name is not qualified, Sendmail would wait a minute for a better one.
        named = ["unshare", "--uts", "sh", "-c", 'hostname box.example.com; exec "$@"', "sh"]
        command = [*named, program, "-C", home / "cf", "-bp"]
        done = subprocess.run(command, env=libraries, capture_output=True, check=True)
        return done.stdout.replace(str(mail).encode(), b"/var/spool/queue")

    (HERE / "sendmail_empty.txt").write_bytes(listing())
    for number, (queue_id, (sender, recipients, reason, size, body_type)) in enumerate(SENDMAIL.items()):
        with (mail / f"df{queue_id}").open("wb") as body:
            body.truncate(size)
        lines = ["V8", f"T{ARRIVED}", "K0", "N0", f"P{number + 1}", *([f"M{reason}"] if reason else [])]
        lines += [*([f"B{body_type}"] if body_type else []), f"S<{sender}>"]
        lines += [f"RPFD:<{recipient}>" for recipient in recipients]
        (mail / f"qf{queue_id}").write_text("\n".join([*lines, "H??From: alice", ".", ""]))
        for file in mail.iterdir():
            file.chmod(0o600)
    (HERE / "sendmail.txt").write_bytes(listing())


def run(*command: str) -> bytes:
    return subprocess.run(command, env=UTC, capture_output=True, check=True).stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        postfix(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        sendmail(Path(directory), Path(sys.argv[1]))
    version = run("postconf", "-dh", "mail_version").decode().strip()
    (HERE / "versions.txt").write_text(f"Postfix {version}, Sendmail 8.17.1.9 (Debian 12)\n")


main()
