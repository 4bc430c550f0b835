"""Modes: what sendmail(8) does beside taking a message: list, count, flush, hold, test an address, check the aliases.

A mode is an iterator of text for standard output; "" is a sign of life and nothing else. Exit codes other than 0 leave
it as ControlError or Refused, after what there was to print. The daemon performs them for its callers, a command
without a daemon for itself, so that they mean the same. Who may do what is `control`'s to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pysendmail import __version__, argv, explain, mailq, whereto
from pysendmail.argv import Invocation, Mode, UsageError
from pysendmail.control import Control, ControlError, Entry, Right
from pysendmail.exits import EX_CONFIG, EX_NOUSER, EX_OK
from pysendmail.submission import Refused

# These need the queue, or what the daemon knows of the smarthosts.
UNDONE = "not all of it was done"  # what went wrong may have come after a part of it
OF_THE_QUEUE = frozenset({Mode.LIST, Mode.COUNT, Mode.FLUSH, Mode.HOLD, Mode.HOST_STATUS, Mode.PURGE_STATUS})


async def on_queue(invocation: Invocation, desk: Control, right: Right) -> AsyncIterator[str]:
    """The modes in OF_THE_QUEUE."""
    request: Entry = {"filters": invocation.filters, "all": True}
    match invocation.mode:
        case Mode.LIST:
            layout = mailq.LAYOUTS[invocation.format or "postfix"]
            wanted = {**request, "body_type": invocation.format == "sendmail"}
            async for text in layout(desk.waiting_pages(right, wanted), desk.directory):
                yield text
        case Mode.COUNT:
            number = 0
            async for entries in desk.waiting_pages(right, request):
                number += len(entries)
            yield f"{number}\n"
        case Mode.FLUSH if invocation.wait:
            async for event in desk.flush_and_wait(right, request):
                words = explain.happening(event) if invocation.verbose else ""
                yield f"{words}\n" if words else ""
        case Mode.FLUSH:
            async for flushed in desk.flush(right, request):
                if invocation.verbose and invocation.filters:
                    yield f"messages that are due now: {flushed['flushed']}\n"
        case Mode.HOLD:
            async for entry in desk.hold(right, {**request, "reason": invocation.hold_reason}):
                yield f"{entry['queue_id']}: {entry['done']}\n" if entry else ""
        case Mode.HOST_STATUS:
            async for text in mailq.hosts(desk.smarthosts(right, {})):
                yield text
        case _:
            async for _entry in desk.purge(right, {}):
                pass


async def elsewhere(
    invocation: Invocation, now: whereto.Circumstances, lines: AsyncIterator[str]
) -> AsyncIterator[str]:
    """The modes that need neither a message nor the queue. `lines` is standard input, which only -bt reads."""
    match invocation.mode:
        case Mode.ALIASES:
            aliases = now.aliases
            if problems := (*aliases.problems, *aliases.loops()):
                raise Refused(EX_CONFIG, "\n".join(str(problem) for problem in problems))
            targets = aliases.targets.values()
            yield f"{aliases.file}: {len(targets)} aliases, {sum(map(len, targets))} addresses in them\n"
        case Mode.VERIFY:
            answers = []
            for answer in whereto.verify(invocation.recipients, now):
                answers.append(answer)
                yield "".join(f"{line}\n" for line in answer.lines)
            # No user is worse than no smarthost, which passes.
            for code in sorted({answer.code for answer in answers} - {EX_OK}, key=lambda code: code != EX_NOUSER):
                raise ControlError(code, next(answer.problem for answer in answers if answer.code == code))
        case Mode.TEST:
            for address in invocation.recipients:
                for line in whereto.test(address, now):
                    yield f"{line}\n"
            if not invocation.recipients:
                async for text in lines:
                    for line in whereto.test(text.strip(), now) if text.strip() else ():
                        yield f"{line}\n"
        case Mode.VERSION:
            yield f"pysendmail {__version__}\n"
        case Mode.HELP:
            yield argv.help(invocation.name)
        case Mode.NOTHING:
            return
        case mode:
            raise UsageError(f"{mode}: this version of pysendmail does not do that")
