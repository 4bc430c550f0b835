"""Explain: in plain words why a message is where it is, what was tried, what comes next and what would help. Pure.

`happening` says one event of the log in words, for who looks on (`sendmail -v`). Secrets are in no event.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pysendmail import alarms, origin, rewrite
from pysendmail.config import Config
from pysendmail.hints import PASSING, hint
from pysendmail.relay import Relay
from pysendmail.status import obstacle
from pysendmail.units import rfc3339, words_for_duration

Entry = dict[str, Any]
# What nobody has submitted, by its kind.
MADE = {
    "bounce": "a bounce",
    "delay": "a delay notice",
    "relayed": "word that mail was passed on",
    "postmaster": "word to postmaster of a bounce that failed",
}


def message(
    history: Entry,
    waiting: Entry,
    *,
    removers: Mapping[str, int],
    routes: Collection[tuple[str, ...]],
    relays: dict[str, Relay],
    config: Config,
    now: float,
    clock: float,
    expires_at: float | None = None,
    kept_until: float | None = None,
    daemon: bool = True,
) -> Entry:
    """`words` is one line of English each; the other keys are those of `history --json`.

    `routes` are those of the recipients who wait; `clock` is the relays'; `daemon`: whether one runs; `kept_until`:
    until when the text of what has failed can be had.
    """
    words = [_where(waiting)] if waiting["recipients"] else ["It is not in the queue any more."]
    words.append(submitted(history))
    if waiting["queue_name"] == "hold":
        words.append(f"It is held and waits until it is released: pysendmail queue release {history['queue_id']}")
    for recipient in history["recipients"]:
        words += _recipient(recipient, removers.get(recipient["address"]))
    if waiting["recipients"] and waiting["queue_name"] != "hold":
        ahead = _next(waiting, routes, relays, config, now, clock) if daemon else [NO_DAEMON]
        words += [*ahead, *_end(history, expires_at, now)]
        words += _senders(history["sender"] or "", routes, config)
    elif kept_until is not None:
        again = f"pysendmail queue retry {history['queue_id']} sends it to whom it has not reached"
        words.append(f"Its text is kept until {rfc3339(kept_until)}; when that is mended, {again}.")
    return {**history, "words": words}


NO_DAEMON = "No daemon is running, so that nothing is tried: pysendmail flush --wait delivers what is due, once."


def submitted(entry: Entry) -> str:
    """Whose message it is, of which process, and what that claims to be; or that nobody submitted it."""
    if (made := MADE.get(entry["kind"])) is not None:
        return f"pysendmail wrote it: {made}, about {entry['about']}. It counts as mail of uid {entry['uid']}."
    return f"It was submitted by {origin.words(entry['uid'], entry['pid'], entry['command'], entry['unit'])}."


def _where(waiting: Entry) -> str:
    return {
        "active": "An attempt is under way right now.",
        "hold": "Nothing is tried.",
        "incoming": "It waits for its first attempt.",
        "deferred": "It was tried, could not be delivered yet, and is tried again.",
    }[waiting["queue_name"]]


def _recipient(recipient: Entry, remover: int | None) -> list[str]:
    outcome = recipient["outcome"]
    attempts = recipient["attempts"]
    by = f" by uid {remover}" if remover is not None else ""
    state = f"{outcome}{by} at {recipient['finished_at']}" if outcome else "waiting"
    lines = [f"{recipient['address']}: {state}, {len(attempts)} attempt{'s' if len(attempts) != 1 else ''}"]
    for attempt in attempts:
        where = f"{attempt['smarthost']}" + (f" [{attempt['address']}]" if attempt["address"] else "")
        tls = {None: "", "none": ", in clear"}.get(attempt["tls"], f", {attempt['tls']}")
        what = attempt["outcome"] or "under way"
        lines.append(f"  {attempt['at']} {where}{tls}: {what}" + (f": {attempt['reply']}" if attempt["reply"] else ""))
        if what == "uncertain":
            lines.append(
                "    The smarthost may have it: the answer to the end of the message was lost. It is sent again."
            )
    last = attempts[-1] if attempts else None
    if last is not None and last["reply"] and outcome not in ("sent", "removed"):
        words = hint(last["status"] or "", last["reply"])
        if outcome is not None or words != PASSING:  # what may pass by itself is tried again: no need to send it again
            lines.append(f"  What would help: {words}")
    return lines


# What can be set where a smarthost is in trouble, by the kind of alarm that this is.
MENDS = {
    "account": "username and password of [[smarthost]] {name} in {file}, as its server takes them",
    "tls": "another certificate there; or tls, tls_ca_file or tls_fingerprints of [[smarthost]] {name} in {file}",
}


def _next(
    waiting: Entry,
    routes: Collection[tuple[str, ...]],
    relays: dict[str, Relay],
    config: Config,
    now: float,
    clock: float,
) -> list[str]:
    if not config.smarthost:
        return [f"No smarthost is configured: add [[smarthost]] to {config.file}, then reload the daemon."]
    lines = []
    for name in _named(routes):
        relay = relays.get(name)
        if relay is None or relay.trouble is None:
            continue
        lines.append(f"The smarthost {relay.name} is in trouble since {rfc3339(relay.since)}: {relay.trouble.reason}")
        if relay.next_try_at is not None:
            wait = words_for_duration(max(relay.next_try_at - now, 0))
            lines.append(f"  It is probed again in {wait}; pysendmail flush does it now.")
        lines.append(f"  To see what it offers and where it fails: pysendmail probe {relay.name}")
        if relay.tls_held:
            lines.append(
                f"  TLS memory holds the mail back; to allow clear text: pysendmail probe --forget {relay.name}"
            )
        elif mend := MENDS.get(alarms.kind_of(relay.trouble) or ""):
            lines.append(f"  What would help: {mend.format(name=relay.name, file=config.file)}")
    pauses = [_pause(route, relays, clock) for route in sorted(routes) if obstacle(route, relays) is None]
    lines += dict.fromkeys(pause for pause in pauses if pause)
    if ("" in pauses or not lines) and waiting["next_attempt_at"]:
        command = f"pysendmail queue retry {waiting['queue_id']}"
        lines.append(f"The next attempt is at {waiting['next_attempt_at']}; {command} does it now.")
    return lines


def _pause(route: tuple[str, ...], relays: dict[str, Relay], clock: float) -> str:
    """Why the smarthost that mail on this route goes to is not to have it yet; "" where nothing speaks against it."""
    up = next((relays[name] for name in route if name in relays and relays[name].trouble is None), None)
    if up is None or not (wait := up.wait(clock)):
        return ""
    when = words_for_duration(wait)
    return f"The smarthost {up.name} has had as many messages as its rate allows: the next in {when}."


def _end(history: Entry, expires_at: float | None, now: float) -> Iterator[str]:
    """How long all this goes on."""
    if expires_at is None:
        return
    if history["kind"] == "mail":
        told = f"<{history['sender']}> is told" if history["sender"] else "nobody is told, for it has the null sender"
    else:
        told = "the postmaster is told" if history["kind"] == "bounce" else "nobody is told, for it is a report itself"
    when = f"at {rfc3339(expires_at)}" if expires_at > now else "when the next attempt fails"
    yield f"It is given up {when}, and {told}; as root, pysendmail queue expire {history['queue_id']} does it now."


def _named(routes: Collection[tuple[str, ...]]) -> list[str]:
    """The smarthosts of these routes, each once."""
    return list(dict.fromkeys(name for route in sorted(routes) for name in route))


def _senders(sender: str, routes: Collection[tuple[str, ...]], config: Config) -> Iterator[str]:
    """Where a smarthost is to see another envelope sender."""
    names = _named(routes)
    for smarthost in (one for one in config.smarthost if one.name in names):
        rule = rewrite.rule(config, smarthost)
        if rule is not None and (written := rewrite.sender(sender, rule)) != sender:
            yield f"Through the smarthost {smarthost.name} its sender is written <{written}> ([rewrite])."


def happening(event: Entry) -> str:
    """One event of a message, its fields and its name as `event`, as a line; "" for what says nothing new."""
    where = f"{event.get('smarthost')}" + (f" [{event['address']}]" if event.get("address") else "")
    match event.get("event"):
        case "accepted":
            words = f"accepted, {event['size']} octets from {event['sender']}, recipients: {event['recipients']}"
        case "attempt":
            tls = "in clear" if event.get("tls") in (None, "none") else f"over {event['tls']}"
            words = f"connected to {where} {tls}, sending to recipients: {event['recipients']}"
        case "outcome":
            by = f" by {where}" if event.get("smarthost") else ""
            words = f"{event['recipient']} {event['status']}{by}: {event['reply']}"
            if event.get("next_attempt_s") is not None:
                words += f" (next attempt in {words_for_duration(float(event['next_attempt_s']))})"
        case _:
            return ""
    return f"{event['queue_id']}: {words}"
