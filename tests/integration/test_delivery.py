"""Delivery with real smarthosts on real sockets, in one event loop with them, on a real queue."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pysendmail import delivery as delivery_module
from pysendmail import outgoing as outgoing_module
from pysendmail.config import Timeout
from pysendmail.outcome import Fault, Outcome, Stage, Trouble
from pysendmail.queue import PART_OCTETS, Queue
from pysendmail.secrets import Secrets
from rig.engine import RETRY, engine, smarthost
from rig.peer import Client, Ordinary, Peer, leaves_at_mail
from rig.store import config, new_message


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The loop's clock as delivery reads it, to be set forward without waiting."""
    offset = 0.0

    def forward(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    real = asyncio.BaseEventLoop.time
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda self: real(self) + offset)
    return forward


# -- the ordinary way --


async def test_a_message_leaves(tmp_path: Path) -> None:
    """What is accepted is sent as it is, recorded with smarthost, address and TLS, and logged in one line."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(body=b".dot\r\nhello\r\n")
        outcome = await one.events.wait_for("outcome", status="sent")
        assert peer.messages[0].content == b"Subject: test\r\n\r\n.dot\r\nhello\r\n"
        assert (outcome["smarthost"], outcome["address"], outcome["tls"], outcome["attempt"]) == (
            "main",
            "127.0.0.1",
            "none",
            1,
        )
        assert await one.rows("SELECT smarthost, outcome, code FROM attempt") == [("main", "sent", 250)]
        assert one.delivery.relays["main"].last_sent_at == (await one.rows("SELECT last_sent_at FROM smarthost"))[0][0]


async def test_one_connection_for_many(tmp_path: Path) -> None:
    """Mail that waits goes over few connections, kept for what comes next."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer, connections=1)) as one:
        for _ in range(10):
            await one.accept()
        await one.events.wait_for("outcome", 10, status="sent")
        await one.accept()
        await one.events.wait_for("outcome", 11, status="sent")
        assert len(peer.clients) == 1


@pytest.mark.parametrize("reply", ["250 2.1.0 ok", "451 4.3.0 later"])
async def test_messages_per_connection(tmp_path: Path, reply: str) -> None:
    """After so many messages, taken or not, a connection is closed politely and the next one opened."""
    async with (
        Peer(Ordinary(mail=reply)) as peer,
        engine(tmp_path, smarthost(peer, connections=1, messages_per_connection=3), run=False) as one,
    ):
        for _ in range(7):
            await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("outcome", 7)
        await one.delivery.stop(5)
        await task
        await peer.settled()
        assert len(peer.clients) == 3
        assert peer.commands.count("QUIT") == 3


async def test_never_more_connections_than_allowed(tmp_path: Path) -> None:
    """The ceiling holds however much waits."""
    open_now = most = 0

    async def behaviour(client: Client) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            await Ordinary()(client)
        finally:
            open_now -= 1

    async with Peer(behaviour) as peer, engine(tmp_path, smarthost(peer, connections=3)) as one:
        for n in range(80):
            await one.accept(f"u@d{n}.example")
        await one.events.wait_for("outcome", 80, status="sent")
        assert 2 <= most <= 3


async def test_idle_connection_closed_by_the_server(tmp_path: Path) -> None:
    """A connection that the server closed while it was idle costs no attempt: the message goes over a new one."""

    async def closes_after_one(client: Client) -> None:
        ordinary = Ordinary()
        task = asyncio.get_running_loop().create_task(ordinary(client))
        while not client.peer.messages:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        client.close()

    async with Peer(closes_after_one, Ordinary()) as peer, engine(tmp_path, smarthost(peer, connections=1)) as one:
        await one.accept()
        await one.events.wait_for("outcome", status="sent")
        await peer.settled()
        await one.accept()
        await one.events.wait_for("outcome", 2, status="sent")
        assert await one.rows("SELECT attempts FROM recipient") == [(1,), (1,)]
        assert await one.rows("SELECT outcome FROM attempt") == [("sent",), ("sent",)]


async def test_too_many_recipients(tmp_path: Path) -> None:
    """452 "too many recipients": the rest follows in the next transaction at once, without an attempt counted."""
    taken = Counter[str]()

    async def two_at_a_time(client: Client) -> None:
        await client.say("220 peer")
        recipients = 0
        while True:
            line = await client.hear()
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                await client.say("250-peer", "250 PIPELINING")
            elif verb == "MAIL":
                recipients = 0
                await client.say("250 ok")
            elif verb == "RCPT":
                recipients += 1
                if recipients <= 2:
                    taken[line[9:-1]] += 1
                await client.say("250 ok" if recipients <= 2 else "452 4.5.3 too many recipients")
            elif verb == "DATA":
                await client.say("354 go")
                await client.hear_message()
                await client.say("250 ok")
            else:
                await client.say("221 bye")
                return

    addresses = [f"u{n}@example.org" for n in range(5)]
    async with Peer(two_at_a_time) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(*addresses)
        await one.events.wait_for("outcome", 5, status="sent")
        assert taken == Counter(addresses)
        assert await one.rows("SELECT DISTINCT attempts FROM recipient") == [(1,)]
        assert one.delivery.relays["main"].limit == 2


# -- fairness --


async def test_promise_10_another_users_mail_is_not_held_up(tmp_path: Path) -> None:
    """Behind a thousand messages of one user to one destination, another's message is among the first."""
    slow = Ordinary(rcpt={"u@slow.example": "451 4.3.0 later"})
    async with Peer(slow) as peer, engine(tmp_path, smarthost(peer, connections=1), run=False) as one:
        new = [new_message("u@slow.example", uid=1000) for _ in range(1000)]
        now = delivery_module.time.time()

        def accept(queue: Queue) -> None:
            for each in new:
                queue.accept(each, submission=None, now=now)

        await one.writer.run(accept)
        late = await one.accept("v@quick.example", uid=1001)
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("outcome", queue_id=late, status="sent")
        order = [str(fields["queue_id"]) for _, fields in one.events.all if "recipient" in fields]
        assert order.index(late) < 5
        await one.delivery.stop(5)
        await task


async def test_promise_10_another_routes_mail_is_not_held_up(tmp_path: Path) -> None:
    """Mail on one route leaves no more of a smarthost's room than its turn to mail on another that leads there, too."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer, connections=1), run=False) as one:
        for _ in range(30):
            await one.accept()
        late = await one.accept(route=("main", "backup"))
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("outcome", 31, status="sent")
        order = [str(fields["queue_id"]) for fields in one.events.named("attempt")]
        assert order.index(late) < 5
        await one.delivery.stop(5)
        await task


# -- smarthosts in trouble --


@pytest.mark.parametrize("stall", ["MAIL", "RCPT", "DOT"])
@pytest.mark.parametrize("destinations", [1, 30])
async def test_promise_10_a_slow_destination_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stall: str, destinations: int
) -> None:
    """Mail that gets no answer takes connections beside the limit, and never all of them.

    What one destination leaves is for his other mail, too; what one user's many leave is for other users.
    """
    monkeypatch.setattr(delivery_module, "STUCK_S", 0.05)
    most = 0

    class Slow(Ordinary):
        async def __call__(self, client: Client) -> None:
            nonlocal most
            most = max(most, one.delivery.relays["main"].connections)
            hear, hear_message = client.hear, client.hear_message
            slow = False

            async def hear_or_stall(start: str = "") -> str:
                nonlocal slow
                line = await hear(start)
                slow = slow or "slow.example" in line
                if slow and line.startswith(stall):
                    await client.stall()
                return line

            async def hear_message_or_stall() -> bytes:
                text = await hear_message()
                if slow:
                    await client.stall()
                return text

            client.hear, client.hear_message = hear_or_stall, hear_message_or_stall  # type: ignore[method-assign]
            await super().__call__(client)

    async with Peer(Slow()) as peer, engine(tmp_path, smarthost(peer, connections=8)) as one:
        for number in range(30):
            await one.accept(f"r{number}@{number % destinations}.example", sender="from@slow.example", uid=1000)
        await one.events.wait_for("attempt", count=2)
        for number in range(20):
            await one.accept(f"r{number}@fast.example", uid=1000 if destinations == 1 else 1001)
        await one.events.wait_for("outcome", count=20, status="sent")
        assert most <= 8
        await one.delivery.stop(0.1)


async def test_failover(tmp_path: Path) -> None:
    """The next smarthost of the route takes over when the first cannot be reached; nobody's attempts are raised."""
    async with Peer() as gone:
        dead = smarthost(gone)
    async with Peer() as peer, engine(tmp_path, dead, smarthost(peer, "backup")) as one:
        for _ in range(5):
            await one.accept(route=("main", "backup"))
        await one.events.wait_for("outcome", 5, status="sent", smarthost="backup")
        assert len(one.events.named("trouble", smarthost="main")) == 1
        assert {row[0] for row in await one.rows("SELECT attempts FROM recipient")} == {1}
        assert len(peer.messages) == 5


async def test_trouble_rest_probe_flow(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """In trouble a smarthost rests, longer each time; one connection probes it; the moment it answers all flows."""
    refuse = Ordinary(greeting="554 5.3.2 not now")
    async with Peer(refuse, refuse, Ordinary()) as peer, engine(tmp_path, smarthost(peer, connections=1)) as one:
        for _ in range(6):
            await one.accept()
        trouble = await one.events.wait_for("trouble")
        assert 29 < float(trouble["next_try_s"] or 0) <= 30
        for _ in range(3):
            await one.accept()  # new mail resets nothing
        await one.rows("SELECT 1")
        assert len(peer.clients) == 1
        clock(31)
        one.delivery._wake.set()
        trouble = await one.events.wait_for("trouble", 2)
        assert 59 < float(trouble["next_try_s"] or 0) <= 60
        assert len(peer.clients) == 2
        clock(61)
        one.delivery._wake.set()
        await one.events.wait_for("outcome", 9, status="sent")
        assert len(one.events.named("recovered")) == 1
        assert {row[0] for row in await one.rows("SELECT attempts FROM recipient")} == {1}


async def test_flush_probes_at_once(tmp_path: Path) -> None:
    """A flush does not wait for the end of a rest."""
    async with (
        Peer(Ordinary(greeting="554 5.3.2 not now"), Ordinary()) as peer,
        engine(tmp_path, smarthost(peer)) as one,
    ):
        await one.accept()
        await one.events.wait_for("trouble")
        one.delivery.flush()
        await one.events.wait_for("outcome", status="sent")


async def test_530_on_mail_rests_the_smarthost(tmp_path: Path) -> None:
    """ "Authentication required" at MAIL is the smarthost's trouble: what else was claimed for it is not tried on it.

    The claims that were left probed it at once, one after the other, with a connection for each.
    """
    async with (
        Peer(Ordinary(mail="530 5.7.0 log in first")) as peer,
        engine(tmp_path, smarthost(peer), run=False) as one,
    ):
        for _ in range(10):
            await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("trouble")
        await one.events.wait_for("outcome", status="deferred")
        await one.rows("SELECT 1")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(peer.clients) <= 2  # those that were open when the first one answered
        assert {row[0] for row in await one.rows("SELECT attempts FROM recipient")} == {0}
        assert await one.rows("SELECT count(*) FROM recipient WHERE state = 'queued'") == [(10,)]
        await one.delivery.stop(5)
        await task


async def test_overdue_mail_expires_after_a_failed_probe(tmp_path: Path) -> None:
    """A failed probe of every smarthost counts as the fresh attempt: all that is past its lifetime expires then."""
    async with Peer() as gone:
        dead = smarthost(gone)
    async with engine(tmp_path, dead, run=False) as one:
        old = [await one.accept(lifetime=0.001) for _ in range(3)]
        young = await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("outcome", 3, status="expired")
        expired = {str(fields["queue_id"]) for fields in one.events.named("outcome", status="expired")}
        assert expired == set(old)
        assert (await one.rows("SELECT state FROM message WHERE queue_id = ?", young)) == [("queued",)]
        await one.delivery.stop(5)
        await task


async def test_first_busy_second_resting(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """With the first smarthost busy and the second due for a probe, the loop waits for an event; it does not spin."""
    held = asyncio.Event()

    async def waits(client: Client) -> None:
        await client.say("220 peer")
        await held.wait()
        client.reset()

    async with Peer() as gone:
        dead = smarthost(gone, "backup")
    async with (
        Peer(waits) as peer,
        engine(tmp_path, smarthost(peer, connections=1), dead, run=False) as one,
    ):
        relay = one.delivery.relays["backup"]
        trouble = Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, "refused")
        relay.fail(trouble, RETRY, clock=asyncio.get_running_loop().time(), now=0.0)
        clock(100)
        for _ in range(5):
            await one.accept(route=("main", "backup"))
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        while not peer.clients:
            await asyncio.sleep(0.001)
        await one.rows("SELECT 1")
        assert one.delivery._patience() is None
        held.set()
        await one.delivery.stop(5)
        await task


async def test_421_slows_down(tmp_path: Path) -> None:
    """421 ends the session and halves the connections; what was in it is deferred, the rest goes on."""
    async with Peer(Ordinary(mail="421 4.7.0 too much"), Ordinary()) as peer, engine(tmp_path, smarthost(peer)) as one:
        first = await one.accept()
        await one.events.wait_for("outcome", status="deferred")
        assert one.delivery.relays["main"].limit == 1
        assert one.delivery.relays["main"].trouble is None
        await one.accept()
        await one.events.wait_for("outcome", status="sent")
        assert (await one.rows("SELECT state FROM message WHERE queue_id = ?", first)) == [("queued",)]


@pytest.mark.parametrize(
    ("reply", "limit"),
    [
        ("451 4.7.1 Too many connections", 1),
        ("452 4.3.2 too many messages", 1),
        ("432 4.7.0 later", 1),
        ("451 4.3.0 later", 2),
    ],
)
async def test_too_many(tmp_path: Path, reply: str, limit: int) -> None:
    """ "Too many" with 451 or 452 slows down as 421 and 432 do; any other 451 does not."""
    async with Peer(Ordinary(mail=reply)) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept()
        await one.events.wait_for("outcome", status="deferred")
        assert one.delivery.relays["main"].limit == limit


async def test_a_connection_that_breaks_is_no_good_answer(tmp_path: Path) -> None:
    """A smarthost that drops each connection at MAIL gets no more of them at a time for that."""
    async with Peer(leaves_at_mail) as peer, engine(tmp_path, smarthost(peer)) as one:
        for _ in range(20):
            await one.accept()
        await one.events.wait_for("trouble")
        assert one.delivery.relays["main"].limit == 2


async def test_a_smarthost_that_drops_each_connection_is_in_trouble(tmp_path: Path) -> None:
    """Then the next one has its turn, and nobody else's attempts are used up."""
    async with (
        Peer(leaves_at_mail) as broken,
        Peer() as peer,
        engine(tmp_path, smarthost(broken), smarthost(peer, "backup")) as one,
    ):
        for _ in range(30):
            await one.accept(route=("main", "backup"))
        trouble = await one.events.wait_for("trouble", smarthost="main")
        assert "closed the connection" in str(trouble["reason"])
        await one.events.wait_for("outcome", 20, status="sent", smarthost="backup")
        assert len(one.events.named("outcome", status="deferred")) <= 5  # three, and who was on the way meanwhile


async def test_one_message_that_breaks_connections_is_to_blame_alone(tmp_path: Path) -> None:
    """Whatever it does, and however often: the smarthost is up, and other mail leaves at once."""

    class Choosy(Ordinary):
        async def __call__(self, client: Client) -> None:
            hear = client.hear

            async def hear_or_leave(start: str = "") -> str:
                line = await hear(start)
                if line.startswith("MAIL") and "poison" in line:
                    client.close()
                return line

            client.hear = hear_or_leave  # type: ignore[method-assign]
            await super().__call__(client)

    async with Peer(Choosy()) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(sender="poison@example.com")
        for tries in range(1, 5):
            await one.events.wait_for("outcome", tries, status="deferred")
            await one.writer.run(lambda queue: queue.flush(time.time()))
        await one.accept()
        await one.events.wait_for("outcome", status="sent")
        assert not one.events.named("trouble")


async def test_a_busy_greeting_to_the_second_connection(tmp_path: Path) -> None:
    """421 to one connection more while another works is no trouble: fewer connections, no attempt, all mail leaves."""
    async with (
        Peer(Ordinary(), Ordinary(greeting="421 4.3.2 too many"), Ordinary()) as peer,
        engine(tmp_path, smarthost(peer), run=False) as one,
    ):
        for _ in range(20):
            await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("outcome", 20, status="sent")
        assert not one.events.named("trouble")
        assert {row[0] for row in await one.rows("SELECT attempts FROM recipient")} == {1}
        await one.delivery.stop(5)
        await task


async def test_rate(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """[[smarthost]] rate: so many messages in its time and no more; the loop sleeps until the next one may go."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer, rate=(2, 60.0))) as one:
        for _ in range(5):
            await one.accept()
        for sent in (2, 4, 5):
            await one.events.wait_for("outcome", sent, status="sent")
            await one.rows("SELECT 1")
            assert len(peer.messages) == sent
            patience = one.delivery._patience()
            assert sent == 5 or 50 < (patience or 0) <= 60
            clock(61)
            one.delivery._wake.set()


async def test_a_probe_that_sends_nothing_leaves_the_rate_as_it_was(tmp_path: Path) -> None:
    """Up again after some probes, a smarthost gets as many messages as its rate allows."""
    down = Ordinary(greeting="554 5.3.2 not now")
    async with Peer(down, down, Ordinary()) as peer, engine(tmp_path, smarthost(peer, rate=(2, 3600.0))) as one:
        await one.accept()
        await one.accept()
        for failures in (1, 2):
            await one.events.wait_for("trouble", failures)
            await one.delivery.turn()
            one.delivery.flush()
        await one.events.wait_for("outcome", 2, status="sent")


# -- bodies --


async def test_a_large_body_is_streamed(tmp_path: Path) -> None:
    """25 MiB leave the queue with a few MiB of memory, every octet as it was."""
    size = 25 * 1024 * 1024
    line = b"x" * 998 + b"\r\n"
    seen = 0

    async def counts(client: Client) -> None:
        nonlocal seen
        del client.reader.feed_data  # the rig's record of all that was sent in clear
        await client.say("220 peer")
        for reply in ("250 peer", "250 ok", "250 ok", "354 go"):
            await client.hear()
            await client.say(reply)
        while (text := await client.reader.readline()) != b".\r\n":
            seen += len(text)
        await client.say("250 ok")
        await client.hear("QUIT")

    async with Peer(counts) as peer, engine(tmp_path, smarthost(peer)) as one:
        body = line * 262  # one part, nearly
        whole = size // len(body)

        def begin(queue: Queue) -> int:
            return queue.receive(queue_id="LARGE", kind="mail", uid=1)

        message, part = await one.writer.run(begin), 0
        pieces = body * 4
        pending = b""
        for _ in range(whole // 4):
            pending += pieces
            whole_parts = len(pending) - len(pending) % PART_OCTETS
            octets, pending = pending[:whole_parts], pending[whole_parts:]
            part = await one.writer.run(
                lambda queue, part=part, octets=octets: queue.add_body(message, part, octets)  # type: ignore[misc]
            )
        await one.writer.run(lambda queue: queue.add_body(message, part, pending))
        body_size = whole // 4 * len(pieces)
        new = new_message(queue_id="LARGE", body=b"", body_size=body_size)
        now = delivery_module.time.time()
        tracemalloc.start()
        try:
            await one.writer.run(lambda queue: queue.make_ready(message, new, now))
            await one.events.wait_for("outcome", status="sent")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == len(b"Subject: test\r\n\r\n") + body_size
        assert peak < 8 * 1024 * 1024


async def test_a_server_without_8bitmime(tmp_path: Path) -> None:
    """What has 8-bit octets is encoded for a server that cannot take them; the stored message stays as it was."""
    keywords = ("PIPELINING", "SIZE 10000000")
    header = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    async with Peer(Ordinary(keywords=keywords)) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(header=header, body="grün\r\n".encode(), eight_bit=True)
        await one.events.wait_for("outcome", status="sent")
        content = peer.messages[0].content
        assert content.isascii()
        assert b"quoted-printable" in content and b"gr=C3=BCn\r\n" in content
        assert "BODY=" not in peer.messages[0].sender


async def test_a_body_that_lost_a_part(tmp_path: Path) -> None:
    """A stored body that ends early is never sent as if it were whole: deferred, the connection given up."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(body=b"half\r\n", body_size=5000)
        outcome = await one.events.wait_for("outcome", status="deferred")
        assert "ends 4994 octets early" in str(outcome["reply"])
        assert peer.messages == []


async def test_a_bounce_waits_for_aliases_that_cannot_be_read(tmp_path: Path) -> None:
    """That is no error of ours: the log says which file, the message is tried again and bounces once it can be."""
    async with Peer(Ordinary(rcpt={"bob@example.org": "550 5.1.1 unknown"})) as peer, engine(
        tmp_path, smarthost(peer)
    ) as one:  # fmt: skip
        one.policy.unread = "/etc/aliases: Too many open files"
        queue_id = await one.accept()
        told = await one.events.wait_for("unaddressed", queue_id=queue_id)
        assert told["error"] == one.policy.unread
        state = "SELECT state, attempts, reply FROM recipient WHERE address = 'bob@example.org'"
        await one.accept("carol@example.net")
        await one.events.wait_for("outcome", status="sent")
        ((waits, attempts, reply),) = await one.rows(state)
        assert (waits, attempts) == ("queued", 1) and one.policy.unread in reply
        one.policy.unread = ""
        await one.writer.run(lambda queue: queue.flush(time.time()))
        await one.events.wait_for("outcome", queue_id=queue_id, status="bounced")


# -- errors of ours --


async def test_a_bug_costs_one_attempt(tmp_path: Path) -> None:
    """An error in settling costs that attempt: logged with its traceback, tried again later; the next mail leaves."""
    async with Peer(Ordinary(rcpt={"bob@example.org": "550 5.1.1 unknown"})) as peer, engine(
        tmp_path, smarthost(peer)
    ) as one:  # fmt: skip
        one.policy.broken = True
        queue_id = await one.accept()
        await one.events.wait_for("bug", queue_id=queue_id)
        await one.accept("carol@example.net")
        await one.events.wait_for("outcome", status="sent")
        states = await one.rows("SELECT state, attempts FROM recipient WHERE address = 'bob@example.org'")
        assert states == [("queued", 1)]
        one.events.all = [entry for entry in one.events.all if entry[0] != "bug"]


async def test_a_bug_in_rewriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in what is done to a message before it is sent costs that attempt; nothing stays claimed."""
    async with Peer() as peer, engine(tmp_path, smarthost(peer, from_="qualify")) as one:
        with monkeypatch.context() as broken:
            broken.setattr(outgoing_module.rewrite, "rewrite", lambda *_: 1 / 0)
            queue_id = await one.accept()
            await one.events.wait_for("bug", queue_id=queue_id)
        await one.accept("carol@example.net")
        await one.events.wait_for("outcome", status="sent")
        states = await one.rows("SELECT state, attempts FROM recipient WHERE address = 'bob@example.org'")
        assert states == [("queued", 1)] and len(peer.messages) == 1
        one.events.all = [entry for entry in one.events.all if entry[0] != "bug"]


async def test_a_large_header_is_rewritten_beside_the_loop(tmp_path: Path) -> None:
    """It arrives as a small one would, and only its thread had the work."""
    header = b"From: alice@localhost\r\n" + b"X-Filler: %b\r\n" % (b"x" * 900) * 100
    async with Peer() as peer, engine(tmp_path, smarthost(peer, from_="qualify")) as one:
        await one.accept(header=header)
        await one.events.wait_for("outcome", status="sent")
        assert peer.messages[0].content.startswith(b"From: alice@example.com\r\nX-Filler: x")


async def test_a_bug_outside_of_any_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the loop itself is logged, and mail flows again as soon as it is over."""
    monkeypatch.setattr(delivery_module, "BUG_S", 0.01)
    async with Peer() as peer, engine(tmp_path, smarthost(peer)) as one:
        picks, one.delivery._picks = one.delivery._picks, lambda: 1 / 0  # type: ignore[method-assign, assignment]
        await one.accept("bob@example.org")
        await one.events.wait_for("bug", count=2)
        one.delivery._picks = picks  # type: ignore[method-assign]
        await one.events.wait_for("outcome", status="sent")
        one.events.all[:] = [event for event in one.events.all if event[0] != "bug"]


async def test_a_bug_without_a_connection(tmp_path: Path) -> None:
    """So does one in settling an attempt that got no connection; it left the message attempting until a restart."""
    async with Peer() as gone:
        dead = smarthost(gone)
    async with engine(tmp_path, dead, run=False) as one:
        one.policy.broken = True
        queue_id = await one.accept(lifetime=0.0001)
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("bug", queue_id=queue_id)
        await one.delivery.stop(5)
        await task
        assert await one.rows("SELECT state, attempts FROM recipient") == [("queued", 1)]
        one.events.all = [entry for entry in one.events.all if entry[0] != "bug"]


# -- stop, clock, configuration --


async def test_a_clean_stop_gives_back_claims(tmp_path: Path) -> None:
    """What is only claimed when the daemon stops is queued as before: nothing is `uncertain` at the next start."""
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def waits(client: Client) -> None:
        await client.say("220 peer")
        for reply in ("250-peer", "250 ok", "250 ok", "354 go"):
            line = await client.hear()
            if line.startswith("EHLO"):
                reply = "250 peer"
            await client.say(reply)
        await client.hear_message()
        arrived.set()
        await go_on.wait()
        await client.say("250 ok")
        client.close()

    async with Peer(waits) as peer, engine(tmp_path, smarthost(peer, connections=1), run=False) as one:
        for _ in range(5):
            await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await arrived.wait()
        assert len(await one.rows("SELECT 1 FROM recipient WHERE state = 'attempting'")) == 2
        stopping = asyncio.get_running_loop().create_task(one.delivery.stop(5))
        await one.rows("SELECT 1")
        go_on.set()
        await stopping
        await task
        states = Counter(row[0] for row in await one.rows("SELECT state FROM recipient"))
        assert states == {"sent": 1, "queued": 4}
        assert await one.rows("SELECT outcome FROM attempt") == [("sent",)]


@pytest.mark.parametrize(("answers", "state"), [(1, "queued"), (3, "queued"), (4, "attempting")])
async def test_a_stop_cuts_off_what_takes_too_long(tmp_path: Path, answers: int, state: str) -> None:
    """A smarthost that does not answer holds a stop up no longer than its grace.

    Before the final dot the message cannot have been taken and is queued as before; after it the next start finds it
    attempting, which is `uncertain`.
    """
    silent_now = asyncio.Event()

    async def silent(client: Client) -> None:
        await client.say("220 peer")
        for reply in ("250 peer", "250 ok", "250 ok", "354 go")[:answers]:
            await client.hear()
            await client.say(reply)
        await (client.hear_message() if answers == 4 else client.hear())
        silent_now.set()
        await client.stall()

    async with Peer(silent) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept()
        await silent_now.wait()
        async with asyncio.timeout(5):
            await one.delivery.stop(0.05)
        assert await one.rows("SELECT state FROM recipient") == [(state,)]
        assert await one.rows("SELECT count(*) FROM attempt") == [(0,)]


async def test_cut_off_while_connecting(tmp_path: Path) -> None:
    """A stop while a connection is still being opened gives the claim back: nothing was sent."""

    async def mute(client: Client) -> None:
        await client.stall()

    async with Peer(mute) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept()
        while not peer.clients:
            await asyncio.sleep(0.001)
        await one.delivery.stop(0.05)
        assert await one.rows("SELECT state FROM recipient") == [("queued",)]
        assert await one.rows("SELECT count(*) FROM attempt") == [(0,)]


async def test_promise_12_clock_jump_during_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept for a week in the middle of an attempt expires nothing when that fails."""
    asked = asyncio.Event()
    go_on = asyncio.Event()

    class Waits(Ordinary):
        async def __call__(self, client: Client) -> None:
            await client.say("220 peer")
            await client.hear("EHLO")
            await client.say("250 peer")
            await client.hear("MAIL")
            asked.set()
            await go_on.wait()
            await client.say("451 4.3.0 later")
            client.close()

    async with Peer(Waits()) as peer, engine(tmp_path, smarthost(peer)) as one:
        await one.accept(lifetime=86400)
        await asked.wait()
        real = delivery_module.time.time
        monkeypatch.setattr(delivery_module.time, "time", lambda: real() + 7 * 86400)
        go_on.set()
        await one.events.wait_for("outcome", status="deferred")
        assert len(one.events.named("clock")) == 1
        assert await one.rows("SELECT state FROM recipient") == [("queued",)]


async def test_a_changed_smarthost_is_used_at_once(tmp_path: Path) -> None:
    """A reload that changes a smarthost ends its rest and its idle connections; another keeps what it knows."""
    async with (
        Peer(Ordinary(greeting="554 5.3.2 no")) as bad,
        Peer() as good,
        engine(tmp_path, smarthost(bad), smarthost(good, "other")) as one,
    ):
        await one.accept()
        await one.events.wait_for("trouble")
        other = one.delivery.relays["other"]
        configuration = config(tmp_path, smarthost(good), smarthost(good, "other"), retry=RETRY)
        one.delivery.configure(configuration, one.policy, Secrets())
        await one.events.wait_for("outcome", status="sent")
        assert one.delivery.relays["other"] is other


async def test_what_waits_for_a_smarthost_that_was_changed(tmp_path: Path) -> None:
    """After a reload only what is on the wire comes to its end at the old place, however long that takes."""
    answer = asyncio.Event()

    async def waits(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250 peer")
        await client.hear("MAIL")
        await answer.wait()
        client.close()

    async with (
        Peer(waits) as old,
        Peer() as new,
        engine(tmp_path, smarthost(old, connections=1), run=False) as one,
    ):
        for _ in range(4):
            await one.accept()
        task = asyncio.get_running_loop().create_task(one.delivery.run())
        await one.events.wait_for("attempt")
        await one.rows("SELECT 1")
        assert len(one.delivery.relays["main"].claims) == 1
        one.delivery.configure(config(tmp_path, smarthost(new), retry=RETRY), one.policy, Secrets())
        await one.events.wait_for("outcome", 3, status="sent")
        answer.set()
        await one.events.wait_for("outcome", status="deferred")
        await one.delivery.stop(5)
        await task
        assert (len(old.clients), len(new.messages)) == (1, 3)


async def test_once(tmp_path: Path) -> None:
    """`--once` ends by itself when what was due has been tried, deferred mail and a dead smarthost included."""
    behaviour = Ordinary(rcpt={"bob@example.org": "451 4.3.0 later"})
    async with Peer() as gone:
        dead = smarthost(gone, "dead")
    async with Peer(behaviour) as peer, engine(tmp_path, smarthost(peer), dead, run=False) as one:
        await one.accept()
        await one.accept("carol@example.net")
        await one.accept("dave@example.net", route=("dead",))
        async with asyncio.timeout(10):
            await one.delivery.run(once=True)
        outcomes = sorted(str(fields["status"]) for fields in one.events.named("outcome"))
        assert outcomes == ["deferred", "deferred", Outcome.SENT]


async def test_timeouts_are_the_configured_ones(tmp_path: Path) -> None:
    """A smarthost that says nothing is given up after [timeout] greeting, and rests."""

    async def mute(client: Client) -> None:
        await client.stall()

    async with Peer(mute) as peer, engine(tmp_path, smarthost(peer), timeout=Timeout(greeting=0.05)) as one:
        await one.accept()
        assert "no" in str((await one.events.wait_for("trouble"))["reason"])
