"""Outgoing: a claim as one smarthost is to see it: rewritten where that is configured, its body as a stream.

Nothing is read from the store before the session wants it, and then a few parts at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from pysendmail import mime, rewrite
from pysendmail.config import Config, Smarthost
from pysendmail.queue import Queue
from pysendmail.reader import Reader
from pysendmail.records import Claim
from pysendmail.session import Body, Outgoing

PARTS_AT_A_TIME = 2  # of a large body: as much is being sent, and as much read ahead: 1 MiB


def outgoing(claim: Claim, config: Config, smarthost: Smarthost, reader: Reader) -> tuple[Outgoing, str]:
    """The message for this smarthost, and the log's word on what was rewritten for it."""
    envelope, header, word = claim.envelope, claim.header, ""
    if (rule := rewrite.rule(config, smarthost)) is not None:
        new = rewrite.rewrite(envelope.sender, header, rule)
        envelope, header = replace(envelope, sender=new.sender), new.header
        word = "signed" if new.signed else "yes" if new.changed else ""
    body = StoredBody(claim, reader, header)
    message = Outgoing(
        envelope=envelope,
        header=header,
        body=body.content,
        size=claim.size - len(claim.header) + len(header),
        eight_bit=claim.eight_bit or not header.isascii(),
        seven_bit=body.seven_bit,
    )
    return message, word


class StoredBody:
    """The stored body of a claim. `header` is the one that it is sent with."""

    def __init__(self, claim: Claim, reader: Reader, header: bytes) -> None:
        self._claim = claim
        self._reader = reader
        self._header = header

    @property
    def content(self) -> bytes | Body:
        """A small body, which came with the claim; or a stream with bounded memory."""
        claim = self._claim
        small = len(claim.header) + 2 + len(claim.first_part) >= claim.size
        return claim.first_part if small else self.stream

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's octets in order; from the start each time it is called. What is next is read meanwhile."""
        claim = self._claim
        parts = [claim.first_part]
        got, read = len(claim.header) + 2 + len(claim.first_part), 1
        while parts:
            ahead = self._read(read) if got < claim.size else None
            try:
                for octets in parts:
                    yield octets
                parts = await ahead if ahead is not None else []
            finally:
                if ahead is not None:
                    ahead.cancel()
            got += sum(map(len, parts))
            read += len(parts)
        if got < claim.size:
            raise EOFError(f"{claim.queue_id}: the stored body ends {claim.size - got} octets early")

    def _read(self, part: int) -> asyncio.Future[list[bytes]]:
        return self._reader.hand_in(partial(Queue.parts, message=self._claim.message, part=part, limit=PARTS_AT_A_TIME))

    async def seven_bit(self) -> tuple[bytes, bytes | Body]:
        """Header and body without 8-bit octets in the body, for a server without 8BITMIME (RFC 6152 §3)."""
        survey = mime.Survey(self._header, seven_bit=True)
        async for octets in self.stream():
            survey.feed(octets)
        plan = survey.finish()

        async def recoded() -> AsyncGenerator[bytes, None]:
            recoder = plan.recoder()
            async for octets in self.stream():
                yield recoder.feed(octets)
            yield recoder.finish()

        return plan.header, recoded if plan.changed else self.content
