"""contrib/datasette: Datasette serves a copy of the queue, with pages and charts; a browser draws them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pysendmail.outcome import Outcome
from rig.store import Store, new_message

METADATA = Path(__file__).parents[2] / "contrib" / "datasette" / "metadata.json"
DESCRIBED: dict[str, Any] = json.loads(METADATA.read_text())
DASHBOARDS: dict[str, Any] = DESCRIBED["plugins"]["datasette-dashboards"]
CHARTS = [(page, name) for page, dashboard in DASHBOARDS.items() for name in dashboard["charts"]]
VIEWS = ("queue", "history", "bounces")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a queue in which mail waits, was sent and bounced; nobody may write it."""
    store = Store(tmp_path_factory.mktemp("queue"))
    for number, outcome in enumerate([Outcome.SENT, Outcome.BOUNCED, Outcome.DEFERRED, Outcome.SENT]):
        new = replace(new_message(f"bob{number}@example.org"), unit="cron.service", command="cron", pid=number + 1)
        store.do(store.queue.accept, new, submission=None, now=store.now)
        store.settle(store.claim(), outcome)
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
def serve(copy: Path) -> list[str]:
    """The command that serves it."""
    for module in ("datasette", "datasette_dashboards"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install datasette datasette-dashboards")
    return [sys.executable, "-m", "datasette", "serve", "--immutable", str(copy), "--metadata", str(METADATA)]


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
    # The clock of this queue is the tests'.
    rows = database.execute(chart["query"].replace("date('now', '-30 days')", "'2000'")).fetchall()
    fields = {"value"} if chart["library"] == "metric" else set()
    fields |= {one["field"] for one in chart["display"].get("encoding", {}).values()}
    assert rows and fields <= set(rows[0].keys())


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
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("there is no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def address(browser: str, serve: list[str]) -> Iterator[str]:
    """Of a Datasette that answers."""
    with subprocess.Popen([*serve, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on http" in line)
        yield next(word for word in line.split() if word.startswith("http"))
        process.terminate()


@pytest.mark.parametrize("page", DASHBOARDS)
def test_a_browser_draws_it(browser: str, address: str, page: str, tmp_path: Path) -> None:
    """Headless Chromium: a drawing for each chart that is one."""
    options = ["--headless", "--no-sandbox", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command = [browser, *options, f"{address}/-/dashboards/{page}"]
    drawn = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    charts = [chart for chart in DASHBOARDS[page]["charts"].values() if chart["library"] == "vega-lite"]
    assert drawn.count("<canvas") + drawn.count("<svg") >= len(charts)
