"""Real smarthosts: Postfix, Exim and OpenSMTPD of Debian, with rules that refuse and put off; each case is a message.

Each of them in clear and under verified TLS, with a login where it has one: a whole pysendmail outside its root, which
shares only the network with it, hands over mail that is taken, refused or put off, at RCPT, at MAIL and after the final
dot. What the MTA has accepted it relays to a server that keeps it. That has to be exactly what was submitted, once; and
of what was refused there is one bounce, with the words of the MTA.

A sample has two cases of one MTA. `--only MTA/MODE/CASE` plays one, `--only MTA` all of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.debian import program
from rig.instance import Event, Instance
from rig.mtas import MTAS, PASSWORD, PORT, REPLIES, SINK_PORT, USER, Mta
from rig.peer import Message, Ordinary, PeerThread
from torture.cells import fresh
from torture.evidence import Violation
from torture.report import Part, Size

MODES = ("clear", "TLS")
LINE = b"a line that says something, and another one after it\n"
BODY = b".a dot at its beginning\n\xc3\xa9 and eight bits\n" + b"x" * 900 + b"\n.\n\n..two\n \nthe end\n"
LARGE = LINE * ((2 << 20) // len(LINE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One MTA, one mode, one case."""

    mta: Mta
    mode: str
    directory: Path
    authority: Authority
    sink: PeerThread
    wrapper: Sequence[str]
    tag: str  # in each address, so that cases do not meet

    def address(self, name: str) -> str:
        return f"{name}.{self.tag}@example.org"

    @contextmanager
    def instance(self, password: str = PASSWORD) -> Iterator[Instance]:
        """A pysendmail of its own, whose daemon is in the MTA's network."""
        tls = self.mode == "TLS"
        table = {"name": "main", "host": "localhost", "port": PORT, "tls": "verify" if tls else "none"}
        table |= {"tls_ca_file": self.authority.file, "messages_per_connection": 1}
        if tls and self.mta.logs_in:
            (file := self.directory / "password").write_text(f"{password}\n")
            file.chmod(0o600)
            table |= {"username": USER, "password_file": str(file)}
        instance = Instance(self.directory, smarthosts=[table], retry={"first": "1s", "factor": 1.0, "jitter": 0.0})
        try:
            instance.start(wrapper=self.wrapper)
            yield instance
        finally:
            instance.__exit__()

    def arrived(self, address: str) -> list[Message]:
        """What the MTA has relayed to this address."""
        return [one for one in self.sink.messages if any(f"<{address}>" in to for to in one.recipients)]

    def wait_for_arrival(self, address: str) -> Message:
        self.sink.wait_until(lambda: self.arrived(address))
        return self.arrived(address)[0]

    def submit(self, instance: Instance, *recipients: str, sender: str = "", body: bytes = BODY) -> None:
        text = f"To: {recipients[0]}\nSubject: {self.tag}\n\n".encode() + body
        instance.submit("-i", "-f", sender or self.address("alice"), *recipients, text=text)

    def take_back(self, rule: str, instance: Instance) -> None:
        """The rule, as a connection sees it that is opened from now on; what waited still does after a restart."""
        assert instance.stop() == 0
        self.mta.rule(rule)
        instance.start(wrapper=self.wrapper)

    def check_bounce(self, instance: Instance, rule: str, *failed: str, sender: str) -> None:
        """One, from nobody, with the MTA's words."""
        for address in failed:
            instance.wait_for("outcome", recipient=f"<{address}>", status="bounced")
        bounce = self.wait_for_arrival(sender)
        assert bounce.sender.startswith("<>")
        assert REPLIES[rule].split(" ", 2)[2].encode() in bounce.content
        assert all(f"Final-Recipient: rfc822; {address}".encode() in bounce.content for address in failed)
        assert len(self.arrived(sender)) == 1


def is_taken(scene: Scene) -> None:
    """Mail arrives, octet by octet, over TLS where that is wanted."""
    with scene.instance() as instance:
        bob = scene.address("bob")
        scene.submit(instance, bob)
        outcome = instance.wait_for("outcome", recipient=f"<{bob}>", status="sent")
        check_arrival(scene, bob, outcome, BODY)


def is_large(scene: Scene) -> None:
    """So does a large message."""
    with scene.instance() as instance:
        bob = scene.address("bob")
        scene.submit(instance, bob, body=LARGE)
        outcome = instance.wait_for("outcome", recipient=f"<{bob}>", status="sent")
        check_arrival(scene, bob, outcome, LARGE)


def one_of_three_is_refused(scene: Scene) -> None:
    """The others have the mail; the one is in a bounce."""
    alice, first, gone, last = (scene.address(name) for name in ("alice", "first", "gone", "last"))
    scene.mta.rule("gone", gone)
    with scene.instance() as instance:
        scene.submit(instance, first, gone, last, sender=alice)
        scene.check_bounce(instance, "gone", gone, sender=alice)
        for address in (first, last):
            instance.wait_for("outcome", recipient=f"<{address}>", status="sent")
            scene.wait_for_arrival(address)
        assert not scene.arrived(gone)


def a_sender_is_refused(scene: Scene) -> None:
    """At MAIL: all recipients are in one bounce."""
    wait_for_refusal(scene, "refused")


def a_text_is_refused(scene: Scene) -> None:
    """After the final dot: the same."""
    wait_for_refusal(scene, "spam")


def a_recipient_is_put_off(scene: Scene) -> None:
    """He gets the mail when he may have it; the other has it already, and only once."""
    bob, later = scene.address("bob"), scene.address("later")
    scene.mta.rule("later", later)
    with scene.instance() as instance:
        scene.submit(instance, bob, later)
        instance.wait_for("outcome", recipient=f"<{bob}>", status="sent")
        instance.wait_for("outcome", recipient=f"<{later}>", status="deferred")
        scene.take_back("later", instance)
        outcome = instance.wait_for("outcome", recipient=f"<{later}>", status="sent")
        check_arrival(scene, later, outcome, BODY)
        assert len(scene.arrived(bob)) == 1


def a_text_is_put_off(scene: Scene) -> None:
    """After the final dot."""
    slow, bob = scene.address("slow"), scene.address("bob")
    scene.mta.rule("slow", slow)
    with scene.instance() as instance:
        scene.submit(instance, bob, sender=slow)
        instance.wait_for("outcome", recipient=f"<{bob}>", status="deferred")
        scene.take_back("slow", instance)
        outcome = instance.wait_for("outcome", recipient=f"<{bob}>", status="sent")
        check_arrival(scene, bob, outcome, BODY)


def a_password_is_refused(scene: Scene) -> None:
    """The smarthost rests, no message is to blame, and the right password lets it go."""
    with scene.instance("wrong") as instance:
        bob = scene.address("bob")
        scene.submit(instance, bob)
        assert instance.wait_for("trouble")["reason"].startswith("535")
        (scene.directory / "password").write_text(f"{PASSWORD}\n")
        instance.pysendmail("flush")
        outcome = instance.wait_for("outcome", recipient=f"<{bob}>", status="sent")
        check_arrival(scene, bob, outcome, BODY)


CASES: Mapping[str, Callable[[Scene], None]] = {
    case.__name__.replace("_", " "): case
    for case in (
        *(is_taken, one_of_three_is_refused, a_recipient_is_put_off, a_sender_is_refused, a_text_is_refused),
        *(a_text_is_put_off, a_password_is_refused, is_large),
    )
}


def wait_for_refusal(scene: Scene, rule: str) -> None:
    sender, first, last = (scene.address(name) for name in (rule, "first", "last"))
    scene.mta.rule(rule, sender)
    with scene.instance() as instance:
        scene.submit(instance, first, last, sender=sender)
        scene.check_bounce(instance, rule, first, last, sender=sender)
        assert not scene.arrived(first) + scene.arrived(last)


def check_arrival(scene: Scene, address: str, outcome: Event, body: bytes) -> None:
    """Once, whole, and by the way that was meant."""
    assert outcome["tls"].startswith("TLSv1.") if scene.mode == "TLS" else outcome["tls"] == "none"
    message = scene.wait_for_arrival(address)
    header, _, text = message.content.partition(b"\r\n\r\n")
    assert text == body.replace(b"\n", b"\r\n"), "the text is another"
    assert b"by box.example.com (pysendmail, from uid " in header
    assert len(scene.arrived(address)) == 1


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="peers", seed=seed)
    authority = Authority(directory)
    chosen = [
        (kind, mode, case)
        for kind in MTAS
        for mode in MODES
        for case in CASES
        if CASES[case] is not a_password_is_refused or (mode == "TLS" and kind.logs_in)
    ]
    if only:
        chosen = [one for one in chosen if f"{_name(*one)}/".startswith(f"{only}/")]
    elif size.name == "sample":
        chosen = [(MTAS[-1], "TLS", case) for case in (*CASES,)[:2]]
    for kind in MTAS:
        if mine := [(mode, case) for which, mode, case in chosen if which is kind]:
            try:
                _play(part, kind, mine, directory, authority)
            except pytest.skip.Exception as skipped:
                part.skip(f"{kind.who} ({len(mine)} cases)", str(skipped))
    return part


def _name(kind: type[Mta], mode: str, case: str) -> str:
    return f"{kind.who}/{mode}/{case}"


def _play(
    part: Part, kind: type[Mta], chosen: Sequence[tuple[str, str]], directory: Path, authority: Authority
) -> None:
    nsenter = program("nsenter", "util-linux")
    with kind(fresh(directory, kind.who), authority) as mta:
        part.note(f"{kind.who} {mta.version()}")
        wrapper = [nsenter, f"--net={mta.root.network}"]
        with PeerThread(Ordinary(), network=mta.root.network, port=SINK_PORT) as sink:
            for number, (mode, case) in enumerate(chosen):
                scene = Scene(
                    mta=mta,
                    mode=mode,
                    directory=fresh(directory, f"{kind.who}-{number}"),
                    authority=authority,
                    sink=sink,
                    wrapper=wrapper,
                    tag=f"{kind.who}{number}",
                )
                name = _name(kind, mode, case)
                part.case(name, _violations(scene, case), again=f"python -m torture peers --only {name!r}")


def _violations(scene: Scene, case: str) -> list[Violation]:
    try:
        CASES[case](scene)
    except AssertionError as error:
        return [Violation(invariant="peers", text=str(error) or repr(error))]
    return []
