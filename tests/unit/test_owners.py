"""How much of each user waits: counted once, right after every commit and every undone step."""

from __future__ import annotations

from pysendmail.owners import Owners, Waiting


class Rows:
    """What stands in the queue of one user, and how often it was counted."""

    def __init__(self, messages: int, octets: int) -> None:
        self.waiting = messages, octets
        self.counted = 0

    def __call__(self, uid: int) -> Waiting:
        self.counted += 1
        return self.waiting


def test_counted_once() -> None:
    """The rows are read when a user is first asked for; what comes and goes afterwards is added up."""
    owners, rows = Owners(), Rows(3, 300)
    assert owners.waiting(1000, rows) == (3, 300)
    owners.add(1000, 1, 50)
    owners.add(1000, -1, -100)
    owners.committed()
    assert owners.waiting(1000, rows) == (3, 250)
    assert rows.counted == 1


def test_nobody_is_counted_unasked() -> None:
    """What is added for a user whom nobody asked for is in the rows already when somebody does."""
    owners = Owners()
    owners.add(1000, 1, 50)
    assert owners.waiting(1000, Rows(1, 50)) == (1, 50)


def test_an_undone_step() -> None:
    """A step that is undone leaves the sums of those before it."""
    owners, rows = Owners(), Rows(3, 300)
    owners.waiting(1000, rows)
    owners.committed()
    owners.add(1000, 1, 50)
    mark = owners.mark()
    owners.add(1000, 1, 7)
    owners.add(1000, 1, 8)
    owners.undo(mark)
    assert owners.waiting(1000, rows) == (4, 350)
    owners.undo()
    assert owners.waiting(1000, rows) == (3, 300)


def test_a_count_in_an_undone_step() -> None:
    """A count that saw what is then undone is made again."""
    owners = Owners()
    mark = owners.mark()
    assert owners.waiting(1000, Rows(9, 900)) == (9, 900)
    owners.undo(mark)
    assert owners.waiting(1000, Rows(8, 800)) == (8, 800)


def test_forgotten() -> None:
    """After a change that is not followed everybody is counted anew, also when the step that made it is undone."""
    owners = Owners()
    owners.waiting(1000, Rows(3, 300))
    owners.committed()
    mark = owners.mark()
    owners.forget()
    assert owners.waiting(1000, Rows(2, 200)) == (2, 200)
    owners.undo(mark)
    assert owners.waiting(1000, Rows(3, 300)) == (3, 300)
