"""Sessions over real sockets: every dialogue, and what only shows on a connection."""

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from pysendmail.config import Timeout
from pysendmail.outcome import Outcome, Result, Scope
from pysendmail.session import SessionError
from rig.ca import Authority
from rig.client import BODY, HASTY, HEADER, PATIENT, open_session, outgoing, smarthost
from rig.dialogue import Dialogue, load
from rig.peer import Client, Ordinary, Peer


def words(result: Result) -> tuple[str, ...]:
    """A result as a dialogue states it."""
    return (result.outcome, result.status, result.scope, *(["again"] if result.again else []))


@pytest.mark.parametrize("dribble", [False, True], ids=["whole", "octets"])
@pytest.mark.parametrize("dialogue", load(), ids=lambda d: d.name)
async def test_dialogue(dialogue: Dialogue, dribble: bool) -> None:
    """On a socket each dialogue ends as it does without one, whole and octet by octet."""
    if dialogue.together and dribble:
        pytest.skip("what it is about needs one segment")
    silent = any(kind == "stall" for kind, _ in dialogue.steps)
    async with Peer(dialogue, dribble=dribble) as peer:
        try:
            session = await open_session(smarthost(peer), timeout=HASTY if silent else PATIENT)
        except SessionError as error:
            trouble = error.trouble
            assert dialogue.trouble == (trouble.stage, trouble.verdict.scope, trouble.status)
            return
        assert not dialogue.trouble
        results = await session.send(outgoing(*dialogue.recipients))
        assert dialogue.results == [words(result) for result in results]
        # What a server says after its answer may come after we had it: then it is an idle session that notices.
        if not dialogue.usable:
            await until(lambda: not session.usable)
        assert dialogue.usable is session.usable
        await session.close()
        assert not session.usable
    assert not peer.errors


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_quit_when_the_server_closes_first(authority: Authority) -> None:
    """A TLS connection that the server has closed is not closed twice, after which Python 3.11.2 cannot end it."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    async def quick(client: Client) -> None:
        await Ordinary(tls=authority.server())(client)
        client.writer.transport.abort()

    async with Peer(quick) as peer:
        session = await open_session(smarthost(peer, tls="verify", tls_ca_file=authority.file))
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await session.close()
    assert errors == []


@pytest.mark.parametrize("level", ["none", "verify"])
async def test_a_reply_longer_than_what_is_read_at_once(level: str, authority: Authority) -> None:
    """A reply of many long lines is read whole, in clear and under TLS."""
    lines = [f"2.0.0 {number:02} {'x' * 1900}" for number in range(20)]
    dot = "\r\n".join([*(f"250-{line}" for line in lines), "250 2.0.0 queued"])
    server = Ordinary(dot=dot, tls=authority.server() if level != "none" else None)
    async with Peer(server) as peer:
        session = await open_session(smarthost(peer, tls=level, tls_ca_file=authority.file))
        for _ in range(2):
            (result,) = await session.send(outgoing())
            assert result.outcome is Outcome.SENT
            assert result.reply.startswith("250 2.0.0 00 xxx")
        await session.close()


async def test_many_messages_over_one_session() -> None:
    """A session takes one message after the other, and counts them."""
    async with Peer() as peer:
        session = await open_session(smarthost(peer))
        for _ in range(3):
            assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await session.close()
        await peer.settled()
    assert session.messages == 3
    assert [message.content for message in peer.messages] == [HEADER + b"\r\n" + BODY] * 3
    assert peer.commands[-1] == "QUIT"
    assert not peer.errors


@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["pipelined", "lock-step"])
async def test_partial_refusal(keywords: tuple[str, ...]) -> None:
    """One refused recipient costs the others nothing."""
    async with Peer(Ordinary(keywords=keywords, rcpt={"b@example.org": "550 5.1.1 unknown"})) as peer:
        session = await open_session(smarthost(peer))
        results = await session.send(outgoing("a@example.org", "b@example.org", "c@example.org"))
        await session.close()
    assert [result.outcome for result in results] == ["sent", "bounced", "sent"]
    assert [text[1:] if text[0] == ":" else text for text in peer.messages[0].recipients] == [
        "<a@example.org>",
        "<c@example.org>",
    ]


@pytest.mark.parametrize("farewell", [b"421 4.4.2 idle for too long\r\n", b"", b"250 surprise\r\n", b"25"])
async def test_idle_session_that_the_server_ends(farewell: bytes) -> None:
    """An idle session that is closed, or hears anything, is not usable; a message that comes all the same is stale."""
    async with Peer() as peer:
        session = await open_session(smarthost(peer))
        await session.send(outgoing())
        assert session.usable
        writer = peer.clients[0].writer
        writer.write(farewell)
        if not farewell or farewell.startswith(b"421"):
            writer.close()
        await until(lambda: not session.usable)
        results = await session.send(outgoing())
        assert [(result.outcome, result.scope) for result in results] == [(Outcome.DEFERRED, Scope.SESSION)]
        assert session.stale
        await session.close()
    assert len(peer.messages) == 1


async def test_a_reused_session_that_dies_at_mail_is_stale() -> None:
    """The server's idle limit and our MAIL can cross: that was no attempt, on a reused connection only."""

    async def once(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        for line in ("MAIL", "RCPT", "DATA"):
            await client.hear(line)
            await client.say("354 go" if line == "DATA" else "250 ok")
        await client.hear_message()
        await client.say("250 ok")
        await client.hear("MAIL")
        await client.say("421 too late")
        client.close()

    async with Peer(once) as peer:
        session = await open_session(smarthost(peer))
        await session.send(outgoing())
        assert not session.stale
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.DEFERRED]
        assert session.stale
        await session.close()


async def test_a_fresh_session_that_dies_at_mail_is_not_stale() -> None:
    """421 to the first MAIL is an answer to this attempt."""
    async with Peer(Ordinary(mail="421 no")) as peer:
        session = await open_session(smarthost(peer))
        assert [result.scope for result in await session.send(outgoing())] == [Scope.SESSION]
        assert not session.stale
        await session.close()


async def test_eight_bit_for_a_server_without_8bitmime() -> None:
    """A server without 8BITMIME gets the re-encoded form, without SIZE, which nobody knows; others the original."""

    async def quoted() -> AsyncIterator[bytes]:
        yield b"gr=C3=BC=C3=9Fe\r\n"

    async def seven_bit() -> tuple[bytes, Any]:
        return HEADER + b"Content-Transfer-Encoding: quoted-printable\r\n", quoted

    message = outgoing(body="grüße\r\n".encode(), eight_bit=True, seven_bit=seven_bit)
    for keywords, line, tail in (
        (("SIZE",), "MAIL FROM:<s@example.org>", b"printable\r\n\r\ngr=C3=BC=C3=9Fe\r\n"),
        (
            ("SIZE", "8BITMIME"),
            f"MAIL FROM:<s@example.org> SIZE={message.size} BODY=8BITMIME",
            "\r\ngrüße\r\n".encode(),
        ),
    ):
        async with Peer(Ordinary(keywords=keywords)) as peer:
            session = await open_session(smarthost(peer))
            await session.send(message)
            await session.close()
        assert line in peer.commands
        assert peer.messages[0].content.endswith(tail)


async def broken_body() -> AsyncIterator[bytes]:
    yield b"the first half\r\n"
    raise OSError("the store is gone")


async def bare_lf() -> AsyncIterator[bytes]:
    yield b"one\n.\r\ntwo\r\n"


@pytest.mark.parametrize("body", [broken_body, bare_lf])
async def test_a_body_that_fails_is_never_ended(body: Any) -> None:
    """An error of ours in the middle of a message ends the connection without the dot: nothing partial is accepted."""
    async with Peer() as peer:
        session = await open_session(smarthost(peer))
        results = await session.send(replace(outgoing(), body=body))
        assert [(result.outcome, result.scope) for result in results] == [(Outcome.DEFERRED, Scope.MESSAGE)]
        assert "internal error" in results[0].reply
        assert not session.usable
        await session.close()
        await until(lambda: bool(peer.errors))
    assert not peer.messages


async def test_an_error_before_the_first_command_costs_no_session() -> None:
    """A re-encoding that fails is this message's trouble alone."""

    async def fails() -> Any:
        raise RecursionError("too deep")

    async with Peer(Ordinary(keywords=())) as peer:
        session = await open_session(smarthost(peer))
        results = await session.send(outgoing(eight_bit=True, seven_bit=fails))
        assert [(result.outcome, result.scope) for result in results] == [(Outcome.DEFERRED, Scope.MESSAGE)]
        assert session.usable
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await session.close()


async def test_cancelled_while_sending() -> None:
    """Cancellation ends the connection and leaves send as CancelledError."""

    async def stalls(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        await client.hear("MAIL")
        await client.stall()

    async with Peer(stalls) as peer:
        session = await open_session(smarthost(peer))
        task = asyncio.create_task(session.send(outgoing()))
        await until(lambda: "MAIL FROM:<s@example.org>" in peer.commands)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not session.usable
        assert not session.in_doubt
        await session.close()


async def test_cancelled_after_the_final_dot_is_in_doubt() -> None:
    """Cut off between the dot and its answer: the message may have arrived, and the session says so."""

    async def silent_at_the_end(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        for verb, answer in (("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go ahead")):
            await client.hear(verb)
            await client.say(answer)
        await client.hear_message()
        client.peer.commands.append("the dot")
        await client.stall()

    async with Peer(silent_at_the_end) as peer:
        session = await open_session(smarthost(peer))
        task = asyncio.create_task(session.send(outgoing()))
        await until(lambda: "the dot" in peer.commands)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.in_doubt
        await session.close()


MIB = 1 << 20


def big(octets: int, *, made: list[int]) -> Any:
    """A body of that many octets, in chunks of 64 KiB; `made` counts what was asked for."""
    line = b"x" * 998 + b"\r\n"

    async def body() -> AsyncIterator[bytes]:
        chunk = line * 64
        while sum(made) < octets:
            made.append(len(chunk))
            yield chunk

    return body


async def test_a_large_message_takes_bounded_memory() -> None:
    """12 MiB go through with less than 3 MiB in memory on our side."""
    received = 0

    async def counts(client: Client) -> None:
        nonlocal received
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        for line in ("MAIL", "RCPT", "DATA"):
            await client.hear(line)
            await client.say("354 go" if line == "DATA" else "250 ok")
        client.clear = _Forgetful()  # type: ignore[assignment]
        tail = b""
        while not tail.endswith(b"\r\n.\r\n"):
            data = await client.reader.read(65536)
            received += len(data)
            tail = (tail + data)[-5:]
        await client.say("250 ok")

    made: list[int] = []
    async with Peer(counts) as peer:
        session = await open_session(smarthost(peer))
        message = replace(outgoing(), body=big(12 * MIB, made=made))
        gc.collect()
        tracemalloc.start()
        results = await session.send(message)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await session.close()
    assert [result.outcome for result in results] == [Outcome.SENT]
    assert received == len(HEADER) + 2 + sum(made) + 3
    assert peak < 3 * MIB


class _Forgetful(bytearray):
    def __iadd__(self, data: object) -> "_Forgetful":  # type: ignore[override,misc]
        return self


async def test_a_server_that_takes_no_more() -> None:
    """A window that stays shut ends the attempt after data_block, with the message deferred, not uncertain."""

    async def shut(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        for line in ("MAIL", "RCPT", "DATA"):
            await client.hear(line)
            await client.say("354 go" if line == "DATA" else "250 ok")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    made: list[int] = []
    async with Peer(shut) as peer:
        session = await open_session(smarthost(peer), timeout=replace(PATIENT, data_block=0.2))
        results = await session.send(replace(outgoing(), body=big(64 * MIB, made=made)))
        assert [(result.outcome, result.scope) for result in results] == [(Outcome.DEFERRED, Scope.SESSION)]
        assert "took no data for 0.2 s" in results[0].reply
        assert sum(made) < 64 * MIB
        await session.close()


async def test_a_server_that_refuses_in_the_middle_of_the_message() -> None:
    """A reply before the end of the message is no answer to its dot: deferred, whatever it says."""

    async def impatient(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        for line in ("MAIL", "RCPT", "DATA"):
            await client.hear(line)
            await client.say("354 go" if line == "DATA" else "250 ok")
        await client.reader.readexactly(MIB)
        await client.say("552 5.3.4 too much")
        await client.stall()

    made: list[int] = []
    async with Peer(impatient) as peer:
        session = await open_session(smarthost(peer))
        results = await session.send(replace(outgoing(), body=big(64 * MIB, made=made)))
        assert [(result.outcome, result.scope) for result in results] == [(Outcome.DEFERRED, Scope.SESSION)]
        assert "552 5.3.4 too much" in results[0].reply
        await session.close()


async def test_trace_shows_the_conversation() -> None:
    """-v and probe see each line; the body only as a count."""
    lines: list[str] = []
    async with Peer(Ordinary(keywords=("PIPELINING",))) as peer:
        session = await open_session(smarthost(peer), trace=lines.append)
        await session.send(outgoing())
        await session.close()
    size = len(HEADER) + 2 + len(BODY) + 2  # two dots were stuffed
    assert lines == [
        "< 220 peer.example ESMTP",
        "> EHLO client.example",
        "< 250 peer.example PIPELINING",
        "> MAIL FROM:<s@example.org>",
        "> RCPT TO:<a@example.org>",
        "> DATA",
        "< 250 2.1.0 ok",
        "< 250 2.1.5 ok",
        "< 354 go ahead",
        f"> [{size} octets]",
        "> .",
        "< 250 2.0.0 queued",
        "> QUIT",
        "< 221 2.0.0 bye",
    ]


async def failure(**settings: Any) -> SessionError:
    async with Peer() as peer:
        relay = smarthost(peer, **settings)
    with pytest.raises(SessionError) as raised:  # the peer is gone
        await open_session(relay)
    return raised.value


async def test_nobody_listens() -> None:
    """A refused connection is the smarthost's trouble, and names the address."""
    error = await failure(host="127.0.0.1")
    assert (
        error.trouble.stage,
        error.trouble.verdict.scope,
        error.trouble.status,
    ) == ("connect", "smarthost", "4.4.1")
    assert error.address == "127.0.0.1"
    assert "Connection refused" in error.trouble.reason


async def test_a_name_that_does_not_resolve() -> None:
    """A name without an address is the smarthost's trouble."""
    error = await failure(host="no-such-host.invalid")
    assert (
        error.trouble.stage,
        error.trouble.verdict.scope,
        error.trouble.status,
    ) == ("connect", "smarthost", "4.4.3")
    assert error.address == ""


async def test_an_address_without_a_way_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine without IPv6: what the address that can be reached says counts, wherever it stands in the list."""
    loop = asyncio.get_running_loop()
    refusing = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
    no_way = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("224.0.0.1", 25))  # TCP has no way to a group (RFC 1112)

    for found in ([refusing, no_way], [no_way, refusing], [no_way, no_way]):

        async def resolve(*_: object, found: list[Any] = found, **__: object) -> list[Any]:
            return found

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        error = await failure(host="two.example")
        refused = refusing in found
        assert error.trouble.offline is not refused
        assert error.address == ("127.0.0.1" if refused else "224.0.0.1")
        assert ("Connection refused" in error.trouble.reason) is refused


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses is reached by the first that answers."""
    async with Peer() as peer:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("127.0.0.1", peer.port, type=1)
        dead = [(*found[0][:4], ("127.0.0.2", peer.port))]

        async def resolve(*_: object, **__: object) -> list[Any]:
            return dead + found

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        session = await open_session(smarthost(peer, host="two.example"))
        assert session.address == "127.0.0.1"
        await session.close()


async def test_sessions_from_two_tasks() -> None:
    """Sessions share nothing: one that stalls holds up no other."""

    async def stalls(client: Client) -> None:
        await client.stall()

    async with Peer(stalls, Ordinary()) as peer:
        slow = asyncio.create_task(open_session(smarthost(peer), timeout=Timeout(greeting=30)))
        await until(lambda: len(peer.clients) == 1)
        session = await open_session(smarthost(peer))
        assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
        await session.close()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
