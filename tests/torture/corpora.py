"""Corpora: mail that others have collected, as it is, by way of `sendmail` and the daemon to the recorder.

Python's own test mails (from this interpreter, or Debian's libpython3.N-testsuite), and what is in the source packages
of SDISTS, which pip fetches; nothing of it is kept. Each mail goes in with its lines ended by LF, by CRLF and by both
in turn, and each of these with its recipient as an argument and with -t. With -t a mail may be refused, since who wrote
it may have meant that: with an exit code and words, and nothing is sent.

What arrives is held to the rules read slowly (`rig/slow_reader.py`): our fields on top, then all the submitter's but
Bcc and its like, in their order, and the body, octet for octet. Where a line is too long for SMTP, header or body are
held to what they say instead: folds, encoded-words and transfer encodings are ours.

A sample is a few mails of the first source that can be had. `--only SOURCE/FILE/ENDS/HOW`.
"""

from __future__ import annotations

import email
import email.header
import email.message
import email.policy
import importlib.util
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

import pytest

from rig import debian
from rig.slow_reader import slowly
from torture.checker import DROPPED, MAYBE
from torture.evidence import Call, Violation
from torture.ledger import Ledger
from torture.recorder import Plan, Recorder
from torture.report import Part, Size
from torture.traffic import fast_sendmail, scene, settle
from torture.view import name_of

SDISTS = (
    *("flufl.bounce", "mail-parser", "hyperkitty", "talon", "django-mailbox", "dkimpy", "eml2pdf", "authheaders"),
)
PYTHON = "python"
FETCH_S = 300
AT_A_TIME = 4
LARGEST = 1 << 20  # of a mail that is tried
LINE = 998
ENDS = ("LF", "CRLF", "mixed")
HOW = ("arguments", "-t")
REFUSED = (64, 65)
OURS = {b"received", b"date", b"from", b"message-id", b"resent-date", b"resent-from", b"resent-message-id"}
_MAIL = re.compile(rb"\A(?:From [^\n]*\n)?[!-9;-~]+[ \t]*:")
_KNOWN = re.compile(
    rb"^(?:from|to|subject|date|received|return-path|message-id|content-type|mime-version):", re.I | re.M
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One mail as it is submitted."""

    mail: str  # SOURCE/FILE
    ends: str
    how: str
    text: bytes

    def __str__(self) -> str:
        return f"{self.mail}/{self.ends}/{self.how}"


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="corpora", seed=seed)
    mails = dict(_found(part, size, directory))
    names = sorted(mails)
    if size.name == "sample" and not only:
        names = Random(seed).sample(names, min(len(names), size.of(sample=8, nightly=0)))
    trials = [trial for name in names for trial in _trials(name, mails[name]) if only in ("", str(trial))]
    if trials:
        _play(part, trials, directory)
    return part


def _play(part: Part, trials: Sequence[Trial], directory: Path) -> None:
    program = fast_sendmail(directory)
    plan = Plan(seed=part.seed, rate=1.0, attempts=1 << 30, moods=("ok",))  # whatever the recipients' names are
    with scene(directory / "scene", part.seed, program, plan) as (_, ledger, recorder):
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            calls = list(pool.map(lambda trial: _submit(ledger, trial), trials))
        left = settle(ledger)
        for trial, call in zip(trials, calls, strict=True):
            found = [Violation(invariant="corpora", text=text) for text in _wrong(recorder, trial, call)]
            part.case(str(trial), found, again=f"python -m torture corpora --only {trial}")
    if left:
        part.case("all", [Violation(invariant="corpora", text=f"{left} still wait")], again="python -m torture corpora")
    told = Counter(f"{trial.how} {call.code}" for trial, call in zip(trials, calls, strict=True))
    part.note(f"{len({trial.mail for trial in trials})} mails; {', '.join(f'{k}: {told[k]}' for k in sorted(told))}")


def _submit(ledger: Ledger, trial: Trial) -> Call:
    token = ledger.next_token()
    if trial.how == "-t":
        return ledger.submit(token=token, text=trial.text, options=("-t",))
    return ledger.submit(f"ok.{token}@example.org", token=token, text=trial.text)


# -- what has to arrive --


def _wrong(recorder: Recorder, trial: Trial, call: Call) -> Iterator[str]:
    copies = recorder.copies(call.token)
    if call.code != 0:
        if trial.how == "arguments" or call.code not in REFUSED:
            yield f"exit {call.code}: {call.stderr}"
        if not call.stderr.startswith("sendmail: ") or call.stderr.count("\n") != 1 or MAYBE in call.stderr:
            yield f"not a line of words: {call.stderr!r}"
        if copies:
            yield "refused, and sent all the same"
        return
    if not copies:
        yield "it has not arrived"
    for copy in copies:
        assert copy.dot is not None
        if wrong := difference(trial.text, copy.dot.content):
            yield wrong
        if trial.how == "-t" and (strangers := [who for who in copy.recipients if not _mentioned(who, trial.text)]):
            yield f"sent to {strangers}, whom it does not name"


def _mentioned(address: str, text: bytes) -> bool:
    local, _, domain = address.rpartition("@")
    named = re.sub(rb"[\s\\\"]", b"", text).lower()
    return re.sub(rb"[\s\\\"]", b"", local.encode()).lower() in named and (
        domain == "example.com" or domain.startswith("xn--") or domain.lower().encode() in named
    )


def difference(text: bytes, content: bytes) -> str:
    """How what arrived is not what was submitted; "" where it is."""
    fields, body = slowly(text, dot_ends=False)
    header, blank, sent = content.partition(b"\r\n\r\n")
    if not blank:
        return "no blank line behind the header"
    kept = [field for field in fields if name_of(field) not in DROPPED and not _empty(field)]
    if any(len(line) > LINE for line in body.split(b"\r\n")):
        kept = [field for field in kept if not name_of(field).startswith(("content-", "mime-version"))]
        if said(content) != said(b"".join(kept_of(fields)) + b"\r\n" + body):
            return "re-encoded, the body says something else"
    elif sent != body:
        at = next((at for at, (one, other) in enumerate(zip(sent, body, strict=False)) if one != other), len(body))
        return f"the body is another from octet {at} on: {sent[at : at + 30]!r}, not {body[at : at + 30]!r}"
    return _header_difference(slowly(header + b"\r\n", dot_ends=False)[0], kept)


def kept_of(fields: Sequence[bytes]) -> list[bytes]:
    return [field for field in fields if name_of(field) not in DROPPED]


def _empty(field: bytes) -> bool:
    """One of those that we write where they say nothing."""
    return name_of(field) in ("date", "from", "message-id") and not field.partition(b":")[2].strip()


def _header_difference(sent: list[bytes], kept: list[bytes]) -> str:
    wanted = [_plain(field) for field in kept]
    left = iter(sent)
    added: list[bytes] = []
    for want, field in zip(wanted, kept, strict=True):
        for have in left:
            if _plain(have) == want:
                break
            added.append(have)
        else:
            return f"the header lacks {field!r}"
    added += left
    names = {name_of(field).encode() for field in added}
    theirs = {name_of(field).encode() for field in kept}
    if strange := {name for name in names - OURS if not name.startswith((b"content-", b"mime-version"))}:
        return f"the header has {sorted(strange)} of nobody's"
    doubled = (names & theirs) - {b"received"}
    return f"the header has {sorted(doubled)} twice" if doubled - {b"mime-version"} else ""


def _plain(field: bytes) -> bytes:
    """A field that fits as it is; one that had to be folded without its white space, and decoded."""
    if all(len(line) <= LINE for line in field.split(b"\r\n")) and b"=?" not in field:
        return re.sub(rb"\s", b"", field)
    text = re.sub(r"\r\n(?=[ \t])", "", field.decode("latin-1"))
    pieces = [
        piece.encode("latin-1") if isinstance(piece, str) else piece for piece, _ in email.header.decode_header(text)
    ]
    return re.sub(rb"\s", b"", b"".join(pieces))


def said(whole: bytes) -> list[bytes]:
    """The content of each leaf, decoded."""
    message = email.message_from_bytes(whole, policy=email.policy.compat32)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    return [re.sub(rb"\r?\n", b"\n", bytes(part.get_payload(decode=True) or b"")).rstrip() for part in leaves]


# -- the mails --


def _found(part: Part, size: Size, directory: Path) -> Iterator[tuple[str, bytes]]:
    """Name and text of each mail. A sample ends with the first source that has any."""
    sources: list[tuple[str, Callable[[], list[tuple[str, bytes]]]]] = [(PYTHON, _pythons)]
    sources += [(name, lambda name=name: _of_sdist(name, directory)) for name in SDISTS]  # type: ignore[misc]
    counts: Counter[str] = Counter()

    def had(source: tuple[str, Callable[[], list[tuple[str, bytes]]]]) -> list[tuple[str, bytes]]:
        name, fetch = source
        try:
            mails = fetch()
        except (pytest.skip.Exception, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
            part.skip(name, str(error))
            return []
        if not mails:
            part.skip(name, "there is no mail in it")
        return mails

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        few = sources[:1] if size.name == "sample" else sources
        for (name, _), mails in zip(few, pool.map(had, few), strict=True):
            counts[name] = len(mails)
            yield from ((f"{name}/{file}", text) for file, text in mails)
    part.note(", ".join(f"{name} {count}" for name, count in counts.items()))


def _pythons() -> list[tuple[str, bytes]]:
    found = importlib.util.find_spec("test.test_email") if importlib.util.find_spec("test") else None
    if found is not None and found.origin is not None:
        data = Path(found.origin).parent / "data"
    else:
        package = f"libpython3.{sys.version_info.minor}-testsuite"
        data = Path(debian.file("/usr/lib/python3*/test/test_email/data/msg_01.txt", package)).parent
    return _mails((file.name, file.read_bytes()) for file in sorted(data.iterdir()) if file.is_file())


def _of_sdist(name: str, directory: Path) -> list[tuple[str, bytes]]:
    place = directory / f"sdist-{name}"
    place.mkdir()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-qq", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-binary", name, "--dest", str(place), name],
        capture_output=True,
        text=True,
        timeout=FETCH_S,
        check=False,
    )
    archives = list(place.glob("*.tar.gz"))
    if not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise OSError(f"pip could not fetch it: {lines[-1] if lines else f'exit {done.returncode}'}")
    with tarfile.open(archives[0]) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and member.size <= LARGEST]
        return _mails(
            (member.name.partition("/")[2], file.read())
            for member in members
            if (file := archive.extractfile(member)) is not None
        )


def _mails(files: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Those files that begin as a mail does."""
    return [
        (name.replace("/", "."), text)
        for name, text in files
        if not name.endswith((".py", ".rst", ".md", "PKG-INFO", ".yml"))
        and _MAIL.match(text)
        and len(_KNOWN.findall(text[:4096].replace(b"\r\n", b"\n"))) >= 2
    ]


def _trials(name: str, text: bytes) -> Iterator[Trial]:
    lines = text.replace(b"\r\n", b"\n").split(b"\n")
    for ends in ENDS:
        marks = cycle({"LF": (b"\n",), "CRLF": (b"\r\n",), "mixed": (b"\n", b"\r\n", b"\n", b"\n", b"\r\n")}[ends])
        joined = b"".join(line + mark for line, mark in zip(lines[:-1], marks, strict=False)) + lines[-1]
        for how in HOW:
            yield Trial(mail=name, ends=ends, how=how, text=joined)
