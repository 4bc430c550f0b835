"""Sabotage: each of the sixteen faults in a real daemon, and the mail in which it has to show.

    with Trial(directory, MAILS["I4"], fault="I4") as trial:
        violations = trial.verdict("I4")

`run` is the torture's part "checker": sixteen negative controls, and the same mail through a daemon without a fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from rig.ca import Authority
from rig.instance import BIN, smarthost
from torture import faults
from torture.checker import check
from torture.evidence import Settings, Violation
from torture.ledger import LOOK_S, Ledger, Subject, gather
from torture.recorder import Recorder
from torture.report import Part, Size

PATIENCE_S = 20.0
PAUSE_S = 0.15  # a log without a new line for so long has said what it had to say: worth a look
PASSWORD = "correct/horse+battery"
LAUNCHER = Path(faults.__file__)
WORKERS = 2
LIMIT = 50  # Received fields; one more is a loop
ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What is submitted to show a fault, under which TLS, and which invariants the fault touches besides its own."""

    send: Callable[[Trial], None]
    tls: str = "none"  # "none", "may", "encrypt"
    server: str = "clear"  # the recorder: "clear", "tls", or "tls auth"
    settings: Settings = field(default_factory=Settings)
    also: frozenset[str] = field(default_factory=frozenset)


def _with_bcc(trial: Trial) -> None:
    header = b"To: ok.1@example.org\nBcc: ok.2@example.org,\n hidden@example.org\n"
    everybody = [f"{name}@example.org" for name in ("ok.1", "ok.2", "hidden")]
    trial.ledger.submit(options=["-t"], header=header, in_header=everybody)


def _round_and_round(trial: Trial) -> None:
    """What arrives is submitted again, as by a smarthost that thinks it is ours to deliver."""
    ledger = trial.ledger
    call = ledger.submit("ok.1@example.org", header=b"Received: by elsewhere.example\n" * (LIMIT - 1))
    for _ in range(ROUNDS):
        if not call.accepted:
            return
        trial.recorder.wait_until(lambda: trial.recorder.copies(call.token))  # noqa: B023
        [copy] = trial.recorder.copies(call.token)
        assert copy.dot is not None
        call = ledger.submit("ok.1@example.org", text=copy.dot.content)


def _two(trial: Trial) -> None:
    trial.ledger.submit("ok.1@example.org", "ok.2@example.org")


def _refused(trial: Trial) -> None:
    trial.ledger.submit("no.1@example.org")


def _refused_null(trial: Trial) -> None:
    trial.ledger.submit("no.1@example.org", sender="")


def _deferred(trial: Trial) -> None:
    trial.ledger.submit("later1.1@example.org")


MAILS = {
    "I1": Mail(send=_two),
    "I2": Mail(send=_two),
    "I3": Mail(send=_two),
    "I4": Mail(send=_two),
    "I5": Mail(send=_two, also=frozenset({"I4"})),
    "I6": Mail(send=_refused),
    "I7": Mail(send=_with_bcc),
    "I8": Mail(send=_two, tls="encrypt", server="tls auth", settings=Settings(secrets=(PASSWORD,))),
    "I9": Mail(send=_two, tls="encrypt"),
    "I10": Mail(send=_two, tls="may", server="tls"),
    "I11": Mail(send=_deferred),
    "I12": Mail(send=_refused, also=frozenset({"I1"})),
    "I13": Mail(send=_refused_null, also=frozenset({"I3"})),
    "I14": Mail(send=_round_and_round),
    "I15": Mail(send=_two),
    "I16": Mail(send=_two, settings=Settings(quiet_s=0.5)),
}


class Trial:
    """A daemon, with a fault if one is named, and the mail on its way."""

    def __init__(self, directory: Path, mail: Mail, *, fault: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.mail = mail
        self._stack = ExitStack()
        self._fault = fault
        self._directory = directory

    def __enter__(self) -> Self:
        mail, directory = self.mail, self._directory
        context = Authority(directory).server() if mail.server != "clear" else None
        auth = "PLAIN" if "auth" in mail.server else ""
        self.recorder = self._stack.enter_context(Recorder(tls=context, auth=auth))
        credentials = {}
        if auth:
            password = directory / "password"
            password.touch(0o600)
            password.write_text(PASSWORD)
            credentials = {"username": "judge", "password_file": str(password)}
        self.subject = Subject(
            directory,
            smarthosts=[smarthost(self.recorder, tls=mail.tls, **credentials)],
            retry={"first": "0.2s", "factor": 1.0, "jitter": 0.0},
        )
        self._stack.callback(self.subject.__exit__)
        wrapper = [str(BIN / "python"), "-P", str(LAUNCHER), self._fault] if self._fault else []
        self.subject.start(wrapper=wrapper)
        self.ledger = Ledger(self.subject)
        mail.send(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def look(self) -> list[Violation]:
        """The verdict on what there is by now."""
        settings = replace(self.mail.settings, tls=self.mail.tls)
        return check(gather(self.ledger, self.recorder, settings=settings, history=False))

    def verdict(self, invariant: str) -> list[Violation]:
        """The verdict as soon as this invariant is among the violated, or patience is over."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            seen = len(self.subject.events)
            while self.subject.news(seen, PAUSE_S):
                seen = len(self.subject.events)
            violations = self.look()
            if any(one.invariant == invariant for one in violations) or time.monotonic() > deadline:
                return violations
            self.subject.news(seen, LOOK_S)


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    """Each fault has to be caught, each mail without a fault to pass; the same at every size."""
    part = Part(name="checker", seed=seed)

    def one(invariant: str) -> None:
        mail = MAILS[invariant]
        with Trial(directory / f"{invariant}-fault", mail, fault=invariant) as trial:
            named = {violation.invariant for violation in trial.verdict(invariant)}
        part.control(f"{invariant} {faults.FAULTS[invariant].__name__}", caught=invariant in named)
        with Trial(directory / invariant, replace(mail, settings=replace(mail.settings, quiet_s=30.0))) as trial:
            if invariant == "I9":
                trial.subject.wait_for("trouble")
            else:
                trial.subject.settle()
            part.case(invariant, trial.look(), again=f"python -m torture checker --only {invariant}")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, [only] if only else MAILS))
    return part
