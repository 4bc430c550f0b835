"""Lanes: whose turn it is. Kept in memory, told by the writer after each commit, read from queue.db at start.

A lane is what one user sends to one destination over one route. Turns go round over the routes, on each over the
users that have something due, and for each of them over his destinations, so that ten thousand messages on one route,
of one user, or to one destination, cost another's single message one turn. Within a lane the queue hands out new mail
before old retries.

Every operation is O(log lanes), but for turns that pass over a destination; nothing here grows with the number of
messages.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Container

from pysendmail.records import LaneState

Route = tuple[str, ...]


class _Turns:
    """The due lanes of one route, in rotation."""

    def __init__(self) -> None:
        self.users: OrderedDict[int, OrderedDict[int, None]] = OrderedDict()

    def add(self, lane: LaneState) -> None:
        self.users.setdefault(lane.uid, OrderedDict()).setdefault(lane.id, None)

    def remove(self, lane: LaneState) -> None:
        lanes = self.users.get(lane.uid)
        if lanes is not None:
            lanes.pop(lane.id, None)
            if not lanes:
                del self.users[lane.uid]

    def next(self, fit: Callable[[int], bool], without: Container[int | str]) -> int | None:
        """The fit lane whose turn it is, but for these users; it goes to the back, and so does its user."""
        for uid, lanes in self.users.items():
            for lane in lanes if uid not in without else ():
                if fit(lane):
                    lanes.move_to_end(lane)
                    self.users.move_to_end(uid)
                    return lane
        return None


class Lanes:
    def __init__(self) -> None:
        self._lanes: dict[int, LaneState] = {}
        self._turns: OrderedDict[Route, _Turns] = OrderedDict()
        self._later: list[tuple[float, int]] = []  # heap of due times to come; entries may be out of date
        self._awaited: set[tuple[float, int]] = set()  # what is in that heap: each entry once

    def update(self, states: list[LaneState], now: float) -> None:
        """Take over what the queue says of these lanes. One that stays due keeps its place in the rotation.

        Otherwise who goes on submitting would go to the back each time, and never have a turn.
        """
        for state in states:
            due = state.due_at is not None and state.due_at <= now
            old = self._lanes.pop(state.id, None)
            if old is not None and not (due and old.route == state.route and old.uid == state.uid):
                self._leave(old)
            if state.due_at is None:
                continue
            self._lanes[state.id] = state
            if due:
                self._turns.setdefault(state.route, _Turns()).add(state)
            elif (state.due_at, state.id) not in self._awaited:
                self._awaited.add((state.due_at, state.id))
                heapq.heappush(self._later, (state.due_at, state.id))

    def _leave(self, state: LaneState) -> None:
        turns = self._turns.get(state.route)
        if turns is not None:
            turns.remove(state)
            if not turns.users:
                del self._turns[state.route]

    def promote(self, now: float) -> None:
        """Give a turn to the lanes that have become due."""
        while self._later and self._later[0][0] <= now:
            due_at, lane = self._pop()
            state = self._lanes.get(lane)
            if state is not None and state.due_at == due_at:
                self._turns.setdefault(state.route, _Turns()).add(state)

    def due_routes(self) -> list[Route]:
        """The routes on which something is due, the one whose turn was the longest ago first."""
        return list(self._turns)

    def next(self, route: Route, *, without: Container[int | str] = ()) -> LaneState | None:
        """The lane of this route whose turn it is, but for these users and destinations."""
        turns = self._turns.get(route)
        if turns is None:
            return None
        lane = turns.next(lambda lane: self._lanes[lane].destination not in without, without)
        if lane is None:
            return None
        self._turns.move_to_end(route)
        return self._lanes[lane]

    def next_due_at(self) -> float | None:
        """When the next lane that is not due yet will be."""
        while self._later:
            due_at, lane = self._later[0]
            state = self._lanes.get(lane)
            if state is not None and state.due_at == due_at:
                return due_at
            self._pop()
        return None

    def _pop(self) -> tuple[float, int]:
        entry = heapq.heappop(self._later)
        self._awaited.discard(entry)
        return entry

    def waiting_routes(self, where: Callable[[Route], bool]) -> list[Route]:
        """Routes with anything waiting, due or not, of which `where` holds."""
        return [route for route in {state.route for state in self._lanes.values()} if where(route)]
