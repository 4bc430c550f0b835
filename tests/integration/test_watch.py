"""The alarm's files and command as they are on disk and in processes, without a daemon around them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pysendmail import watch
from pysendmail.alarms import Sight
from pysendmail.config import Alarm, Config
from pysendmail.events import Events, Lines
from pysendmail.watch import Watch
from rig.store import config

FULL = Sight(relays={}, oldest_at=None, reserve_used=True, damaged=False)


class Eye:
    """What is seen, and word that a turn has ended: the next one looks."""

    def __init__(self, config: Config) -> None:
        self._looks: asyncio.Queue[None] = asyncio.Queue()
        self.log = io.StringIO()
        self.watch = Watch(config, look=self._look, events=Events(Lines(self.log)))

    async def _look(self) -> Sight:
        self._looks.put_nowait(None)
        return FULL

    async def turn(self) -> None:
        """From now on until a whole turn has passed."""
        while not self._looks.empty():
            self._looks.get_nowait()
        for _ in range(2):
            self.watch.wake()
            await self._looks.get()


@asynccontextmanager
async def watching(config: Config) -> AsyncIterator[Eye]:
    eye = Eye(config)
    task = asyncio.create_task(eye.watch.run())
    try:
        await eye.turn()
        yield eye
    finally:
        task.cancel()
        await asyncio.wait((task,))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE_S", 0.0)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)


async def test_a_notice_is_where_the_configuration_says_and_nowhere_else(tmp_path: Path) -> None:
    """A reload, or a start with another configuration, takes the old one away; what is not ours there stays."""

    def settings(name: str) -> Config:
        return config(tmp_path, alarm=Alarm(file=str(tmp_path / name) if name else ""))

    def notices() -> set[str]:
        return {name for name in ("one", "two", "three") if (tmp_path / name).exists()}

    async with watching(settings("one")) as eye:
        assert notices() == {"one"}
        eye.watch.configure(settings("two"))
        await eye.turn()
        assert notices() == {"two"}
    assert notices() == {"two"}  # while no daemon runs
    async with watching(settings("three")) as eye:
        assert notices() == {"three"}
        (tmp_path / "three").write_text("somebody else's\n")
        eye.watch.configure(settings(""))
        await eye.turn()
        assert notices() == {"three"}
        assert "unwritten" not in eye.log.getvalue()


async def test_a_command_that_leaves_something_in_the_background_has_told(tmp_path: Path) -> None:
    """Its child holds its output, and it has ended all the same: the alarm is told, and not once more."""
    told: dict[str, Any] = {"command": ("/bin/sh", "-c", f"cat >{tmp_path}/told; setsid sleep 60 &")}
    async with watching(config(tmp_path, alarm=Alarm(**told))) as eye:
        assert "state=raised" in eye.log.getvalue()
        assert "state=untold" not in eye.log.getvalue()
    assert "raised reserve" in (tmp_path / "told").read_text()
