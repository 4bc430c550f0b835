"""Dialogues: what a server says, and what has to become of the message, one behaviour a file (tests/dialogues/*.smtp).

    # What it is about.
    offers: PIPELINING, SIZE 1000         what EHLO lists; nothing when left out
    recipients: a@example.org b@example.org
    results: sent 2.0.0 message; bounced 5.1.1 recipient     in the order of the recipients: outcome, status, scope
    together: yes                         what it is about needs the server's lines in one segment
    after: usable                         or unusable: the connection afterwards
    trouble: greeting session 4.3.2       instead of results: stage, scope and status of why there is no session

    C: MAIL FROM:<s@example.org>          the client's next line begins so
    C: .                                  the client's message, to its final dot
    S: 250 ok                             a line of the server; lines that follow each other leave in one write
    raw: 250 o                            octets without CRLF; \\r \\n \\0 \\xNN as in Python
    close | reset | stall                 FIN, RST, silence

A dialogue that begins with C: MAIL gets greeting and EHLO for nothing; one that begins with S: has them itself.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from rig.peer import Client, Unexpected

DIALOGUES = Path(__file__).parent.parent / "dialogues"
SENDER = "s@example.org"


@dataclass
class Dialogue:
    """One file."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # ("C" | "S" | "raw" | "close" | ..., text)
    offers: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=lambda: ["a@example.org"])
    results: list[tuple[str, str, str]] = field(default_factory=list)
    usable: bool = False
    together: bool = False
    trouble: tuple[str, ...] = ()

    @property
    def whole_session(self) -> bool:
        """Whether the script has the greeting and EHLO itself."""
        return self.steps[0][0] != "C" or not self.steps[0][1].startswith("MAIL")

    @property
    def groups(self) -> list[tuple[str, str | bytes]]:
        """The steps, with the server's lines that follow each other made one ("send", octets)."""
        groups: list[tuple[str, str | bytes]] = []
        for kind, text in self.steps:
            if kind not in ("S", "raw"):
                groups.append((kind, text))
                continue
            octets = text.encode() + b"\r\n" if kind == "S" else _unescape(text)
            if groups and groups[-1][0] == "send":
                octets = groups.pop()[1] + octets  # type: ignore[operator]
            groups.append(("send", octets))
        return groups

    async def __call__(self, client: Client) -> None:
        """The behaviour for a Peer."""
        if not self.whole_session:
            await client.say("220 peer.example ESMTP")
            await client.hear("EHLO")
            lines = ["peer.example", *self.offers]
            await client.say(*[f"250-{text}" for text in lines[:-1]], f"250 {lines[-1]}")
        for kind, text in self.groups:
            match kind:
                case "C" if text == ".":
                    await client.hear_message()
                case "C":
                    assert isinstance(text, str)
                    await client.hear(text)
                case "send":
                    assert isinstance(text, bytes)
                    await client.send(text)
                case "close":
                    client.close()
                    return
                case "reset":
                    client.reset()
                    return
                case _:
                    await client.stall()
        with contextlib.suppress(Unexpected):  # the client may leave without a word
            await client.hear("QUIT")
            await client.say("221 bye")
        client.close()


def load() -> list[Dialogue]:
    """All of them, by name."""
    return [_parse(path) for path in sorted(DIALOGUES.glob("*.smtp"))]


def _parse(path: Path) -> Dialogue:
    dialogue = Dialogue(path.stem)
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        key, _, value = line.partition(":")
        value = value.strip()
        match key.strip():
            case "offers":
                dialogue.offers = [word.strip() for word in value.split(",")]
            case "recipients":
                dialogue.recipients = value.split()
            case "results":
                dialogue.results = [tuple(result.split()) for result in value.split(";")]  # type: ignore[misc]
            case "after":
                dialogue.usable = {"usable": True, "unusable": False}[value]
            case "together":
                dialogue.together = value == "yes"
            case "trouble":
                dialogue.trouble = tuple(value.split())
            case "C" | "S" | "raw" | "close" | "reset" | "stall" as kind:
                dialogue.steps.append((kind, value))
            case other:
                raise ValueError(f"{path}: {other!r}")
    return dialogue


def _unescape(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")
