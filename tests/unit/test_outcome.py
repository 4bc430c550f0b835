"""The outcome table, row by row: whom a failure concerns and what it means."""

import pytest

from pysendmail.outcome import FAULT_STATUS, Fault, Outcome, Result, Scope, Stage, Trouble, Verdict, judge
from pysendmail.smtp.reply import Reply

# stage, what came, scope, outcome
REPLIES = """
connect   421  session    deferred
greeting  554  smarthost  deferred
greeting  421  session    deferred
greeting  451  session    deferred
greeting  250  smarthost  deferred
ehlo      550  smarthost  deferred
ehlo      451  session    deferred
starttls  454  smarthost  deferred
starttls  501  smarthost  deferred
starttls  421  session    deferred
auth      535  smarthost  deferred
auth      534  smarthost  deferred
auth      538  smarthost  deferred
auth      454  smarthost  deferred
auth      421  session    deferred
auth      250  smarthost  deferred
mail      550  message    bounced
mail      552  message    bounced
mail      451  message    deferred
mail      452  message    deferred
mail      421  session    deferred
mail      530  smarthost  deferred
mail      535  smarthost  deferred
mail      250  session    deferred
mail      354  session    deferred
rcpt      550  recipient  bounced
rcpt      551  recipient  bounced
rcpt      553  recipient  bounced
rcpt      450  recipient  deferred
rcpt      452  recipient  deferred
rcpt      552  recipient  deferred
rcpt      421  session    deferred
rcpt      530  smarthost  deferred
rcpt      538  smarthost  deferred
rcpt      354  session    deferred
data      554  message    bounced
data      503  message    bounced
data      451  message    deferred
data      421  session    deferred
data      534  smarthost  deferred
data      250  session    deferred
body      250  session    deferred
body      421  session    deferred
dot       250  message    sent
dot       255  message    sent
dot       550  message    bounced
dot       552  message    bounced
dot       451  message    deferred
dot       452  message    deferred
dot       421  session    deferred
dot       535  smarthost  deferred
dot       354  session    uncertain
rset      250  session    deferred
rset      500  session    deferred
"""
FAULTS = """
connect   name         smarthost  deferred
connect   unreachable  smarthost  deferred
connect   timeout      smarthost  deferred
greeting  unreachable  smarthost  deferred
greeting  timeout      smarthost  deferred
greeting  garbage      smarthost  deferred
ehlo      closed       smarthost  deferred
starttls  policy       smarthost  deferred
starttls  garbage      smarthost  deferred
tls       handshake    smarthost  deferred
tls       certificate  smarthost  deferred
tls       policy       smarthost  deferred
auth      policy       smarthost  deferred
auth      secret       smarthost  deferred
auth      closed       smarthost  deferred
mail      closed       session    deferred
mail      timeout      session    deferred
mail      size         message    bounced
mail      smtputf8     recipient  bounced
mail      internal     message    deferred
rcpt      closed       session    deferred
rcpt      garbage      session    deferred
rcpt      smtputf8     recipient  bounced
rcpt      internal     message    deferred
data      timeout      session    deferred
body      closed       session    deferred
body      timeout      session    deferred
body      internal     message    deferred
dot       closed       session    uncertain
dot       timeout      session    uncertain
dot       garbage      session    uncertain
dot       internal     message    uncertain
rset      timeout      session    deferred
"""


def rows(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in table.strip().splitlines()]


@pytest.mark.parametrize(("stage", "code", "scope", "outcome"), rows(REPLIES))
def test_reply(stage: str, code: str, scope: str, outcome: str) -> None:
    """What a reply means where it comes."""
    assert Verdict(Scope(scope), Outcome(outcome)) == judge(Stage(stage), Reply(int(code), (b"text",)))


@pytest.mark.parametrize(("stage", "fault", "scope", "outcome"), rows(FAULTS))
def test_fault(stage: str, fault: str, scope: str, outcome: str) -> None:
    """What a fault means where it happens."""
    assert Verdict(Scope(scope), Outcome(outcome)) == judge(Stage(stage), Fault(fault))


def test_only_2xx_to_the_dot_is_sent() -> None:
    """No reply at another stage, and no other reply at the dot, counts as acceptance."""
    for stage in Stage:
        for code in range(200, 600):
            sent = judge(stage, Reply(code, ())).outcome is Outcome.SENT
            assert sent is (stage is Stage.DOT and 200 <= code <= 299)


def test_bounced_only_by_5xx_to_the_message_or_a_fault_of_it() -> None:
    """What we do not understand, and what is not the message's doing, never bounces."""
    for stage in Stage:
        for code in range(200, 600):
            if judge(stage, Reply(code, ())).outcome is Outcome.BOUNCED:
                assert stage in (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY, Stage.DOT)
                assert code >= 500
                assert code not in (530, 534, 535, 538)
        for fault in Fault:
            if judge(stage, fault).outcome is Outcome.BOUNCED:
                assert fault in (Fault.SIZE, Fault.SMTPUTF8)


def test_uncertain_only_at_the_dot() -> None:
    """Before the end of the message nothing can have been accepted."""
    for stage in set(Stage) - {Stage.DOT}:
        for what in (*Fault, *(Reply(code, ()) for code in range(200, 600))):
            assert judge(stage, what).outcome is not Outcome.UNCERTAIN


@pytest.mark.parametrize(
    ("stage", "code", "text", "status"),
    [
        (Stage.RCPT, 550, b"5.1.1 no", "5.1.1"),
        (Stage.RCPT, 550, b"no", "5.0.0"),
        (Stage.RCPT, 450, b"4.2.0 later", "4.2.0"),
        (Stage.RCPT, 552, b"5.2.2 full", "4.2.2"),
        (Stage.AUTH, 535, b"5.7.8 wrong", "4.7.8"),
        (Stage.MAIL, 250, b"2.1.0 ok", "4.5.0"),
        (Stage.DATA, 250, b"ok", "4.5.0"),
    ],
)
def test_the_status_fits_the_outcome(stage: Stage, code: int, text: bytes, status: str) -> None:
    """A recipient that is deferred has a 4.x.x, whatever class the server wrote."""
    assert status == Trouble.from_reply(stage, Reply(code, (text,))).status


def test_every_fault_has_a_status() -> None:
    """A fault stands in the history and the log with a status of its own."""
    assert set(Fault) == set(FAULT_STATUS)
    for fault in Fault:
        trouble = Trouble.from_fault(Stage.MAIL, fault, "because")
        bounced = trouble.verdict.outcome is Outcome.BOUNCED
        assert trouble.status.startswith("5" if bounced else "4")


def test_trouble_needs_words() -> None:
    """Trouble without a reason or a status is a mistake of ours."""
    for reason, status in (("", "4.0.0"), ("x", "")):
        with pytest.raises(ValueError, match="without"):
            Trouble(stage=Stage.MAIL, verdict=Verdict(Scope.SESSION, Outcome.DEFERRED), reason=reason, status=status)


def test_result_from_trouble() -> None:
    """A recipient's result says what the trouble says."""
    trouble = Trouble.from_reply(Stage.RCPT, Reply(550, (b"5.1.1 no \x1b",)))
    assert Result.from_trouble("a@b.c", trouble) == Result(
        address="a@b.c",
        outcome=Outcome.BOUNCED,
        scope=Scope.RECIPIENT,
        reply="550 5.1.1 no \\x1b",
        status="5.1.1",
        code=550,
    )
