"""The harness of `make bench` runs: its C programs, its measures for our own side, its page. No figure is judged."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

from rig.instance import BIN, Instance
from sidebyside import tools
from sidebyside.figures import Figure, Figures
from sidebyside.goals import GOALS
from sidebyside.measures import PARTS, SMALL, Bench, Size
from sidebyside.mta import RECIPIENT, Mta
from sidebyside.place import Place
from sidebyside.profiles import costs
from sidebyside.report import chart, page
from sidebyside.traffic import Sink, submit

TINY = Size(
    rounds=1,
    singles=1,
    submissions=2,
    bulk=4,
    drains={SMALL: 4},
    drain_s=30.0,
    backlogs=(0, 3),
    million=5,
)
NEED_A_ROOT = {"slow-disk"}


class Here(Place):
    """This very machine instead of a root of its own."""

    quiet_s = 0.01

    def __init__(self, directory: Path, built: Path) -> None:
        self._tools = built
        self.load_program = str(built / "load")
        self.scratch = str(directory)
        self.instance = Instance(directory)
        with Sink(built / "sink", 0, port=0) as sink:  # for a port that is free
            self.port = sink.port

    def path(self, inside: str) -> Path:
        return Path(inside)

    def command(self, *argv: str, user: str = "root", environment: Mapping[str, str] | None = None) -> list[str]:
        return list(argv)

    def sink(self, round_trip_ms: int = 0) -> Sink:
        return Sink(self._tools / "sink", round_trip_ms, port=self.port)

    def stop(self) -> None:
        self.instance.__exit__()

    def inside(self) -> list[int]:
        assert self.instance.process is not None
        return [self.instance.process.pid]

    def cpu_s(self) -> float:
        return sum(os.times()[2:4])


class Ours(Mta):
    """As a test installs it."""

    who = "pysendmail"
    place: Here
    most_queued = TINY.million

    def install(self) -> None:
        instance = self.place.instance
        main = {"name": "main", "host": "127.0.0.1", "port": self.place.port}
        instance.configure(smarthosts=[main])
        self.sendmail = (str(BIN / "sendmail"), "-C", str(instance.config), "-i", RECIPIENT)
        self.mailq = (str(BIN / "mailq"), "-C", str(instance.config))
        self.ways = {"socket": ("unix", str(instance.socket)), "-bs": ("pipe", *self.sendmail[:3], "-bs")}

    def start(self) -> None:
        self.place.instance.start()

    def release(self) -> None:
        self.place.instance.pysendmail("flush")

    def wipe(self) -> None:
        shutil.rmtree(self.place.instance.queue_directory)

    def fill(self, count: int, octets: int) -> None:
        self.place.load("unix", self.place.message(octets), count, 2, str(self.place.instance.socket))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("cc is missing: apt-get install gcc libc6-dev")
    return tools.build(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    return Figures(tmp_path / "figures.jsonl")


@pytest.fixture
def bench(built: Path, tmp_path: Path, figures: Figures) -> Bench:
    directory = tmp_path / "instance"
    directory.mkdir()
    ours = Ours(Here(directory, built))
    ours.install()
    return Bench(mtas=[ours], size=TINY, figures=figures)


@pytest.mark.parametrize("part", [name for name in PARTS if name not in NEED_A_ROOT])
def test_a_part_measures_something_of_ours(bench: Bench, figures: Figures, part: str) -> None:
    """Each part comes to its end, and leaves figures of its own."""
    PARTS[part](bench)
    measures = figures.measures(part)
    assert measures
    assert all(figures.median(what, "pysendmail") is not None for what in measures)


def test_the_sink_answers_after_the_round_trip(built: Path, tmp_path: Path) -> None:
    """A message takes at least the greeting's and five replies' delays, and is counted with its octets."""
    message = tmp_path / "message"
    message.write_text("Subject: x\n\nhello\n")
    with Sink(built / "sink", 20, port=0) as sink:
        done = submit([str(built / "load")], "smtp", str(message), 1, 1, str(sink.port))
        taken = sink.wait(1)
    assert done.span_s >= 4 * 0.02  # MAIL, RCPT, DATA, the dot
    assert (taken.messages, taken.connections, taken.most_at_once) == (1, 1, 1)
    assert taken.octets == len("Subject: x\r\n\r\nhello\r\n.\r\n")


def test_the_page_says_what_is_met_and_what_was_not_measured(figures: Figures) -> None:
    """Every number to reach has its row; ratios are of medians; the chart is a picture that a browser can read."""
    figures.begin("submit", "here, now")
    for who, times in (("pysendmail", (10.0, 12.0, 50.0)), ("postfix", (9.0, 10.0, 11.0))):
        for number, value in enumerate(times):
            figures.add(Figure(what="submit/wall ms", who=who, value=value, round=number))
    text = page(figures)
    assert "| submit, median wall: Python stub / Postfix | ≤ 1.2 | 1.20 | met |" in text
    assert text.count("not measured") == len(GOALS) - 1
    assert "| wall ms | 12 (10–50) | 10 (9–11) | 1.20 |" in text
    assert "here, now" in text
    assert ET.fromstring(chart(figures)).tag.endswith("svg")


def test_a_part_that_is_run_again_replaces_its_figures(figures: Figures, tmp_path: Path) -> None:
    """The others stay, also in the file."""
    for part in ("submit", "drain", "submit"):
        figures.begin(part, part)
        figures.add(Figure(what=f"{part}/x", who="dma", value=1.0, round=0))
    again = Figures(tmp_path / "figures.jsonl")
    assert [again.spread(f"{part}/x", "dma") for part in ("submit", "drain")] == [
        figures.spread("submit/x", "dma"),
        figures.spread("drain/x", "dma"),
    ]
    assert len((tmp_path / "figures.jsonl").read_text().splitlines()) == 4


def test_a_profile_gives_a_cost_to_the_innermost_function_of_ours() -> None:
    """With the function of somebody else's where most of it is spent."""
    ours, run = "serve (pysendmail/daemon.py:1)", "run (pysendmail/store.py:2)"
    folded = f"main;{ours};select (selectors.py:3) 6\nwriter;{ours};{run};{run} 2\nidle;wait (threading.py:9) 5\n"
    assert costs(folded) == {"daemon.serve (mostly select)": 75.0, "store.run": 25.0}


def test_a_thread_that_waits_costs_nothing() -> None:
    """Also where py-spy says that it is at work."""
    source = (Path(__file__).parents[2] / "pysendmail" / "writer.py").read_text().splitlines()
    number = next(number for number, line in enumerate(source, 1) if "_steps.get(timeout=" in line)
    assert costs(f"writer;_work (pysendmail/writer.py:{number}) 9\nwriter;_work (pysendmail/writer.py:1) 1\n") == {
        "writer._work": 100.0
    }
