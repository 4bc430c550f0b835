"""contrib/datasette: Datasette serves a copy of the queue, with pages and charts; a browser draws them.

Datasette and the browser are for `make interop`: it makes a virtual environment with the one, and takes Debian's other.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pysendmail.outcome import Outcome
from rig.browser import WIDTH, Browser
from rig.store import Store, new_message, result

METADATA = Path(__file__).parents[2] / "contrib" / "datasette" / "metadata.json"
DESCRIBED: dict[str, Any] = json.loads(METADATA.read_text())
DASHBOARDS: dict[str, Any] = DESCRIBED["plugins"]["datasette-dashboards"]
CHARTS = [(page, name) for page, dashboard in DASHBOARDS.items() for name in dashboard["charts"]]
VIEWS = ("queue", "history", "bounces")
MARKUP = '<img src="x" onerror="document.title=1">&amp;'
STRANGER = f'"{MARKUP.replace(chr(34), "")}"@example.org'  # anybody may write to and as such an address
DAYS = 5


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a queue in which mail waits, was sent and bounced, these days; nobody may write it."""
    store = Store(tmp_path_factory.mktemp("queue"))
    for day, (number, outcome) in itertools.product(
        reversed(range(DAYS)),
        enumerate([Outcome.SENT, Outcome.BOUNCED, Outcome.DEFERRED, Outcome.SENT]),
    ):
        store.now = time.time() - day * 86400 - 60
        address = STRANGER if number else f"bob{day}@example.org"
        new = replace(new_message(address, sender=address, lifetime=1e6), unit="cron.service", command="cron", pid=2)
        store.do(store.queue.accept, new, submission=None, now=store.now)
        said = result(address, outcome)
        store.settle(store.claim(), replace(said, reply=f"{said.reply} {MARKUP}"))
    store.accept("new@example.com")
    path = tmp_path_factory.mktemp("copy") / "queue.db"
    store.queue.connection.execute("VACUUM INTO ?", (str(path),))
    store.queue.close()
    path.chmod(0o400)
    return path


@pytest.fixture
def database(copy: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def serve(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that serves it, as README.md has it."""
    if os.environ.get("PYSENDMAIL_TEST_CALLERS") != "1":
        pytest.skip("Datasette is fetched and run by `make interop`")
    place = tmp_path_factory.mktemp("datasette")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [f"{place}/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q"]
    done = subprocess.run([*pip, "datasette", "datasette-dashboards"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not install Datasette: {done.stderr.strip()[-500:]}")
    return [f"{place}/bin/datasette", "serve", "--immutable", str(copy), "--metadata", str(METADATA)]


def get(serve: list[str], path: str) -> str:
    done = subprocess.run([*serve, "--get", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{path}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_is_described(database: sqlite3.Connection, view: str) -> None:
    """All that the view has, and nothing else."""
    columns = {row["name"] for row in database.execute(f"PRAGMA table_info({view})")}
    assert set(DESCRIBED["databases"]["queue"]["tables"][view]["columns"]) == columns


@pytest.mark.parametrize(("page", "name"), CHARTS, ids=[f"{page}-{name}" for page, name in CHARTS])
def test_a_query(database: sqlite3.Connection, page: str, name: str) -> None:
    """It reads a view and nothing else, gives rows, and has what its chart shows."""
    chart = DASHBOARDS[page]["charts"][name]
    assert {f"FROM {view}" in chart["query"] for view in VIEWS} == {True, False}
    rows = database.execute(chart["query"]).fetchall()
    fields = {"value"} if chart["library"] == "metric" else set()
    fields |= {one["field"] for one in chart["display"].get("encoding", {}).values()}
    assert rows and fields <= set(rows[0].keys())


@pytest.mark.parametrize(("page", "name"), CHARTS, ids=[f"{page}-{name}" for page, name in CHARTS])
def test_text_from_anywhere_is_no_markup(database: sqlite3.Connection, page: str, name: str) -> None:
    """A table's cells become HTML as they are: who may send or answer must not run anything in an admin's browser."""
    chart = DASHBOARDS[page]["charts"][name]
    if chart["library"] == "vega-lite":  # which makes text of it
        return
    cells = [cell for row in database.execute(chart["query"]) for cell in row if isinstance(cell, str)]
    assert not any("<" in cell for cell in cells)
    assert chart["library"] != "table" or any("&lt;img" in cell and "&amp;amp;" in cell for cell in cells)


@pytest.mark.parametrize("page", DASHBOARDS)
def test_a_layout_is_a_grid(page: str) -> None:
    """Rows of one length, each chart a rectangle in it: a browser drops any other, and lays all charts on one heap."""
    layout = DASHBOARDS[page]["layout"]
    assert len({len(row) for row in layout}) == 1
    for name in DASHBOARDS[page]["charts"]:
        places = {(y, x) for y, row in enumerate(layout) for x, one in enumerate(row) if one == name}
        (top, left), (bottom, right) = min(places), max(places)
        assert places == set(itertools.product(range(top, bottom + 1), range(left, right + 1)))


def test_the_tables_are_out_of_sight(serve: list[str]) -> None:
    """The page of the database shows the views; what may change with any version is hidden."""
    database = json.loads(get(serve, "/queue.json"))
    assert [table["name"] for table in database["tables"] if not table["hidden"]] == []
    assert {view["name"] for view in database["views"]} == set(VIEWS)


@pytest.mark.parametrize("page", DASHBOARDS)
def test_a_page_is_served(serve: list[str], page: str) -> None:
    """Each chart has its place and its title."""
    dashboard = DASHBOARDS[page]
    assert {name for row in dashboard["layout"] for name in row} == set(dashboard["charts"])
    text = get(serve, f"/-/dashboards/{page}")
    assert all(chart["title"] in text for chart in dashboard["charts"].values())


@pytest.fixture(scope="module")
def address(serve: list[str]) -> Iterator[str]:
    """Of a Datasette that answers."""
    with subprocess.Popen([*serve, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on http" in line)
        yield next(word for word in line.split() if word.startswith("http"))
        process.terminate()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


# The chart's name, its place, its bars that can be seen, its rows, and its text.
CARDS = """[...document.querySelectorAll('.dashboard-card')].map(card => {
    const {left, top, right, bottom} = card.getBoundingClientRect()
    const bars = [...card.querySelectorAll('.mark-rect.role-mark path')].map(bar => bar.getBoundingClientRect())
    return {name: card.id.replace('card-', ''), left, top, right, bottom, text: card.innerText,
            bars: bars.filter(bar => bar.width > 1 && bar.height > 1 && bar.left >= left && bar.right <= right).length,
            rows: card.querySelectorAll('tbody tr').length}
})"""
DRAWN = "[...document.querySelectorAll('.dashboard-card-chart')].every(one => one.querySelector('.role-mark, td, p'))"


@pytest.mark.parametrize("page", DASHBOARDS)
def test_a_browser_draws_it(
    browser: Browser, address: str, page: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    """Each chart in a place of its own, none over another, with bars, numbers and rows in it; text stays text."""
    browser.open(f"{address}/-/dashboards/{page}")
    browser.wait_for(DRAWN)
    browser.picture(tmp_path / f"{page}.png")
    cards = browser.ask(CARDS)
    assert {card["name"] for card in cards} == set(DASHBOARDS[page]["charts"])
    for one, other in itertools.combinations(cards, 2):
        beside = one["right"] <= other["left"] or other["right"] <= one["left"]
        assert beside or one["bottom"] <= other["top"] or other["bottom"] <= one["top"], f"{one} lies on {other}"
    for card in cards:
        chart = DASHBOARDS[page]["charts"][card["name"]]
        assert chart["title"] in card["text"] and card["left"] >= 0 and card["right"] <= WIDTH
        rows = database.execute(chart["query"]).fetchall()
        if chart["library"] == "vega-lite":
            assert card["bars"] == len(rows)
        elif chart["library"] == "table":
            assert card["rows"] == len(rows) and MARKUP in card["text"]
        elif card["name"] != "oldest":  # whose number grows meanwhile
            assert f"{rows[0]['value']:g}{chart['display']['suffix']}" in card["text"]
    assert browser.ask("document.querySelectorAll('td img').length") == 0


@pytest.mark.parametrize("view", VIEWS)
def test_a_browser_shows_the_rows(
    browser: Browser, address: str, view: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    """Each view is a table in the browser, with a row for each of its rows."""
    browser.open(f"{address}/queue/{view}")
    browser.picture(tmp_path / f"{view}.png")
    (count,) = database.execute(f"SELECT count(*) FROM {view}").fetchone()
    assert browser.ask("document.querySelectorAll('table.rows-and-columns tbody tr').length") == count
