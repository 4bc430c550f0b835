"""Encoder: every text of up to so many of CR, LF, dot and x, cut at each place, by whatever its octets go through.

    the encoder    refuses what has a bare CR or LF, in any cut; of all else a server reads what was meant, once
    the intake     makes the same of a text in any cut, and only CRLF of it (held against the rules read slowly)
    the server     reads from any cut of what the encoder wrote what the encoder was given
    the whole way  `sendmail` to recorder: such texts across each edge of the pieces in which a large message travels,
                   is stored and is sent; one message with its edges in the body, one with those of its whole text

A sample goes up to 8 symbols, a nightly run up to 10 (1.4 million texts; the intake of those with more than 8 in two
cuts: whole and octet by octet). `--only TEXT` in hex: one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

from pysendmail.message import Intake
from pysendmail.queue import PART_OCTETS
from pysendmail.smtp.wire import WireError
from rig.slow_reader import slowly
from torture.evidence import Violation
from torture.framing import received, stuffed
from torture.report import Part, Size
from torture.traffic import fast_sendmail, scene, settle

SYMBOLS = (b"\r", b"\n", b".", b"x")
NORMAL = (b"\r\n", b".", b"x")
PROCESSES = 2
PREFIX = 2  # symbols, by which the work is shared
ALL_CUTS = 8  # symbols
MOST_TOLD = 20  # texts that are wrong
EDGES = 100  # in a message
LINE = b"x" * 62 + b"\r\n"  # a divisor of every edge
END = b"\r\n.\r\n"
HEADER = b"Subject: edges\r\n\r\n"


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="encoder", seed=seed)
    if only:
        _tell(part, [(bytes.fromhex(only), wrong) for wrong in wrongs(bytes.fromhex(only))])
        part.cases = 1
        return part
    longest = size.of(sample=8, nightly=10)
    prefixes = [b"".join(symbols) for symbols in product(SYMBOLS, repeat=PREFIX)]
    _tell(part, [(text, wrong) for text in _texts(b"", range(PREFIX)) for wrong in wrongs(text)])
    part.cases = sum(len(SYMBOLS) ** length for length in range(PREFIX))
    with ProcessPoolExecutor(PROCESSES) as pool:
        for count, found in pool.map(_share, prefixes, [longest - PREFIX] * len(prefixes)):
            part.cases += count
            _tell(part, found)
    part.control("a text that is cut in two messages", caught=bool(list(_misread(b"x", b"x\r\n.\r\n.\r\n"))))
    _whole_way(part, list(edges(size.of(sample=3, nightly=5))), directory)
    return part


def _tell(part: Part, found: Sequence[tuple[bytes, str]]) -> None:
    for text, wrong in found:
        violation = Violation(invariant="encoder", text=wrong)
        part.case(repr(text), [violation], again=f"python -m torture encoder --only {text.hex()}")
        part.cases -= 1


def _share(prefix: bytes, more: int) -> tuple[int, list[tuple[bytes, str]]]:
    """All texts that begin so: how many, and what is wrong with the first ones that are."""
    count = 0
    found: list[tuple[bytes, str]] = []
    for text in _texts(prefix, range(more + 1)):
        count += 1
        if len(found) < MOST_TOLD:
            found += [(text, wrong) for wrong in wrongs(text)]
    return count, found


def _texts(prefix: bytes, lengths: range) -> Iterator[bytes]:
    for length in lengths:
        for symbols in product(SYMBOLS, repeat=length):
            yield prefix + b"".join(symbols)


# -- one text --


def wrongs(text: bytes) -> Iterator[str]:
    """What is wrong with what is made of it."""
    meant = slowly(b"\n" + text, dot_ends=False)[1]
    for pieces in _cuts(text) if len(text) <= ALL_CUTS else ([text], [text[i : i + 1] for i in range(len(text))]):
        if (body := _taken_in(pieces)) != meant:
            yield f"taken in as {pieces}: {body!r}, not {meant!r}"
    if text in (meant, meant.removesuffix(b"\r\n")):
        whole = stuffed([text])
        for pieces in _cuts(text):
            if (other := stuffed(pieces)) != whole:
                yield f"encoded as {pieces}: {other!r}, not {whole!r}"
        yield from _misread(meant, whole)
    else:
        yield from _taken(text)


def _taken(text: bytes) -> Iterator[str]:
    """A cut in which the encoder takes what no server may see."""
    for pieces in _cuts(text):
        try:
            octets = stuffed(pieces)
        except WireError:
            continue
        yield f"encoded as {pieces}: {octets!r}, and nothing was refused"


def _misread(meant: bytes, whole: bytes) -> Iterator[str]:
    if (read := _unstuffed(whole)) != meant:
        yield f"written {whole!r}, read {read!r}, not {meant!r}"
    for pieces in _cuts(whole):
        try:
            read = received(pieces)
        except AssertionError as error:
            yield f"received as {pieces}: {error}"
            continue
        if read != meant:
            yield f"received as {pieces}: {read!r}, not {meant!r}"


def _cuts(text: bytes) -> Iterator[list[bytes]]:
    """Whole, cut at each place, and octet by octet."""
    yield [text]
    yield from ([text[:place], text[place:]] for place in range(1, len(text)))
    yield [text[place : place + 1] for place in range(len(text))]


def _taken_in(pieces: Sequence[bytes]) -> bytes:
    intake = Intake(dot_ends=False)
    intake.feed(b"\n")
    for piece in pieces:
        intake.feed(piece)
    intake.finish()
    return intake.take()


def _unstuffed(whole: bytes) -> bytes | None:
    """By the letter of RFC 5321 §4.5.2; None where there is more or less than one end of data."""
    text, end, rest = (b"\r\n" + whole).partition(END)
    if not end or rest:
        return None
    return (text + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]


# -- the whole way --


def edges(longest: int) -> Iterator[tuple[bytes, int]]:
    """Each normal text of up to so many octets, with each place inside it at which an edge may cut; the end always."""
    for length in range(2, longest + 1):
        for count in range(1, length + 1):
            for symbols in product(NORMAL, repeat=count):
                text = b"".join(symbols)
                if len(text) == length:
                    yield from ((text, place) for place in range(1, length))
    if longest < len(END):
        yield from ((END, place) for place in range(1, len(END)))


def _whole_way(part: Part, places: Sequence[tuple[bytes, int]], directory: Path) -> None:
    program = fast_sendmail(directory)
    with scene(directory / "scene", part.seed, program) as (_, ledger, recorder):
        for start in range(0, len(places), EDGES):
            for what, offset in (("body", 0), ("text", len(HEADER))):
                some = places[start : start + EDGES]
                body = b"".join(_across(some, offset))
                call = ledger.submit(f"ok.{start}@example.org", text=HEADER + body)
                settle(ledger)
                found = [] if call.code == 0 else [Violation(invariant="encoder", text=f"exit {call.code}")]
                bodies = [one.dot.content.partition(b"\r\n\r\n")[2] for one in recorder.copies(call.token) if one.dot]
                if bodies != [body]:
                    found.append(Violation(invariant="encoder", text=f"{len(bodies)} copies, not the text: {some}"))
                name = f"{len(some)} edges of its {what} from {start}"
                part.case(name, found, again="python -m torture encoder")
                part.cases += len(some) - 1


def _across(places: Sequence[tuple[bytes, int]], offset: int) -> Iterator[bytes]:
    """A body of CRLF lines in which each text lies across an edge; the edges count from `offset` octets before it."""
    length = offset
    for number, (text, place) in enumerate(places, start=1):
        room = number * PART_OCTETS - place - length
        filling = LINE * (room // len(LINE) - 1)
        yield filling + b"x" * (room - len(filling))
        yield text
        length += room + len(text)
    yield b"\r\n"
