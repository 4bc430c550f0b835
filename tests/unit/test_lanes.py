"""Whose turn it is."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pysendmail.lanes import Lanes
from pysendmail.records import LaneState

ROUTE = ("main",)
NOW = 1000.0


def lane(id: int, uid: int = 0, due_at: float | None = 0.0, route: tuple[str, ...] = ROUTE) -> LaneState:
    return LaneState(id=id, route=route, uid=uid, destination=f"d{id}", due_at=due_at)


def turns(lanes: Lanes, count: int) -> list[int]:
    """The next turns; a lane that has its turn stays due."""
    found = []
    for _ in range(count):
        state = lanes.next(ROUTE)
        assert state is not None
        found.append(state.id)
    return found


def test_round_robin_over_users_then_destinations() -> None:
    """A user with three destinations and one with one have a turn each; the three follow one another."""
    lanes = Lanes()
    lanes.update([lane(1, 100), lane(2, 100), lane(3, 100), lane(4, 200)], NOW)
    assert turns(lanes, 8) == [1, 4, 2, 4, 3, 4, 1, 4]


def test_a_lane_that_stays_due_keeps_its_place() -> None:
    """Who goes on submitting while others have their turns is not put to the back each time."""
    lanes = Lanes()
    lanes.update([lane(1, 100), lane(2, 200), lane(3, 300)], NOW)
    order = []
    for _ in range(9):
        lanes.update([lane(3, 300)], NOW)  # user 300 submits again before each turn
        order += turns(lanes, 1)
    assert order == [1, 2, 3] * 3


def test_due_by_and_by() -> None:
    """A lane gets its turn when it is due, and the loop may sleep until then."""
    lanes = Lanes()
    lanes.update([lane(1, due_at=NOW + 10), lane(2, due_at=NOW + 5)], NOW)
    assert (lanes.next(ROUTE), lanes.next_due_at(), lanes.due_routes()) == (None, NOW + 5, [])
    lanes.promote(NOW + 5)
    assert (turns(lanes, 2), lanes.next_due_at()) == ([2, 2], NOW + 10)
    lanes.update([lane(2, due_at=None), lane(1, due_at=NOW + 20)], NOW + 6)
    assert (lanes.next(ROUTE), lanes.next_due_at(), lanes.due_routes()) == (None, NOW + 20, [])


def test_waiting_routes() -> None:
    """What waits, due or not, is known by route."""
    lanes = Lanes()
    lanes.update([lane(1, due_at=NOW + 10), lane(2, route=("other",))], NOW)
    assert set(lanes.waiting_routes(lambda route: True)) == {ROUTE, ("other",)}
    assert lanes.waiting_routes(lambda route: "other" in route) == [("other",)]


def test_memory_does_not_grow_with_messages() -> None:
    """A thousand commits that leave a lane's due time as it is leave one entry."""
    lanes = Lanes()
    for n in range(1000):
        lanes.update([lane(1, due_at=NOW + 50)], NOW + n / 1000)
    assert len(lanes._later) == 1


class Model(RuleBasedStateMachine):
    """Any order of updates, turns and time against a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.truth: dict[int, LaneState] = {}
        self.now = NOW

    @rule(
        id=st.integers(1, 6),
        wait=st.none() | st.integers(-5, 20),
        route=st.sampled_from([ROUTE, ("other",), ("other", "main")]),
    )
    def update(self, id: int, wait: int | None, route: tuple[str, ...]) -> None:
        due_at = None if wait is None else self.now + wait
        state = lane(id, uid=id % 3, due_at=due_at, route=route)
        self.truth[id] = state
        self.lanes.update([state], self.now)

    @rule(seconds=st.integers(-3, 15))
    def time_goes_on(self, seconds: int) -> None:
        self.now += seconds
        self.lanes.promote(self.now)

    @rule()
    def everybody_has_a_turn(self) -> None:
        """As many turns as users, each another's; as many as lanes times users, and nobody was left out."""
        for route in self.lanes.due_routes():
            due = {s.id for s in self.truth.values() if s.due_at is not None and s.due_at <= self.now}
            found = []
            for _ in range(18):
                state = self.lanes.next(route)
                assert state is not None
                found.append(state)
            assert due & {s.id for s in self.truth.values() if s.route == route} <= {state.id for state in found}
            users = {state.uid for state in found}
            assert {state.uid for state in found[: len(users)]} == users

    @invariant()
    def nothing_due_is_forgotten(self) -> None:
        due = {s.route for s in self.truth.values() if s.due_at is not None and s.due_at <= self.now}
        assert due <= set(self.lanes.due_routes())

    @invariant()
    def the_next_due_time_is_right(self) -> None:
        later = [s.due_at for s in self.truth.values() if s.due_at is not None and s.due_at > self.now]
        found = self.lanes.next_due_at()
        # Earlier does no harm (the clock was set back over a lane that had its turn); later would hold mail up.
        assert not later or (found is not None and found <= min(later)) or self._promoted(min(later))

    def _promoted(self, due_at: float) -> bool:
        """Whether what is due then has a turn already: the clock was set back after that."""
        routes = {s.route for s in self.truth.values() if s.due_at == due_at}
        return routes <= set(self.lanes.due_routes())


TestLanes = Model.TestCase
TestLanes.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
