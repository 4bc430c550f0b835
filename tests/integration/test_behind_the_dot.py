"""The next envelope behind a final dot: it saves a round trip, and costs no message anything where it goes wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pysendmail.outcome import Outcome, Result
from pysendmail.session import Session
from rig.client import BODY, HASTY, HEADER, open_session, outgoing, smarthost
from rig.engine import Engine, engine
from rig.engine import smarthost as relay
from rig.peer import Client, Message, Ordinary, Peer

FIRST, SECOND = "first@example.org", "second@example.org"
After = Callable[[Client], Awaitable[None]]


class Eager(Ordinary):
    """A server that answers the first final dot only when it has the next envelope, and then does as `after` says."""

    def __init__(self, after: After | None = None, dot: str = "250 2.0.0 first") -> None:
        super().__init__()
        self.after = after
        self.first_dot = dot

    async def __call__(self, client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", "250 PIPELINING")
        for verb, answer in (("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go ahead")):
            await client.hear(verb)
            await client.say(answer)
        content = await client.hear_message()
        for verb in ("MAIL", "RCPT", "DATA"):
            await client.hear(verb)
        if self.first_dot:
            client.peer.messages.append(Message("", [FIRST], content, False))
            await client.say(self.first_dot)
        if self.after is not None:
            await self.after(client)
            return
        await client.say("250 ok", "250 ok", "354 go ahead")
        client.peer.messages.append(Message("", [SECOND], await client.hear_message(), False))
        await client.say("250 2.0.0 second")
        await client.hear("QUIT")
        client.close()
        client.close()


async def two(session: Session) -> tuple[Result, Result]:
    """Send one message, and the other behind it."""
    message = outgoing(SECOND)
    (first,) = await session.send(outgoing(FIRST), lambda: message)
    (second,) = await session.send(message)
    await session.close()
    return first, second


async def test_it_leaves_before_the_answer_to_the_dot() -> None:
    """A server that waits for it gets it; both messages are sent as they are."""
    async with Peer(Eager()) as peer:
        session = await open_session(smarthost(peer))
        results = await two(session)
    assert [(result.outcome, result.reply) for result in results] == [
        (Outcome.SENT, "250 2.0.0 first"),
        (Outcome.SENT, "250 2.0.0 second"),
    ]
    assert [message.content for message in peer.messages] == [HEADER + b"\r\n" + BODY] * 2
    assert not session.one_at_a_time
    assert not peer.errors


async def test_a_refused_message_before_it_means_nothing_to_it() -> None:
    """The first is refused at its dot, the second goes out all the same."""
    async with Peer(Eager(dot="554 5.6.0 no")) as peer:
        results = await two(await open_session(smarthost(peer)))
    assert [result.outcome for result in results] == [Outcome.BOUNCED, Outcome.SENT]


@pytest.mark.parametrize("to_data", ["503 5.5.1 no recipients", "354 go ahead"])
async def test_refused_early_it_is_said_again_alone(to_data: str) -> None:
    """MAIL that a server does not like behind a dot is no refusal of the message; the server is not asked so again."""

    async def refuse(client: Client) -> None:
        await client.say("503 5.5.1 one at a time", "503 5.5.1 MAIL first", to_data)
        if to_data.startswith("354"):
            assert await client.hear_message() == b""
            await client.say("554 5.5.1 no recipients")
        for verb, answer in (("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go ahead")):
            await client.hear(verb)
            await client.say(answer)
        await client.hear_message()
        await client.say("250 2.0.0 second")
        await client.hear("QUIT")
        client.close()

    async with Peer(Eager(refuse)) as peer:
        session = await open_session(smarthost(peer))
        assert [result.outcome for result in await two(session)] == [Outcome.SENT, Outcome.SENT]
    assert session.one_at_a_time
    assert not peer.errors


async def test_refused_twice_it_is_refused() -> None:
    """A sender that the server does not take is not taken alone either."""

    async def refuse(client: Client) -> None:
        await client.say("550 5.7.1 not you", "503 5.5.1 MAIL first", "503 5.5.1 MAIL first")
        for line in ("MAIL", "RCPT", "DATA"):
            await client.hear(line)
        await client.say("550 5.7.1 not you", "503 5.5.1 MAIL first", "503 5.5.1 MAIL first")
        await client.hear("QUIT")
        client.close()

    async with Peer(Eager(refuse)) as peer:
        session = await open_session(smarthost(peer))
        first, second = await two(session)
    assert (first.outcome, second.outcome, second.status) == (Outcome.SENT, Outcome.BOUNCED, "5.7.1")
    assert not session.one_at_a_time


async def test_deferred_it_is_deferred() -> None:
    """A server that is busy is not asked a second time at once."""

    async def busy(client: Client) -> None:
        await client.say("451 4.3.2 busy", "503 5.5.1 MAIL first", "503 5.5.1 MAIL first")
        await client.hear("QUIT")
        client.close()

    async with Peer(Eager(busy)) as peer:
        session = await open_session(smarthost(peer))
        first, second = await two(session)
        await peer.settled()
    assert (first.outcome, second.outcome, second.status) == (Outcome.SENT, Outcome.DEFERRED, "4.3.2")
    assert not session.one_at_a_time
    assert not peer.errors


@pytest.mark.parametrize(
    ("farewell", "one_at_a_time"), [("", True), ("421 4.7.0 enough messages", False)], ids=["closed", "421"]
)
async def test_a_server_that_ends_the_connection(farewell: str, one_at_a_time: bool) -> None:
    """It was no attempt of the second message; a server that says 421 may well bear it the next time."""

    async def end(client: Client) -> None:
        if farewell:
            await client.say(farewell)
        client.close()

    async with Peer(Eager(end)) as peer:
        session = await open_session(smarthost(peer))
        first, second = await two(session)
    assert (first.outcome, second.outcome) == (Outcome.SENT, Outcome.DEFERRED)
    assert session.stale
    assert session.one_at_a_time is one_at_a_time


@pytest.mark.parametrize("silence", [True, False], ids=["silence", "closed"])
async def test_the_answer_to_the_dot_that_does_not_come(silence: bool) -> None:
    """The first may have arrived, so it is uncertain; the second cannot have, and the session takes it no more."""

    async def end(client: Client) -> None:
        if silence:
            await client.stall()
        client.close()

    async with Peer(Eager(end, dot="")) as peer:
        session = await open_session(smarthost(peer), timeout=HASTY)
        message = outgoing(SECOND)
        (first,) = await session.send(outgoing(FIRST), lambda: message)
        assert first.outcome is Outcome.UNCERTAIN
        assert not session.usable
        assert session.one_at_a_time
        await session.close()


@pytest.mark.parametrize("keywords", [(), ("PIPELINING",)], ids=["lock-step", "8-bit"])
async def test_what_does_not_go_behind_a_dot(keywords: tuple[str, ...]) -> None:
    """Nothing does without PIPELINING, and no message that has to be re-encoded first: it has its turn alone."""

    async def seven_bit() -> tuple[bytes, bytes]:
        return HEADER, b"gr=C3=BC=C3=9Fe\r\n"

    message = outgoing(SECOND, body="grüße\r\n".encode(), eight_bit=True, seven_bit=seven_bit)
    async with Peer(Ordinary(keywords=keywords)) as peer:
        session = await open_session(smarthost(peer))
        await session.send(outgoing(FIRST), lambda: message)
        assert not session.begun
        assert [result.outcome for result in await session.send(message)] == [Outcome.SENT]
        await session.close()
    assert peer.messages[1].content.endswith(b"gr=C3=BC=C3=9Fe\r\n")


async def test_closed_with_an_envelope_begun() -> None:
    """Nothing more is said: the server would take it for the message."""
    heard = b""

    async def listen(client: Client) -> None:
        nonlocal heard
        await client.say("250 ok", "250 ok", "354 go ahead")
        heard = await client.reader.read()

    message = outgoing(SECOND)
    async with Peer(Eager(listen)) as peer:
        session = await open_session(smarthost(peer))
        await session.send(outgoing(FIRST), lambda: message)
        assert session.begun
        await session.close()
        assert not session.usable
        await peer.settled()
    assert heard == b""


@contextlib.asynccontextmanager
async def running(one: Engine) -> AsyncIterator[None]:
    """Delivery, from now on: what was accepted before is claimed together."""
    task = asyncio.create_task(one.delivery.run())
    try:
        yield
    finally:
        await one.delivery.stop(0.1)
        await task


async def test_delivery_sends_it(tmp_path: Path) -> None:
    """With more than one message due it is used, and the messages end as they should."""
    async with Peer(Eager()) as peer, engine(tmp_path, relay(peer, connections=1), run=False) as one:
        await one.accept(FIRST)
        await one.accept(SECOND)
        async with running(one):
            await one.events.wait_for("outcome", count=2, status="sent")
    assert len(peer.messages) == 2


async def test_what_was_begun_goes_elsewhere_when_the_first_gets_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose dot is not answered for long holds up nobody, and least of all the one behind it."""
    monkeypatch.setattr("pysendmail.delivery.STUCK_S", 0.05)

    async def silent(client: Client) -> None:
        await client.stall()

    async with (
        Peer(Eager(silent, dot=""), Ordinary()) as peer,
        engine(tmp_path, relay(peer, connections=2), run=False) as one,
    ):
        await one.accept("nobody@slow.example")
        second = await one.accept(SECOND)
        async with running(one):
            await one.events.wait_for("outcome", queue_id=second, status="sent")
        assert len(peer.messages) == 1


async def test_what_was_begun_is_queued_as_before_when_the_daemon_stops(tmp_path: Path) -> None:
    """Of the two only the one whose dot had left may be uncertain at the next start."""

    async def silent(client: Client) -> None:
        client.peer.commands.append("both")
        client.peer.changed()
        await client.stall()

    async with Peer(Eager(silent, dot="")) as peer, engine(tmp_path, relay(peer, connections=1), run=False) as one:
        arrived = asyncio.Event()
        peer.changed = lambda: arrived.set() if "both" in peer.commands else None
        await one.accept(FIRST)
        await one.accept(SECOND)
        async with running(one):
            await arrived.wait()
        states = await one.rows("SELECT state FROM recipient ORDER BY state")
    assert states == [("attempting",), ("queued",)]


async def test_a_smarthost_that_does_not_bear_it_is_not_asked_again(tmp_path: Path) -> None:
    """One connection is lost to it, no message is: the rest goes one at a time."""

    async def end(client: Client) -> None:
        client.close()

    async with Peer(Eager(end), Ordinary()) as peer, engine(tmp_path, relay(peer, connections=1), run=False) as one:
        for number in range(5):
            await one.accept(f"r{number}@example.org")
        async with running(one):
            await one.events.wait_for("outcome", count=5, status="sent")
        assert one.delivery.relays["main"].one_at_a_time
        assert {row[0] for row in await one.rows("SELECT attempts FROM recipient")} == {1}
    assert len(peer.clients) == 2


async def test_not_beyond_the_messages_of_a_connection(tmp_path: Path) -> None:
    """The last message that a connection may carry has nothing behind it."""
    async with (
        Peer() as peer,
        engine(tmp_path, relay(peer, connections=1, messages_per_connection=2), run=False) as one,
    ):
        for number in range(5):
            await one.accept(f"r{number}@example.org")
        async with running(one):
            await one.events.wait_for("outcome", count=5, status="sent")
        await peer.settled()
    assert len(peer.clients) == 3
    assert not peer.errors
    assert [command for command in peer.commands if command == "QUIT"] == ["QUIT"] * 3
