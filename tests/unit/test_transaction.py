"""The transaction without I/O: every dialogue, whole and octet by octet, and what dialogues cannot say."""

import pytest

from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Fault, Outcome, Result, Scope
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import Reply, ReplyReader
from pysendmail.smtp.transaction import RECIPIENTS_PER_GROUP, Ask, Transaction
from rig.dialogue import SENDER, Dialogue, load

FAULTS = {"close": Fault.CLOSED, "reset": Fault.CLOSED, "stall": Fault.TIMEOUT}


def words(result: Result) -> tuple[str, ...]:
    """A result as a dialogue states it."""
    return (result.outcome, result.status, result.scope, *(["again"] if result.again else []))


def envelope(*addresses: str, **more: object) -> Envelope:
    return Envelope(
        sender=SENDER,
        recipients=tuple(Recipient(address=address) for address in addresses),
        **more,  # type: ignore[arg-type]
    )


def drive(transaction: Transaction, dialogue: Dialogue, *, at_once: bool) -> None:
    """Play the dialogue's server to the transaction."""
    reader = ReplyReader()
    lines: list[str] = []
    for kind, text in dialogue.groups:
        if not transaction.usable:
            return
        if kind == "send":
            assert isinstance(text, bytes)
            for piece in [text] if at_once else [text[i : i + 1] for i in range(len(text))]:
                for reply in reader.feed(piece):
                    transaction.receive(reply)
            if reader.broken:
                transaction.fail(Fault.GARBAGE, reader.broken)
        elif kind == "C":
            assert isinstance(text, str)
            if not lines:
                step = transaction.next()
                if step is Ask.BODY:
                    transaction.ending()
                    step = b".\r\n"
                assert isinstance(step, bytes), f"the transaction is over, the dialogue wants {text}"
                lines = step.decode().splitlines()
            assert lines.pop(0).startswith(text)
        else:
            transaction.fail(FAULTS[kind], "the connection failed")
    if transaction.usable:
        assert transaction.next() is None
    assert not lines


@pytest.mark.parametrize("at_once", [True, False], ids=["whole", "octets"])
@pytest.mark.parametrize("dialogue", [d for d in load() if not d.whole_session], ids=lambda d: d.name)
def test_dialogue(dialogue: Dialogue, at_once: bool) -> None:
    """Each recipient's result and the connection's fate are as the dialogue says, in any segmentation."""
    extensions = Extensions.parse([b"peer.example", *(text.encode() for text in dialogue.offers)])
    transaction = Transaction(envelope(*dialogue.recipients), extensions, size=100, eight_bit=False)
    drive(transaction, dialogue, at_once=at_once)
    assert dialogue.results == [words(result) for result in transaction.results]
    assert dialogue.usable is transaction.usable


def test_too_big_is_refused_before_mail() -> None:
    """A message above the declared SIZE is bounced without a word to the server (RFC 1870 §6.1)."""
    transaction = Transaction(envelope("a@b.c"), Extensions(size=99, declares_size=True), size=100, eight_bit=False)
    assert transaction.next() is None
    assert [words(result) for result in transaction.results] == [("bounced", "5.3.4", "message")]
    assert transaction.usable


@pytest.mark.parametrize(
    "asked",
    [
        Envelope(sender="jürgen@example.org", recipients=(Recipient(address="a@b.c"),)),
        Envelope(sender="s@example.org", recipients=(Recipient(address="a@b.c"),), smtputf8=True),
    ],
    ids=["sender", "-U"],
)
def test_smtputf8_of_the_whole_message(asked: Envelope) -> None:
    """A sender that needs SMTPUTF8, or -U, fails all recipients where the server lacks it."""
    transaction = Transaction(asked, Extensions(), size=1, eight_bit=False)
    assert transaction.next() is None
    assert [words(result) for result in transaction.results] == [("bounced", "5.6.7", "recipient")]


def test_groups_are_bounded() -> None:
    """A thousand recipients go in groups, so that neither side fills the other's window with unread replies."""
    count = 2 * RECIPIENTS_PER_GROUP + 1
    addresses = [f"r{number}@example.org" for number in range(count)]
    transaction = Transaction(envelope(*addresses), Extensions(pipelining=True), size=1, eight_bit=False)
    sizes = []
    while (step := transaction.next()) is not None:
        if step is Ask.BODY:
            transaction.ending()
            transaction.receive(Reply(250, (b"ok",)))
            continue
        assert isinstance(step, bytes)
        lines = step.splitlines()
        sizes.append(len(lines))
        for line in lines:
            transaction.receive(Reply(354 if line == b"DATA" else 250, (b"ok",)))
    assert sizes == [1 + RECIPIENTS_PER_GROUP, RECIPIENTS_PER_GROUP, 2]
    assert {Outcome.SENT} == {result.outcome for result in transaction.results}


def test_dsn_is_asked_where_offered() -> None:
    """RET, ENVID, NOTIFY and ORCPT go to a server with DSN, and only there."""
    asked = Envelope(
        sender="s@example.org",
        recipients=(
            Recipient(address="a@b.c", notify=frozenset({"success", "failure"}), orcpt="rfc822;a+x=y@b.c"),
            Recipient(address="b@b.c"),
        ),
        envid="id 1",
        ret="hdrs",
    )
    offered = Transaction(asked, Extensions(pipelining=True, dsn=True), size=1, eight_bit=False)
    assert offered.next() == (
        b"MAIL FROM:<s@example.org> RET=HDRS ENVID=id+201\r\n"
        b"RCPT TO:<a@b.c> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;a+2Bx+3Dy@b.c\r\n"
        b"RCPT TO:<b@b.c>\r\n"
        b"DATA\r\n"
    )
    lacking = Transaction(asked, Extensions(pipelining=True), size=1, eight_bit=False)
    assert lacking.next() == b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@b.c>\r\nRCPT TO:<b@b.c>\r\nDATA\r\n"
    for code in (250, 250, 250, 354):
        lacking.receive(Reply(code, (b"ok",)))
    assert lacking.next() is Ask.BODY
    lacking.ending()
    lacking.receive(Reply(250, (b"ok",)))
    assert [result.relayed for result in lacking.results] == [True, False]


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([], "deferred"),
        ([250], "deferred"),
        ([250, 250], "deferred"),
        ([250, 250, 354], "deferred"),
        ([250, 250, 354, "dot"], "uncertain"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fault", [Fault.CLOSED, Fault.TIMEOUT, Fault.GARBAGE, Fault.INTERNAL])
def test_uncertain_only_after_the_dot(steps: list[int | str], outcome: str, fault: Fault) -> None:
    """A failure leaves a message uncertain only once its final dot was on the way."""
    transaction = Transaction(envelope("a@b.c"), Extensions(), size=1, eight_bit=False)
    transaction.next()
    for step in steps:
        if step == "dot":
            transaction.ending()
        else:
            assert isinstance(step, int)
            transaction.receive(Reply(step, (b"ok",)))
            transaction.next()
    transaction.fail(fault, "it broke")
    assert outcome == transaction.results[0].outcome
    assert not transaction.usable
    assert transaction.next() is None


def test_an_address_that_cannot_be_written_fails_alone() -> None:
    """What should never have come so far is deferred as a fault of ours, and no octet of it is written."""
    transaction = Transaction(
        envelope("a@b.c> NOTIFY=NEVER", "x\r\nRSET@b.c", "b@b.c"),
        Extensions(pipelining=True),
        size=1,
        eight_bit=False,
    )
    assert transaction.next() == b"MAIL FROM:<s@example.org>\r\nRCPT TO:<b@b.c>\r\nDATA\r\n"
    assert [(r.outcome, r.scope) for r in transaction.results] == [(Outcome.DEFERRED, Scope.MESSAGE)] * 2


@pytest.mark.parametrize("address", ["\u00fc\r\n@b.c", "\u00fc b@c.d", "a@b.c\0"])
@pytest.mark.parametrize(
    "extensions", [Extensions(), Extensions(smtputf8=True, pipelining=True)], ids=["plain", "utf8"]
)
def test_an_odd_address_raises_nothing(address: str, extensions: Extensions) -> None:
    """As a recipient it fails alone, as a sender it fails all; nothing is written for it."""
    one = Transaction(envelope(address, "b@b.c"), extensions, size=1, eight_bit=False)
    assert isinstance(one.next(), bytes)
    assert [result.outcome for result in one.results] == [Outcome.DEFERRED]
    asked = Envelope(sender=address, recipients=(Recipient(address="b@b.c"),))
    every = Transaction(asked, extensions, size=1, eight_bit=False)
    assert every.next() is None
    assert [result.outcome for result in every.results] == [Outcome.DEFERRED]


def test_eight_bit_is_declared_where_offered() -> None:
    """BODY=8BITMIME and SIZE, each only to a server that knows it."""
    knows = Transaction(envelope("a@b.c"), Extensions(eight_bit=True, declares_size=True), size=7, eight_bit=True)
    assert knows.next() == b"MAIL FROM:<s@example.org> SIZE=7 BODY=8BITMIME\r\n"
    lacks = Transaction(envelope("a@b.c"), Extensions(), size=7, eight_bit=True)
    assert lacks.next() == b"MAIL FROM:<s@example.org>\r\n"


@pytest.mark.parametrize(("code", "untouched"), [(421, True), (451, False), (250, False)])
def test_untouched(code: int, untouched: bool) -> None:
    """A reused connection that meets MAIL with 421, or nothing, was dead already: that was no attempt."""
    transaction = Transaction(envelope("a@b.c"), Extensions(), size=1, eight_bit=False)
    transaction.next()
    transaction.receive(Reply(code, (b"",)))
    assert untouched is transaction.untouched
