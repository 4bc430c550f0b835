"""P1 and P2, the power cut: every file as it may be found after one, at any moment of a daemon's work.

A scenario is played once under strace with all that is written (io_log.py). Then, for each moment at which something
was written, synced, renamed or told, the files are rebuilt as a power cut could leave them (disk.py), opened by
pysendmail's own start, and held against what had been told by then (told.py, reopen.py). One image in SLOW_EACH is
given to a real daemon, and the checker judges what that makes of it.

Besides the nine scenarios: `direct`, sendmail without a daemon in a queue that it has to make itself, and
`asked-again`, a daemon killed in the commit of a message whose submitter asks the next one.

A case is `SCENARIO:CUT:VARIANT` of one recording; recordings are not alike, so that with a violation the recording
is kept, and `--only FILE:CUT:VARIANT` looks at it again.

The negative controls are the same daemon with synchronous=NORMAL, with answers that leave before the commit, and with
a start that makes nothing durable of what a killed one left: for each some image must have lost what was accepted.

Not modelled: what LEFT_OUT names. What was on the disk when a recording began counts as durable.
"""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from pysendmail import frames
from rig.instance import BIN, PATIENCE_S, Event
from torture import power_faults
from torture.disk import FIXED, Choice, Disk, Image
from torture.evidence import Attempt, Call, Connection, Stop, Violation
from torture.io_log import Operation, Reader, Tap, Tree
from torture.reopen import Bench, Found, judge, lay
from torture.report import Part, Size
from torture.scenarios import LARGE, SCENARIOS, Scenario, Stage, Template
from torture.told import Told

SAMPLE, NIGHTLY = 2_000, 50_000
CONTROL = 300
SLOW_EACH = 500
ROUNDS = 40  # times that a scenario's moments are gone through for more images
CHUNK = 40  # moments in one go of a worker
MEMORY = 4_000  # images that a worker remembers
LAUNCHER = Path(power_faults.__file__)
LEFT_OUT = {
    "queue.db-shm": "it is written by mmap, which no system call shows; SQLite makes it anew, and no image has it",
    "disks that lie about a sync": "no order of commits could help",
}


@dataclass(slots=True, kw_only=True)
class Recording:
    """One scenario as it went, and all that was seen of it. `programs`: (index of its first operation, token)."""

    name: str
    tree: Tree
    template: Template = field(default_factory=Template)  # what had been seen before
    operations: list[Operation] = field(default_factory=list)
    programs: list[tuple[int, str]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    stops: list[Stop] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    configuration: str = ""

    def see(self, stage: Stage, configuration: str) -> None:
        """Take over what the stage's end is to be judged by."""
        stage.recorder.wait_until(lambda: all(one.closed is not None for one in stage.recorder.connections))
        self.calls = list(stage.ledger.calls)
        self.connections = stage.recorder.connections
        self.attempts = stage.recorder.attempts
        self.seen = stage.recorder.seen
        self.stops = list(stage.subject.stops)
        self.events = list(stage.subject.events)
        self.configuration = configuration

    def moments(self) -> Iterator[tuple[int, Disk, Told]]:
        """After each operation that changed the disk or told somebody something."""
        disk, told = Disk(self.tree), Told()
        told.know(self.template.calls, self.template.attempts, "".join(self.template.lines))
        programs = dict(self.programs)
        for index, operation in enumerate(self.operations):
            if index in programs:
                told.runs(programs[index])
            version = told.version
            told.hear(operation)
            if disk.do(operation) or told.version != version:
                yield index, disk, told

    def copies(self, at: float) -> Counter[tuple[str, str]]:
        """What the smarthost had for good by then."""
        return Counter(
            (attempt.sender, address)
            for attempt in self.attempts
            if attempt.dot is not None and attempt.dot.accepted and attempt.dot.at <= at
            for address in set(attempt.recipients)
        )


# -- to record --


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """Where scenarios are recorded. `fault`: what is wrong with the daemon, for a negative control."""

    strace: str
    directory: Path
    fault: str = ""

    def daemon(self, tap: Tap, inject: str = "") -> list[str]:
        wrapper = tap.wrapper(self.strace, beside=True, inject=inject)
        return [*wrapper, str(BIN / "python"), "-P", str(LAUNCHER), self.fault] if self.fault else wrapper

    def begin(self, scenario: Scenario, template: Template | None) -> tuple[Stage, Recording, Reader]:
        stage = Stage(scenario, self.directory / "stage", template)
        queue = stage.subject.queue_directory
        recording = Recording(name=scenario.name, tree=Tree.of(queue), template=template or Template())
        return stage, recording, Reader(queue, recording.tree)

    def tap(self, number: int = 0) -> Tap:
        return Tap(self.directory / f"{number}.strace")

    def read(self, recording: Recording, reader: Reader, tap: Tap, stage: Stage, token: str = "") -> None:
        """Take over what a program did, of which nothing may be missing."""
        recording.programs.append((len(recording.operations), token))
        recording.operations += reader.read(tap.log)
        tap.log.unlink()
        disk = Disk(recording.tree)
        for operation in recording.operations:
            disk.do(operation)
        rebuilt = disk.image(Choice.of(0, random.Random(0)))
        there = Disk(Tree.of(stage.subject.queue_directory)).image(Choice.of(0, random.Random(0)))
        differ = {path for path in {*rebuilt, *there} if rebuilt.get(path, b"") != there.get(path, b"")}
        assert not differ, f"{recording.name}: {sorted(differ)} are not what the log of system calls says"

    def record(self, scenario: Scenario) -> Recording:
        """A daemon from its start to its end by SIGTERM."""
        template = Template.make(scenario, self.directory / "template")
        stage, recording, reader = self.begin(scenario, template)
        with stage:
            configuration = stage.subject.config.read_text()
            with self.tap() as tap:
                stage.start(wrapper=self.daemon(tap))
                scenario.play(stage)
                stage.settle()
                stage.keeper.close(signal.SIGTERM)
            assert not stage.keeper.restarts, stage.subject.log
            self.read(recording, reader, tap, stage)
            recording.see(stage, configuration)
        return recording

    def record_direct(self) -> Recording:
        """Three sendmails one after another that open the queue themselves, then a daemon that delivers."""
        stage, recording, reader = self.begin(DIRECT, None)
        with stage:
            configuration = stage.subject.config.read_text()
            for number, size in enumerate((0, LARGE, 0), 1):
                with self.tap(number) as tap:
                    stage.client = tap.wrapper(self.strace, beside=False)
                    call = stage.submit(f"ok.{number}@example.org", "no.9@example.org", size=size)
                self.read(recording, reader, tap, stage, call.token)
            with self.tap() as tap:
                stage.start(wrapper=self.daemon(tap))
                stage.settle()
                stage.keeper.close(signal.SIGTERM)
            self.read(recording, reader, tap, stage)
            recording.see(stage, configuration)
        return recording

    def record_asked_again(self) -> Recording:
        """The daemon dies as it syncs the commit of a message. Its client asks the next one, which has nothing to do.

        The client is ours: a sendmail of root would open the queue himself as soon as the daemon is dead.
        """
        template = Template.make(ASKED, self.directory / "template")
        syncs = self._syncs_of_a_message(template)
        stage, recording, reader = self.begin(ASKED, template)
        subject = stage.subject
        subject.configure()  # no smarthost: the next daemon has nothing to write by itself
        with stage:
            configuration = subject.config.read_text()
            with self.tap(1) as tap:
                subject.launch(wrapper=self.daemon(tap, f"fdatasync:signal=KILL:when={syncs + 1}"))
                subject.wait_for("start", after=len(template.events))
                while _answer(stage, submission := _submission(stage)) is not None:
                    pass
                assert subject.process is not None
                subject.process.wait(PATIENCE_S)
            self.read(recording, reader, tap, stage)
            with self.tap(2) as tap:
                stage.start(wrapper=self.daemon(tap))
                answer = _answer(stage, [*submission[:1], frames.encode(frames.ASK, b"")])
                stage.keeper.close()
            assert answer == 0, f"the message whose commit was not synced is not known: {answer}"
            self.read(recording, reader, tap, stage)
            recording.see(stage, configuration)
        return recording

    def _syncs_of_a_message(self, template: Template) -> int:
        """Of the start, and of the first message: it may find a new log, which has a sync more than its commit."""
        with Stage(ASKED, self.directory / "count", template) as stage:
            stage.subject.configure()
            with self.tap() as tap:
                stage.start(wrapper=self.daemon(tap))
                assert _answer(stage, _submission(stage)) == 0
                stage.keeper.close()
            # strace counts in each thread by itself. Each further message is one more of the writer's.
            threads = Counter(line.split()[0] for line in tap.log.read_text().splitlines() if " fdatasync(" in line)
            return max(threads.values(), default=0)


def _submission(stage: Stage) -> list[bytes]:
    """The frames of a sendmail, and its place in the ledger: as one that we kill, for its code is not our business."""
    token, recipient = stage.ledger.next_token(), "ok.1@example.org"
    text, sender = stage.ledger.text(token), f"{token}@example.com"
    argv = ("sendmail", "-i", "-f", sender, recipient)
    now = time.time()
    stage.ledger.calls.append(
        Call(
            token=token,
            uid=os.getuid(),
            argv=argv,
            sender=sender,
            recipients=(recipient,),
            text=text,
            started=now,
            ended=now,
            code=None,
        )
    )
    return [
        frames.encode(frames.HELLO, bytes((frames.VERSION,)) + token.encode().rjust(frames.ID_OCTETS)),
        frames.encode(frames.ARGV, "".join(f"{word}\0" for word in argv).encode()),
        frames.encode(frames.DATA, text),
        frames.encode(frames.END, b""),
    ]


def _answer(stage: Stage, conversation: Sequence[bytes]) -> int | None:
    """The exit code; None when the daemon is gone before it, or knows no such message."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(stage.subject.socket))
        client.sendall(b"".join(conversation))
        answer = b""
        with suppress(ConnectionError):
            while octets := client.recv(4096):
                answer += octets
    return answer[-1] if answer and answer != frames.encode(frames.UNKNOWN) else None


DIRECT = Scenario(name="direct", play=lambda stage: None, new=True)
ASKED = Scenario(name="asked-again", play=lambda stage: None)
RECORDINGS: dict[str, Callable[[Studio], Recording]] = {
    **{name: partial(Studio.record, scenario=scenario) for name, scenario in SCENARIOS.items()},
    "direct": Studio.record_direct,
    "asked-again": Studio.record_asked_again,
}


# -- to cut: in worker processes --


Pair = tuple[int, int]  # index of an operation, variant
Result = tuple[int, int, bytes, list[Violation]]
_loaded: dict[Path, tuple[Recording, Bench, dict[bytes, Found]]] = {}


def _load(file: Path) -> tuple[Recording, Bench, dict[bytes, Found]]:
    if file not in _loaded:
        _loaded.clear()
        recording = load(file)
        place = Path(tempfile.mkdtemp(dir=file.parent, prefix="bench-"))
        calls = {call.token: call for call in recording.calls}
        _loaded[file] = recording, Bench(place, calls, recording.configuration), {}
    return _loaded[file]


def load(file: Path) -> Recording:
    recording = pickle.loads(file.read_bytes())
    assert isinstance(recording, Recording)
    return recording


def build(recording: Recording, disk: Disk, pair: Pair, seed: int) -> Image:
    index, variant = pair
    return disk.image(Choice.of(variant, random.Random(f"{seed}:{recording.name}:{index}:{variant}")))


def cut(file: Path, pairs: Sequence[Pair], seed: int) -> list[Result]:
    """Look at these images of a recording, which are in the order of its operations."""
    recording, bench, memory = _load(file)
    wanted = iter([*pairs, (len(recording.operations), 0)])
    pair = next(wanted)
    results: list[Result] = []
    for index, disk, told in recording.moments():
        while pair[0] == index:
            image = build(recording, disk, pair, seed)
            name = disk.digest(image)
            if (found := memory.get(name)) is None:
                if len(memory) >= MEMORY:
                    memory.clear()
                found = memory[name] = bench.examine(image)
            results.append((*pair, name, judge(found, told, recording.copies(recording.operations[index].at))))
            pair = next(wanted)
    return results


# -- to run --


@dataclass(slots=True, kw_only=True)
class Survey:
    """The images of one recording: which ones, and what came of them."""

    recording: Recording
    file: Path
    seed: int
    images: dict[bytes, Pair] = field(default_factory=dict)
    wrong: list[tuple[Pair, list[Violation]]] = field(default_factory=list)

    def pairs(self, count: int) -> Iterator[list[Pair]]:
        """Rounds of so many. The first has, for whenever something was told, nothing but what was synced."""
        moments = [(index, told.version) for index, _, told in self.recording.moments()]
        chosen = {(index, 1) for (_, before), (index, after) in itertools.pairwise(moments) if before != after}
        chance = random.Random(f"{self.seed}:{self.recording.name}")
        fresh = itertools.count(FIXED)
        for _ in range(ROUNDS):
            spread = itertools.cycle(chance.sample(moments, len(moments)))
            for index, _ in itertools.islice(spread, count):
                chosen.add((index, chance.randrange(FIXED) if chance.random() < 0.35 else next(fresh)))
            yield sorted(chosen)
            chosen = set()

    def run(self, pool: ProcessPoolExecutor, count: int, done: Callable[[Pair, list[Violation]], None]) -> None:
        """Until there are so many different images, or no more are found."""
        for pairs in self.pairs(count):
            before = len(self.images)
            goes = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
            for results in pool.map(cut, itertools.repeat(self.file), goes, itertools.repeat(self.seed)):
                for index, variant, name, wrong in results:
                    if wrong:
                        self.wrong.append(((index, variant), wrong))
                    if wrong or name not in self.images:
                        done((index, variant), wrong)
                    self.images.setdefault(name, (index, variant))
            if len(self.images) >= count or len(self.images) - before < count // 50:
                return


def evidence_until(recording: Recording, at: float, told: Told) -> Template:
    """What had been seen when the power went.

    A submitter without his answer went down with the machine. A message whose end had not come yet never will.
    """
    connections = []
    for connection in copy.deepcopy([one for one in recording.connections if one.opened <= at]):
        connection.chunks = [chunk for chunk in connection.chunks if chunk.at <= at]
        connection.commands = [command for command in connection.commands if command.at <= at]
        connection.closed = min(connection.closed or at, at)
        connections.append(connection)
    attempts = []
    for attempt in copy.deepcopy([one for one in recording.attempts if one.at <= at]):
        attempt.asked = [asked for asked in attempt.asked if asked.at <= at]
        attempt.ended = min(attempt.ended or at, at)
        if attempt.dot is not None and attempt.dot.at > at:
            attempt.dot = None
        if attempt.dot is not None and (attempt.dot.answered_at or at) >= at:
            attempt.dot.answer, attempt.dot.answered_at, attempt.dot.told = None, None, False
        attempts.append(attempt)
    answered = told.accepted | told.refused
    calls = [
        replace(call, ended=min(call.ended, at), code=call.code if call.token in answered else None)
        for call in recording.calls
        if call.started <= at
    ]
    pid = next((stop.pid for stop in recording.stops if stop.at > at), 0)
    return Template(
        calls=calls,
        connections=connections,
        attempts=attempts,
        seen=recording.seen,
        stops=[*(stop for stop in recording.stops if stop.at <= at), Stop(at=at, how="power cut", pid=pid)],
        events=recording.events[: told.events],
        ended=at + 1.0,
    )


def go_on(recording: Recording, pair: Pair, seed: int, directory: Path) -> list[Violation]:
    """A real daemon on the image, and the checker's judgement of all that was ever seen."""
    index, disk, told = next(moment for moment in recording.moments() if moment[0] == pair[0])
    files = directory / "files"
    lay(build(recording, disk, pair, seed), files)
    at = recording.operations[index].at
    scenario = SCENARIOS.get(recording.name, DIRECT)
    template = evidence_until(recording, at, told)
    queue = files / "queue"
    with Stage(scenario, directory / "stage", replace(template, queue=queue if queue.exists() else None)) as stage:
        stage.start()
        stage.settle()
        return stage.judge()


# -- the part --


@dataclass(slots=True, kw_only=True)
class Run:
    """The part as it goes. `place` is in memory, where images are quick to write."""

    part: Part
    size: Size
    strace: str
    directory: Path
    place: Path
    pool: ProcessPoolExecutor

    def all(self) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            files = dict(zip(RECORDINGS, threads.map(self.record, RECORDINGS), strict=True))
            images, started = 0, time.monotonic()
            share = self.size.of(sample=SAMPLE, nightly=NIGHTLY) // len(files) + 1
            surveys = []
            for name, file in files.items():
                survey = self.survey(file, share, partial(self.case, file))
                surveys.append(survey)
                images += len(survey.images)
                self.part.note(f"{name}: {len(survey.images)} images of {len(survey.recording.operations)} operations")
            took = time.monotonic() - started
            self.part.note(f"{images} different images, {images / took:.0f}/s")
            slow = [one for survey in surveys for one in self.sampled(survey)]
            for _ in threads.map(self.slow, slow):
                pass
            self.part.note(f"{len(slow)} of them given to a daemon, and judged by the checker")
        for fault in power_faults.FAULTS:
            self.control(fault)

    def record(self, name: str, fault: str = "") -> Path:
        directory = Path(tempfile.mkdtemp(dir=self.directory))  # a short name: there will be sockets below
        file = self.place / f"{name}{'-' * bool(fault)}{fault.replace(' ', '-')}.recording"
        file.write_bytes(pickle.dumps(RECORDINGS[name](Studio(strace=self.strace, directory=directory, fault=fault))))
        shutil.rmtree(directory)
        return file

    def survey(self, file: Path, count: int, done: Callable[[Pair, list[Violation]], None]) -> Survey:
        survey = Survey(recording=load(file), file=file, seed=self.part.seed)
        survey.run(self.pool, count, done)
        return survey

    def case(self, file: Path, pair: Pair, wrong: list[Violation]) -> None:
        name = f"{file.stem}:{pair[0]}:{pair[1]}"
        self.part.case(name, wrong, again=self.again(file, pair) if wrong else "")

    def again(self, file: Path, pair: Pair) -> str:
        """The command that repeats it, for which the recording is kept."""
        kept = Path(tempfile.gettempdir()) / f"power-cut-{self.part.seed}-{file.name}"
        if not kept.exists():
            shutil.copy(file, kept)
        return f"python -m torture power-cut --seed {self.part.seed} --only {kept}:{pair[0]}:{pair[1]}"

    def sampled(self, survey: Survey) -> list[tuple[Survey, Pair]]:
        """What a daemon is given. In `asked-again` it would have nothing to do but wait."""
        if survey.recording.name == ASKED.name:
            return []
        chance = random.Random(f"{self.part.seed}:{survey.recording.name}")
        count = round(len(survey.images) / SLOW_EACH + 0.3)
        return [(survey, pair) for pair in chance.sample(sorted(survey.images.values()), count)]

    def slow(self, which: tuple[Survey, Pair]) -> None:
        survey, pair = which
        name = f"{survey.recording.name}:{pair[0]}:{pair[1]}"
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        wrong = go_on(survey.recording, pair, survey.seed, directory)
        self.part.case(f"{name}, with a daemon", wrong, again=self.again(survey.file, pair) if wrong else "")
        shutil.rmtree(directory)

    def control(self, fault: str, count: int = CONTROL) -> None:
        """Mail that was accepted must be missing in some image."""
        name = ASKED.name if fault == power_faults.ASKED_AGAIN else "bounce"
        survey = self.survey(self.record(name, fault), count, lambda pair, wrong: None)
        lost = [pair for pair, wrong in survey.wrong if any(one.invariant == "lost" for one in wrong)]
        self.part.control(fault, caught=bool(lost))
        self.part.note(f"{fault}: {len(lost)} of {len(survey.images)} images had lost accepted mail")

    def repeat(self, only: str) -> None:
        """One scenario, recorded anew; or one image of a recording that was kept, by the fast way and the slow one."""
        if only in RECORDINGS:
            file = self.record(only)
            self.survey(file, self.size.of(sample=SAMPLE, nightly=NIGHTLY), partial(self.case, file))
            return
        path, index, variant = only.rsplit(":", 2)
        pair, file = (int(index), int(variant)), self.place / Path(path).name
        shutil.copy(path, file)
        [(*_, wrong)] = cut(file, [pair], self.part.seed)
        self.case(file, pair, wrong)
        self.slow((Survey(recording=load(file), file=file, seed=self.part.seed), pair))


def cannot_trace(strace: str) -> str:
    """Why nothing can be recorded here; "" where it can."""
    if not strace:
        return "strace is missing"
    traced = subprocess.run([strace, "-D", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "strace may not trace here" if traced.returncode else ""


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="power-cut", seed=seed)
    strace = shutil.which("strace") or ""
    if why := cannot_trace(strace):
        part.skip("all", why)
        return part
    for what, reason in LEFT_OUT.items():
        part.skip(what, reason)
    with ExitStack() as stack:
        shared = Path("/dev/shm")
        place = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else directory, prefix="power-cut-"))
        stack.callback(shutil.rmtree, place)
        pool = stack.enter_context(ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")))
        whole = Run(part=part, pool=pool, strace=strace, directory=directory, place=place, size=size)
        if only:
            whole.repeat(only)
        else:
            whole.all()
    return part
