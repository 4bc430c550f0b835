"""What sendmail does beside taking a message, by the installed commands: the same with a daemon and without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import BIN, Instance, smarthost
from rig.peer import Ordinary, PeerThread

MAIL = b"Subject: x\n\nhello\n"
ALIASES = "root: bob@example.org, carol@example.org\nloop: pool\npool: loop\n"
BACKUP = {
    "name": "backup",
    "host": "backup.example.net",
    "tls": "encrypt",
    "from": "force",
    "force_from": "a@b.example",
}
ROUTES = [{"recipient": "*@nowhere.example", "smarthost": ["backup"]}]


@pytest.fixture(scope="module", params=["with a daemon", "without a daemon"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with PeerThread() as peer:
        made = Instance(tmp_path_factory.mktemp("modes"), smarthosts=[smarthost(peer), BACKUP], route=ROUTES)
        (made.directory / "aliases").write_text(ALIASES)
        if request.param == "without a daemon":
            yield made
            return
        with made:
            yield made


def words(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str, int]:
    return done.returncode, done.stdout.decode(), len(done.stderr.splitlines())


def test_bv_says_where_mail_would_go_and_sends_nothing(instance: Instance) -> None:
    """Each address of each argument, through the aliases, with the smarthosts in order."""
    code, said, errors = words(instance.by_name("sendmail", "-bv", "root", "Dave <d@nowhere.example>, e@example.org"))
    lines = said.splitlines()
    assert (code, errors) == (0, 0)
    assert lines[0] == "root... stands for bob@example.org, carol@example.org"
    assert [line.partition("...")[0] for line in lines[1:]] == [
        "bob@example.org", "carol@example.org", "d@nowhere.example", "e@example.org",
    ]  # fmt: skip
    assert lines[3].endswith("deliverable: by backup (backup.example.net port 587)")
    assert " or backup " in lines[4]
    assert instance.history() == []


@pytest.mark.parametrize("bad", ["a@@b", "loop", "", "()", "a b@example.org", "-x@example.org"])
def test_bv_is_67_for_what_no_mail_can_be_sent_to(instance: Instance, bad: str) -> None:
    """The others are shown all the same; one line on stderr says what is wrong."""
    code, said, errors = words(instance.by_name("sendmail", "-bv", "--", bad, "bob@example.org"))
    assert (code, errors) == (67, 1)
    assert "undeliverable" in said.splitlines()[0]
    assert said.splitlines()[-1].startswith("bob@example.org... deliverable")


def test_bv_without_a_smarthost_is_69(tmp_path: Path) -> None:
    """The address is good, but mail would wait."""
    code, said, errors = words(Instance(tmp_path).by_name("sendmail", "-bv", "bob@example.org"))
    assert (code, errors, "would wait: no smarthost is configured" in said) == (69, 1, True)


def test_bv_is_69_while_the_smarthosts_are_in_trouble(tmp_path: Path) -> None:
    """What the daemon knows of them counts; 67 goes before it."""
    with Instance(tmp_path, smarthosts=[{"name": "main", "host": "127.0.0.1", "port": 1}]) as instance:
        instance.submit("bob@example.org")
        instance.wait_for("trouble")
        assert instance.by_name("sendmail", "-bv", "bob@example.org").returncode == 69
        assert instance.by_name("sendmail", "-bv", "bob@example.org", "a@@b").returncode == 67
        code, said, errors = words(instance.by_name("sendmail", "-bh"))
        assert (code, errors, said.splitlines()[1].split()[:2]) == (0, 0, ["main", "trouble"])
        seen = len(instance.events)
        assert words(instance.by_name("sendmail", "-bH")) == (0, "", 0)
        instance.wait_for("trouble", after=seen)  # it was tried at once


@pytest.mark.parametrize("by", ["arguments", "input"])
def test_bt_shows_all_that_is_decided(instance: Instance, by: str) -> None:
    """Sender, route, TLS and rewriting, for addresses in the arguments or a line each on standard input."""
    given = ["--", "d@nowhere.example"] if by == "arguments" else []
    stdin = b"" if by == "arguments" else b"\nd@nowhere.example\nx y@z"
    code, said, errors = words(instance.by_name("sendmail", "-bt", "-f", "me@example.com", *given, stdin=stdin))
    assert (code, errors) == (0, 0)
    for fact in ("me@example.com", "backup.example.net", "encrypt, by STARTTLS", "force a@b.example"):
        assert fact in said
    assert ("undeliverable" in said) == (by == "input")


def test_hoststat_and_purgestat_need_a_daemon(tmp_path: Path) -> None:
    """Nobody else knows how the smarthosts are: 69 and one line."""
    for option in ("-bh", "-bH"):
        assert words(Instance(tmp_path).by_name("sendmail", option)) == (69, "", 1)


def test_bc_checks_the_configuration(tmp_path: Path) -> None:
    """As `pysendmail check`: findings and 0, or 78."""
    instance = Instance(tmp_path, smarthosts=[{"name": "main", "host": "127.0.0.1"}])
    assert instance.by_name("sendmail", "-bC").returncode == 0
    instance.config.write_text(instance.config.read_text() + "[queue2]\n")
    done = instance.by_name("sendmail", "-bC")
    assert (done.returncode, b"queue2" in done.stdout) == (78, True)


def test_bd_in_capitals_is_the_daemon(tmp_path: Path) -> None:
    """-bD -q15m runs it in the foreground, until SIGTERM; -bd and -bl name the unit."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        environment = {**os.environ, "PYSENDMAIL_CONFIG": str(instance.config)}
        command = [str(BIN / "sendmail"), "-bD", "-q15m"]
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as daemon:
            assert daemon.stderr is not None
            assert b"event=start" in daemon.stderr.readline()
            instance.submit("bob@example.org")
            peer.wait_until(lambda: peer.messages)
            daemon.terminate()
            assert daemon.wait(30) == 0
        for option in ("-bd", "-bl"):
            done = instance.by_name("sendmail", option)
            assert (done.returncode, b"pysendmail.service" in done.stderr) == (64, True)


@pytest.mark.parametrize("option", ["-odq", "-odd", "-bq", "-ODeliveryMode=q"])
def test_queue_only_waits_for_a_flush(tmp_path: Path, option: str) -> None:
    """It is due at the next flush, or after [retry] maximum; other mail goes first and at once."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit(option, "later@example.org")
        instance.submit("now@example.org")
        instance.wait_for("outcome", status="sent", recipient="<now@example.org>")
        [entry] = instance.mailq()
        assert (entry["queue_name"], entry["attempts"]) == ("incoming", 0)
        assert instance.by_name("sendmail", "-q").returncode == 0
        instance.wait_for("outcome", status="sent", recipient="<later@example.org>")


def test_timeout_queuereturn_is_the_lifetime_of_this_message(tmp_path: Path) -> None:
    """Of two that are deferred alike, the one that was told so expires, and its sender gets the one bounce."""
    quick = {"first": "0.1s", "maximum": "0.1s", "jitter": 0.0}
    with (
        PeerThread(Ordinary(rcpt={"bob@example.org": "451 4.3.0 later"})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry=quick) as instance,
    ):
        instance.submit("-f", "me@example.com", "bob@example.org")
        stays = instance.wait_for("accepted")["queue_id"]
        instance.submit("-f", "me@example.com", "-O", "Timeout.queuereturn=0.3s", "bob@example.org")
        expires = instance.wait_for("accepted", count=2)["queue_id"]
        instance.wait_for("outcome", queue_id=expires, status="expired")
        instance.wait_for("outcome", recipient="<me@example.com>", status="sent")
        instance.wait_for("outcome", queue_id=stays, status="deferred", count=2)
        assert [entry["queue_id"] for entry in instance.mailq()] == [stays]
        assert len(peer.messages) == 1


def test_the_filters_of_q_choose_what_is_flushed_listed_and_counted(tmp_path: Path) -> None:
    """-qI, -qS and -qR, several together, with "!" for the others."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for name in ("one", "two", "three"):
            instance.submit("-odq", "-f", f"from{name}@example.com", f"{name}@example.org")
        ids = {entry["sender"]: entry["queue_id"] for entry in instance.mailq()}
        assert instance.by_name("sendmail", "-bP", "-q!Rone@").stdout == b"2\n"
        assert instance.by_name("mailq", f"-qI{ids['fromtwo@example.com']}").stdout.count(b"two@") == 2
        assert instance.by_name("sendmail", "-qS<FROMTWO@", "-q!Rone@").returncode == 0
        instance.wait_for("outcome", status="sent", recipient="<two@example.org>")
        assert instance.by_name("sendmail", "-v", "-q!Rthree").stdout == b"messages that are due now: 1\n"
        instance.wait_for("outcome", status="sent", recipient="<one@example.org>")
        assert [entry["sender"] for entry in instance.mailq()] == ["fromthree@example.com"]


def test_qf_waits_until_what_is_due_was_tried(tmp_path: Path) -> None:
    """It ends with the attempts, shows them with -v, and waits for no smarthost in trouble."""
    refusing = Ordinary(rcpt={"later@example.org": "451 4.2.1 not now"})
    with PeerThread(refusing) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("-odq", "ok@example.org", "later@example.org")
        said = instance.by_name("sendmail", "-v", "-qf").stdout.decode()
        assert "<ok@example.org> sent" in said and "<later@example.org> deferred" in said
        assert [entry["attempts"] for entry in instance.mailq()] == [1]
    down = Instance(tmp_path, smarthosts=[{"name": "main", "host": "127.0.0.1", "port": 1}])
    with down:
        assert down.by_name("runq", "-qf").returncode == 0
        assert len(down.matching("outcome")) == 1


def test_qf_without_a_daemon_delivers(tmp_path: Path) -> None:
    """There is nobody else to wait for."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.submit("-odq", "bob@example.org")
        assert instance.by_name("sendmail", "-qf").returncode == 0
        assert len(peer.messages) == 1


def test_capital_q_holds_what_the_filters_choose(tmp_path: Path) -> None:
    """A user holds his own, root anybody's; the reason is in the log."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for name in ("one", "two"):
            instance.submit("-odq", f"{name}@example.org")
        said = instance.by_name("sendmail", "-Qlooks odd", "-qRone@").stdout
        [held] = [entry["queue_id"] for entry in instance.mailq() if entry["queue_name"] == "hold"]
        assert said == f"{held}: held\n".encode()
        assert instance.wait_for("held", queue_id=held)["reason"] == "looks odd"


def test_error_mode_quiet_leaves_out_the_words(instance: Instance) -> None:
    """-oeq: the exit status alone; the other modes say why, and none makes a refusal a success."""
    for mode in "mpwe":
        assert words(instance.sendmail(f"-oe{mode}", "a@@b", text=MAIL)) == (65, "", 1)
    for option in (["-oeq"], ["-e", "q"], ["-O", "ErrorMode=q"]):
        assert words(instance.sendmail(*option, "a@@b", text=MAIL)) == (65, "", 0)


def test_d_says_which_queue_is_meant(instance: Instance) -> None:
    """Configuration and socket, on standard error."""
    said = instance.by_name("sendmail", "-d7.1", "-bP").stderr.decode()
    assert str(instance.config) in said and str(instance.socket) in said


def test_a_tag_is_in_the_log(tmp_path: Path) -> None:
    """-L, without what could be taken for more of the line."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("-L", "back up", "bob@example.org")
        assert instance.wait_for("accepted")["tag"] == "back_up"


def test_a_user_ends_no_rest_and_holds_only_his_own(open_path: Path, other: int) -> None:
    """purgestat is 77 for him; what is another's is not there for -Q and the filters."""
    with PeerThread() as peer, Instance(open_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("-odq", "bob@example.org")
        assert words(instance.by_name("sendmail", "-bH", uid=other)) == (77, "", 1)
        assert words(instance.by_name("sendmail", "-Qx", "-qRbob", uid=other)) == (0, "", 0)
        assert words(instance.by_name("sendmail", "-bP", uid=other)) == (0, "0\n", 0)
        assert [entry["queue_name"] for entry in instance.mailq()] == ["incoming"]
