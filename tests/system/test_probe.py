"""pysendmail probe as people read it: with a daemon and without one, the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.instance import Instance, smarthost
from rig.peer import Ordinary, PeerThread


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("running", [True, False], ids=["with a daemon", "without a daemon"])
def test_what_is_shown(running: bool, tmp_path: Path, authority: Authority) -> None:
    """The certificate with its days and the pin to paste, the login, the sender as it leaves; exit 0, and no mail."""
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    password.chmod(0o600)
    provider = Ordinary(tls=authority.server(), auth="PLAIN LOGIN", only="box@example.com")
    with PeerThread(provider) as peer:
        table = smarthost(
            peer, host="localhost", tls_ca_file=authority.file, username="box", password_file=str(password)
        )
        rewrite = {"from": "force", "force_from": "box@example.com"}
        instance = Instance(tmp_path, smarthosts=[table], rewrite=rewrite)
        if running:
            with instance:
                text = instance.pysendmail("probe", "--from", "root", "--to", "bob")
        else:
            text = instance.pysendmail("probe", "--from", "root", "--to", "bob")
        assert peer.messages == []
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"main (localhost port {peer.port}): mail can go there"
    assert f'to pin it tls_fingerprints = ["{authority.fingerprint()}"]' in lines
    assert any(line.startswith("valid ") and line.endswith(" days left") for line in lines)
    assert "logins PLAIN LOGIN" in lines
    assert "AUTH PLAIN as box: accepted" in lines
    assert "MAIL FROM:<box@example.com>: 250 2.1.0 ok" in lines
    assert "RCPT TO:<bob@example.com>: 250 2.1.5 ok" in lines
    assert "open sesame" not in text


def test_what_is_refused_has_its_mend(tmp_path: Path) -> None:
    """69; the finding is the same for people and in the JSON, which `--json` gives on one line."""
    with PeerThread(Ordinary(only="box@example.com")) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        text = instance.pysendmail("probe", "--from", "root", code=69)
        found = json.loads(instance.pysendmail("probe", "--json", "--from", "root", code=69))
    first = found["findings"][0]
    assert first["text"].startswith("MAIL FROM:<root@example.com> is refused: 553 5.7.1")
    assert f"  error: {first['text']}; {first['mend']}" in text.splitlines()


def test_a_server_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    """Anybody may be at the other end of an address that is mistyped: no word of his moves a cursor."""
    odd = Ordinary(greeting="220 peer \x1b[2J", keywords=("ODD\x1b[2J",), auth="PLAIN\x1b[2J", mail="550 no \x1b[2J")
    with PeerThread(odd) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        text = instance.pysendmail("probe", "--from", "root", code=69)
    assert "\x1b" not in text
    assert [line.split()[0] for line in text.splitlines() if "\\x1b" in line] == [
        *("greeting", "offers", "AUTH", "logins", "MAIL", "error:")
    ]


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--to", "a@example.org"), 64), (("--from", "@"), 65), (("--from", "<>"), 64)], ids=str
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """A recipient without a sender, an address that is none, the null sender alone."""
    with PeerThread() as peer:
        Instance(tmp_path, smarthosts=[smarthost(peer)]).pysendmail("probe", *arguments, code=code)
        assert peer.clients == []
