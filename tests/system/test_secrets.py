"""Where a password comes from, while the daemon runs: looked at again at each connection, named when it is missing."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.instance import Instance, smarthost
from rig.peer import Ordinary, PeerThread

OLD, NEW = "open sesame", "close sesame"


def plain(password: str) -> str:
    """The SASL exchange."""
    return "PLAIN " + base64.b64encode(b"\0box\0" + password.encode()).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_missing_password_file_stops_nothing_and_is_named(tmp_path: Path, authority: Authority) -> None:
    """The daemon starts; the mail waits unblamed; status, explain, check name the file; it flows once that is there."""
    file = tmp_path / "password"
    with PeerThread(Ordinary(tls=authority.server(), auth="PLAIN")) as peer:
        table = smarthost(
            peer, host="localhost", tls_ca_file=str(authority.file), username="box", password_file=str(file)
        )
        with Instance(tmp_path, smarthosts=[table]) as instance:
            why = f"smarthost main: password_file {file}: No such file or directory"
            instance.submit("bob@example.org")
            assert why in instance.wait_for("trouble")["reason"]
            report = json.loads(instance.pysendmail("status", "--json", code=2))
            assert why in report["smarthosts"][0]["reason"]
            assert why in instance.pysendmail("queue", "explain", "--all")
            assert f"{file}: No such file or directory" in instance.pysendmail("check", code=78)
            [waiting] = instance.mailq()
            assert (waiting["attempts"], waiting["recipients"][0]["delay_reason"]) == (0, why)
            assert peer.clients == []  # nobody is connected to for nothing

            file.write_text(OLD + "\n")
            file.chmod(0o644)  # the daemon may be anybody; this one is for everybody
            instance.pysendmail("flush")
            assert "mode 0644" in instance.wait_for("trouble", count=2)["reason"]
            file.chmod(0o600)
            instance.pysendmail("flush")
            instance.wait_for("outcome", status="sent")
            assert peer.exchanges == [plain(OLD)]
            assert instance.status()["smarthosts"][0]["state"] == "up"


def test_a_password_is_read_at_each_connection(tmp_path: Path, authority: Authority) -> None:
    """File and command alike: a changed password and a fresh token need neither restart nor reload."""
    file = tmp_path / "password"
    file.touch(0o600)
    show = [sys.executable, "-I", "-S", "-c", f"print(open({str(file)!r}).read())"]
    with PeerThread(Ordinary(tls=authority.server(), auth="PLAIN")) as peer:
        for source in ({"password_file": str(file)}, {"password_command": show}):
            table = smarthost(peer, host="localhost", tls_ca_file=str(authority.file), username="box", **source)
            table["messages_per_connection"] = 1
            with Instance(tmp_path, smarthosts=[table]) as instance:
                for number, password in enumerate((OLD, NEW), 1):
                    file.write_text(password)
                    instance.submit("bob@example.org")
                    instance.wait_for("outcome", count=number, status="sent")
        assert peer.exchanges == [plain(OLD), plain(NEW)] * 2


@pytest.mark.parametrize("stage", ["AUTH", "MAIL", "command"])
def test_promise_8_no_secret_is_shown_by_what_goes_wrong(tmp_path: Path, authority: Authority, stage: str) -> None:
    """A reply that repeats the password, a command that fails with it on both outputs: it is in no log, history,
    status, explanation, file of the queue, command line or environment; and no core file is ever written."""
    told = f"535 5.7.8 no {OLD}: {plain(OLD)}"
    good = Ordinary(tls=authority.server(), auth="PLAIN")
    behaviour = replace(good, users={plain(OLD): told}) if stage == "AUTH" else replace(good, mail=told)
    file, helper = tmp_path / "password", tmp_path / "helper"
    file.write_text(OLD)
    file.chmod(0o400)
    helper.write_text(f"import sys; print({OLD!r}); sys.exit({OLD!r})")
    fails = {"password_command": [sys.executable, "-I", "-S", str(helper)]}
    source = fails if stage == "command" else {"password_file": str(file)}
    with PeerThread(behaviour) as peer:
        table = smarthost(peer, host="localhost", tls_ca_file=str(authority.file), username="box", **source)
        with Instance(tmp_path, smarthosts=[table]) as instance:
            instance.submit("-f", "alice@example.com", "bob@example.org")
            instance.wait_for("outcome", status="deferred")
            assert peer.exchanges == ([] if stage == "command" else [plain(OLD)])
            assert instance.process is not None
            process = Path(f"/proc/{instance.process.pid}")
            said = instance.pysendmail("status", "--json", code=None) + instance.pysendmail("check", code=None)
            said += instance.pysendmail("queue", "explain", "--all") + json.dumps(instance.history())
            said += (process / "cmdline").read_text() + (process / "environ").read_text()
            cores = next(line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core"))
            assert cores.split()[4:6] == ["0", "0"]
            assert instance.stop() == 0
            said += instance.log
            said += "".join(one.read_bytes().decode("latin-1") for one in instance.queue_directory.iterdir())
        for spelling in (OLD, plain(OLD).removeprefix("PLAIN "), base64.b64encode(OLD.encode()).decode()):
            assert spelling not in said
