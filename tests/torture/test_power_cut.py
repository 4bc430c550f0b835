"""Promise 1 under loss of power, at a few hundred moments of one daemon and one command; all of it: make torture."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from rig import debian
from torture import power_cut, power_faults
from torture.disk import Choice, Disk
from torture.io_log import ROOT, Entries, Made, Operation, Reader, Sync, Tree, Unmodelled, Write
from torture.power_cut import Run
from torture.report import Part, Size

IMAGES = 120
SEED = 1


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    strace = debian.program("strace", "strace")
    if why := power_cut.cannot_trace(strace):
        pytest.skip(why)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        part = Part(name="power-cut", seed=SEED)
        yield Run(part=part, size=Size(), strace=strace, directory=tmp_path, place=tmp_path, pool=pool)


def test_promise_1_what_was_accepted_survives_loss_of_power(run: Run) -> None:
    """Mail that is sent and mail that bounces: whatever was told before the power went is true after it.

    A daemon with synchronous=NORMAL would have lost some of it.
    """
    file = run.record("bounce")
    survey = run.survey(file, IMAGES, lambda pair, wrong: None)
    assert not survey.wrong, survey.wrong[:3]
    assert len(survey.images) >= IMAGES
    run.control("synchronous=NORMAL", IMAGES // 4)
    assert run.part.controls == {"synchronous=NORMAL": True}


def test_new_queue_is_not_lost_with_its_directory(run: Run) -> None:
    """Where the queue's directory had to be made, its name is as durable as the first mail in it."""
    survey = run.survey(run.record("submit"), IMAGES // 2, lambda pair, wrong: None)
    assert not survey.wrong, survey.wrong[:3]


@pytest.mark.parametrize("fault", power_faults.FAULTS)
def test_faults_can_still_be_put_in(fault: str) -> None:
    """What a control breaks is there to be broken: the names that it replaces exist."""
    names = {
        "synchronous=NORMAL": (power_faults.store, "_set_up"),
        "answer before commit": (power_faults.writer.Writer, "_transact"),
        power_faults.ASKED_AGAIN: (power_faults.store, "_make_durable"),
    }
    owner, name = names[fault]
    assert callable(getattr(owner, name))


def test_log_with_what_no_power_cut_can_be_played_for_is_refused(tmp_path: Path) -> None:
    """A file that is appended to wherever its end is. A file without a name is in no image, and in no way."""
    file, queue = (f"3</{''.join(map(_hex, name))}>" for name in ("x/queue/file", "x/queue"))

    def read(*lines: str) -> list[Operation]:
        log = tmp_path / "log"
        log.write_text("".join(f"{line}\n" for line in lines))
        return Reader(Path("/x/queue"), Tree(directories={ROOT: {"queue": 1}, 1: {}})).read(log)

    made = f'1 1.0 openat(AT_FDCWD<{_hex("/")}>, "{_hexes("/x/queue/file")}", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = {file}'
    write = f'1 2.0 pwrite64({file}, "{_hexes("abc")}", 3, 0) = 3'
    sync = (f"2 1.5 fdatasync({file} <unfinished ...>", "2 3.0 <... fdatasync resumed>) = 0")
    assert [type(one) for one in read(made, write, *sync)] == [Entries, Write, Sync]
    with pytest.raises(Unmodelled, match="O_APPEND"):
        read(made.replace("O_CREAT", "O_CREAT|O_APPEND"))
    (*_, synced) = read(made, sync[0], write, sync[1])
    assert isinstance(synced, Sync) and synced.but == 1  # of what was written meanwhile nobody knows
    unnamed = f'1 1.0 openat(AT_FDCWD<{_hex("/")}>, "{_hexes("/x/queue")}", O_RDWR|O_TMPFILE, 0600) = {queue}'
    assert [type(one) for one in read(unnamed, write)] == [Write]


def _hex(character: str) -> str:
    return f"\\x{ord(character):02x}"


def _hexes(text: str) -> str:
    return "".join(map(_hex, text))


def _disk(*operations: Write | Sync | Made | Entries) -> Disk:
    disk = Disk(Tree())
    for operation in operations:
        disk.do(operation)
    return disk


NEW = (
    Made(at=0, directory=1),
    Entries(at=0, directory=ROOT, names=(("queue", 1),)),
    Sync(at=0, node=ROOT),
    Entries(at=0, directory=1, names=(("file", 2),)),
)


def test_disk_keeps_what_was_synced() -> None:
    """After fsync of the file and of its directory, both are in every image."""
    disk = _disk(*NEW, Write(at=0, file=2, offset=0, octets=b"x" * 2000), Sync(at=0, node=2), Sync(at=0, node=1))
    for variant in range(30):
        image = disk.image(Choice.of(variant, random.Random(variant)))
        assert image == {"queue": None, "queue/file": b"x" * 2000}


def test_disk_may_lose_what_was_written_while_it_was_synced() -> None:
    """One thread writes what another syncs: only what was there before the sync began is in every image."""
    old, new = (Write(at=0, file=2, offset=at, octets=octets * 512) for at, octets in ((0, b"o"), (512, b"n")))
    disk = _disk(*NEW, Sync(at=0, node=1), old, new, Sync(at=0, node=2, but=1))
    images = {disk.image(Choice.of(variant, random.Random(variant)))["queue/file"] for variant in range(30)}
    assert {b"o" * 512, b"o" * 512 + b"n" * 512} < images
    assert all(image is not None and image.startswith(b"o" * 512) for image in images)
    disk.do(Sync(at=0, node=2, but=1))  # another, which began before that one ended
    assert b"o" * 512 in {disk.image(Choice.of(variant, random.Random(variant)))["queue/file"] for variant in range(30)}


def test_disk_loses_a_name_whose_directory_was_not_synced() -> None:
    """fsync of a file keeps its octets, not its name: some images have it, and some do not."""
    disk = _disk(*NEW, Write(at=0, file=2, offset=0, octets=b"x" * 2000), Sync(at=0, node=2))
    images = [disk.image(Choice.of(variant, random.Random(variant))) for variant in range(30)]
    assert {image.get("queue/file") for image in images} == {None, b"x" * 2000}


def test_disk_tears_what_was_not_synced_at_sectors() -> None:
    """A write that was not synced is there, missing, torn at multiples of 512 octets, or zeros."""
    disk = _disk(*NEW, Sync(at=0, node=1), Write(at=0, file=2, offset=100, octets=b"x" * 2000))
    found = set()
    for variant in range(200):
        content = disk.image(Choice.of(variant, random.Random(variant)))["queue/file"]
        assert content is not None
        edges = {position + 1 for position, (one, other) in enumerate(itertools.pairwise(content)) if one != other}
        assert all(edge == 100 or edge % 512 == 0 for edge in edges), edges
        found.add(content)
    assert {b"", bytes(2100), bytes(100) + b"x" * 2000} < found
